"""As much of an NBD client as it takes to write a block, or to see that a server answers."""

import socket
import struct

OPTION_MAGIC, REPLY_MAGIC = 0x49484156454F5054, 0x0003E889045565A9
REQUEST_MAGIC, ANSWER_MAGIC = 0x25609513, 0x67446698
GO, ACKNOWLEDGED, READ, WRITE, DISCONNECT = 7, 1, 0, 1, 2


class Refused(OSError):
    """The server does not have the export, or failed a request."""


class Client:
    """A connection to an export on a unix socket, for the `with` block that it is made in; one request at a time."""

    def __init__(self, path, name):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        try:
            self.socket.connect(path)
            self.negotiate(name.encode())
        except BaseException:
            self.socket.close()
            raise

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, DISCONNECT, 0, 0, 0))
        except OSError:
            pass
        self.socket.close()

    def received(self, count):
        """Exactly so many bytes."""
        data = b""
        while len(data) < count:
            piece = self.socket.recv(count - len(data))
            if not piece:
                raise Refused("the server hung up")
            data += piece
        return data

    def negotiate(self, name):
        """Takes the export, without anything that it offers besides."""
        self.received(18)
        data = struct.pack(">I", len(name)) + name + struct.pack(">H", 0)
        self.socket.sendall(struct.pack(">IQII", 3, OPTION_MAGIC, GO, len(data)) + data)
        while True:
            magic, _, kind, count = struct.unpack(">QIII", self.received(20))
            words = self.received(count)
            if magic != REPLY_MAGIC or kind & 1 << 31:
                raise Refused(f"no export {name}: {words!r}")
            if kind == ACKNOWLEDGED:
                return

    def request(self, kind, offset, count, data=b""):
        """Sends a request and waits for the answer."""
        self.socket.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, kind, 0, offset, count) + data)
        magic, error, _ = struct.unpack(">IIQ", self.received(16))
        if magic != ANSWER_MAGIC or error:
            raise Refused(f"a request at {offset} failed with {error}")

    def write(self, offset, data):
        """Writes bytes."""
        self.request(WRITE, offset, len(data), data)

    def read(self, offset, count):
        """Reads bytes."""
        self.request(READ, offset, count)
        return self.received(count)
