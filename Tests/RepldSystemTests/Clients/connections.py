"""Many clients at once, and clients that misbehave: connections.py SOCKET EXPORT BYTES BLOCK-BYTES."""
import os
import socket
import struct
import sys

import nbd
from checks import check, connect, finish

socket_path, export, size, block = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
MIB = 1 << 20
OPTION_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x3E889045565A9
ABORT, LIST, INFO, GO = 2, 3, 6, 7
ACK, ERROR_UNSUPPORTED, ERROR_INVALID, ERROR_UNKNOWN, ERROR_TOO_BIG = 1, 0x80000001, 0x80000003, 0x80000006, 0x80000009


class Raw:
    """A client that sends whatever it is told to, well formed or not."""

    def __init__(self):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(20)
        self.socket.connect(socket_path)
        magic, options, flags = struct.unpack(">QQH", self.receive(18))
        check(magic == 0x4E42444D41474943 and options == OPTION_MAGIC, "the greeting has both magic numbers")
        check(flags & 3 == 3, "the server is fixed newstyle and can leave the zeroes out")
        self.socket.sendall(struct.pack(">I", 3))

    def receive(self, count):
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise EOFError(f"the server closed after {len(data)} of {count} bytes")
            data += piece
        return data

    def option(self, number, payload=b"", length=None):
        length = len(payload) if length is None else length
        self.socket.sendall(struct.pack(">QII", OPTION_MAGIC, number, length) + payload)

    def reply(self):
        magic, number, kind, length = struct.unpack(">QIII", self.receive(20))
        check(magic == REPLY_MAGIC, "a reply to an option has its magic number")
        return number, kind, self.receive(length)

    def last_reply(self):
        while True:
            _, kind, _ = self.reply()
            if kind == ACK or kind & 0x80000000:
                return kind

    def go(self, name=export):
        encoded = name.encode()
        self.option(GO, struct.pack(">I", len(encoded)) + encoded + struct.pack(">H", 0))
        return self.last_reply()

    def request(self, kind, offset, length, flags=0, cookie=7, magic=0x25609513, payload=b""):
        self.socket.sendall(struct.pack(">IHHQQI", magic, flags, kind, cookie, offset, length) + payload)

    def simple_reply(self):
        magic, error, cookie = struct.unpack(">IIQ", self.receive(16))
        check(magic == 0x67446698 and cookie == 7, "a simple reply has its magic number and the request's cookie")
        return error

    def is_closed(self):
        """Whether the server closes, whatever it may have to say before."""
        try:
            while self.socket.recv(4096):
                pass
            return True
        except ConnectionResetError:
            return True
        except socket.timeout:
            return False

    def close(self):
        self.socket.close()


def still_serves(words):
    handle = connect(socket_path, export)
    check(len(handle.pread(block, 0)) == block, f"the volume is served after {words}")
    handle.shutdown()


def options():
    raw = Raw()
    raw.option(0x7ABC, b"what is this")
    check(raw.last_reply() == ERROR_UNSUPPORTED, "an unknown option is answered with ERR_UNSUP")
    raw.option(INFO, struct.pack(">I", 1 << 31) + b"short")
    check(raw.last_reply() == ERROR_INVALID, "an INFO whose name is longer than the option is answered with ERR_INVALID")
    check(raw.go("no-such-volume") == ERROR_UNKNOWN, "an unknown export is answered with ERR_UNKNOWN")
    raw.option(LIST)
    names = []
    while True:
        _, kind, payload = raw.reply()
        if kind != 2:
            break
        names.append(payload[4:4 + struct.unpack(">I", payload[:4])[0]].decode())
    check(kind == ACK and export in names, f"the list has the volume: {names}")
    check(raw.go() == ACK, "after all that the export is entered")
    raw.request(0, 0, block)
    check(raw.simple_reply() == 0 and len(raw.receive(block)) == block, "and read")
    raw.close()
    raw = Raw()
    raw.option(ABORT)
    check(raw.is_closed(), "ABORT ends the connection")
    raw.close()
    raw = Raw()
    # The length is a promise of two gigabytes: refused at once or cut off, and never waited for.
    raw.option(GO, b"x" * 64, length=0x7FFFFFFF)
    try:
        check(raw.last_reply() in (ERROR_TOO_BIG, ERROR_INVALID), "an oversized option is refused")
    except (EOFError, ConnectionResetError):
        pass
    except socket.timeout:
        check(False, "an oversized option is waited for")
    raw.close()
    still_serves("an oversized option")


def requests():
    raw = Raw()
    check(raw.go() == ACK, "the export is entered")
    raw.request(99, 0, block)
    check(raw.simple_reply() == 22, "an unknown command is answered with EINVAL")
    raw.request(0, 0, block, flags=0x8000)
    check(raw.simple_reply() == 22, "an unknown flag is answered with EINVAL")
    raw.request(0, 0, block)
    check(raw.simple_reply() == 0 and len(raw.receive(block)) == block, "and the connection goes on")
    raw.request(0, 0, block, magic=0x12345678)
    check(raw.is_closed(), "a request without its magic number ends the connection")
    raw.close()
    still_serves("a request without its magic number")


def disconnects():
    before = connect(socket_path, export)
    marker = os.urandom(MIB)
    before.pwrite(marker, 0)
    for sent in (0, 1, block, MIB - 1):
        raw = Raw()
        check(raw.go() == ACK, "the export is entered")
        raw.request(1, 4 * MIB, MIB, payload=os.urandom(sent))
        raw.close()
        check(before.pread(MIB, 0) == marker, f"a client that went after {sent} bytes of a write harms nobody")
    raw = Raw()
    check(raw.go() == ACK, "the export is entered")
    for index in range(64):
        raw.request(0, index * MIB % size, MIB)
    raw.close()
    check(before.pread(MIB, 0) == marker, "a client that asked for 64 MiB and went without reading harms nobody")
    for count in range(1, 20):
        partial = socket.socket(socket.AF_UNIX)
        partial.connect(socket_path)
        partial.sendall(b"\0" * count)
        partial.close()
    before.shutdown()
    still_serves("clients that went in the middle of everything")


def many():
    handles = [connect(socket_path, export) for _ in range(24)]
    share = size // len(handles) // MIB * MIB
    pieces = [os.urandom(MIB) for _ in handles]
    pending = []
    for index, handle in enumerate(handles):
        for step in range(4):
            buffer = nbd.Buffer.from_bytearray(bytearray(pieces[index][step * MIB // 4:(step + 1) * MIB // 4]))
            pending.append((handle, handle.aio_pwrite(buffer, index * share + step * MIB // 4), buffer))
    for handle, cookie, _ in pending:
        while not handle.aio_command_completed(cookie):
            handle.poll(-1)
    if handles[0].can_multi_conn():
        handles[0].flush()
    for index in range(len(handles)):
        reader = handles[(index + 1) % len(handles)]
        check(reader.pread(MIB, index * share) == pieces[index], f"what client {index} wrote is read by its neighbour")
    for handle in handles:
        handle.shutdown()


options()
requests()
disconnects()
many()
finish()
