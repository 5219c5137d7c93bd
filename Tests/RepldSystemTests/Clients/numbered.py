"""Numbered writes, many at once, and the memory of which were acknowledged.

numbered.py fill FILE MODEL BLOCK-COUNT                   every block of a file gets its number; the model knows them
numbered.py write SOCKET EXPORT MODEL SEED COUNT PID N    COUNT writes, or until the server goes; kills it then if PID is
                                                          not 0; to the first N blocks only if N is not
numbered.py check SOCKET EXPORT MODEL                     every block holds a write that it may hold

The model lists, for each block, the writes that it may hold: the last one that was acknowledged and, after a server that
went away, the one that was under way then. After a successful check each block has one again.
"""
import errno
import json
import os
import random
import signal
import struct
import sys
import time

import nbd
from checks import check, connect, finish

BLOCK = 4096
DEPTH = 16
MIB = 1 << 20
# What libnbd says of requests whose server has gone: ENOTCONN, ESHUTDOWN, ECONNRESET, EPIPE.
GONE = (107, 108, 104, 32)


def content(number, block):
    """The bytes of a block as write `number` leaves it; number 0 is zeroes."""
    return bytes(BLOCK) if number == 0 else struct.pack("<QQ", number, block) * (BLOCK // 16)


def load(path):
    with open(path) as file:
        return json.load(file)


def save(path, model):
    with open(path + ".new", "w") as file:
        json.dump(model, file)
    os.rename(path + ".new", path)


def fill(path, model_path, block_count):
    numbers = list(range(1, block_count + 1))
    with open(path, "r+b") as file:
        for block, number in enumerate(numbers):
            file.write(content(number, block))
        file.flush()
        os.fsync(file.fileno())
    save(model_path, {"next": block_count + 1, "blocks": [[number] for number in numbers]})


class Writer:
    def __init__(self, socket_path, export, model, seed, limit):
        self.model = model
        self.blocks = model["blocks"]
        self.limit = limit or len(self.blocks)
        self.random = random.Random(seed)
        self.handle = connect(socket_path, export)
        self.busy = set()
        self.acknowledged = 0
        self.gone = False

    def extent(self):
        """Half of the writes go to a sixteenth of the volume, so that blocks are written again and again."""
        count = self.random.choice((1, 1, 1, 2, 4, 16))
        limit = self.limit - count
        first = self.random.randrange(limit + 1 if self.random.random() < 0.5 else max(1, limit // 16))
        return range(first, first + count)

    def submit(self):
        extent = self.extent()
        # Two writes of one block at once could end in either order.
        if any(block in self.busy for block in extent):
            return
        is_zero = self.random.random() < 0.05
        number = 0 if is_zero else self.model["next"]
        self.model["next"] += 1
        before = [self.blocks[block] for block in extent]
        for block in extent:
            self.busy.add(block)
            self.blocks[block] = self.blocks[block] + [number]
        flags = nbd.CMD_FLAG_FUA if self.random.random() < 0.05 else 0

        def completed(result):
            error = result.value
            self.busy.difference_update(extent)
            if error == 0:
                self.acknowledged += 1
                for block in extent:
                    self.blocks[block] = [number]
            elif error in GONE:
                self.gone = True
            else:
                check(False, f"write {number} at block {extent.start} failed: {os.strerror(error)}")
                for block, numbers in zip(extent, before):
                    self.blocks[block] = numbers + [number]
            return 1

        offset, length = extent.start * BLOCK, len(extent) * BLOCK
        if is_zero:
            self.handle.aio_zero(length, offset, completed, flags)
        else:
            data = bytearray(b"".join(content(number, block) for block in extent))
            self.handle.aio_pwrite(nbd.Buffer.from_bytearray(data), offset, completed, flags)

    def flush(self):
        def completed(result):
            error = result.value
            self.gone = self.gone or error in GONE
            check(error == 0 or error in GONE, f"a flush failed: {os.strerror(error)}")
            return 1

        self.handle.aio_flush(completed)

    def run(self, count, victim):
        try:
            while not self.gone and self.acknowledged < count:
                while self.handle.aio_in_flight() < DEPTH:
                    self.submit()
                if self.random.random() < 0.005:
                    self.flush()
                self.handle.poll(1000)
            if victim and not self.gone:
                end = time.monotonic() + self.random.random() * 0.002
                while time.monotonic() < end:
                    pass
                os.kill(victim, signal.SIGKILL)
            while not self.gone and self.handle.aio_in_flight() > 0:
                self.handle.poll(1000)
        except nbd.Error as error:
            # The server is gone; what was under way stays listed with what was there before.
            # libnbd says EINVAL of what is asked of a connection that has ended, well or not.
            has_ended = self.handle.aio_is_closed() or self.handle.aio_is_dead()
            is_over = error.errnum in GONE or (error.errnum == errno.EINVAL and has_ended)
            check(is_over, f"the connection broke with {error}")
            self.gone = True


def write(socket_path, export, model_path, seed, count, victim, limit):
    model = load(model_path)
    writer = Writer(socket_path, export, model, seed, limit)
    writer.run(count, victim)
    save(model_path, model)
    print(f"{writer.acknowledged} writes acknowledged, the server {'is gone' if writer.gone else 'answers'}")


def verify(socket_path, export, model_path):
    model = load(model_path)
    handle = connect(socket_path, export)
    blocks = model["blocks"]
    size = len(blocks) * BLOCK
    check(handle.get_size() == size, f"the volume has {handle.get_size()} bytes, not {size}")
    lost = []
    for start in range(0, min(size, handle.get_size()), MIB):
        data = handle.pread(min(MIB, size - start), start)
        for offset in range(0, len(data), BLOCK):
            block = (start + offset) // BLOCK
            found = data[offset:offset + BLOCK]
            held = [number for number in blocks[block] if content(number, block) == found]
            if held:
                blocks[block] = held[-1:]
            else:
                lost.append((block, struct.unpack_from("<QQ", found), blocks[block]))
    check(not lost, f"{len(lost)} blocks hold what they may not; block, found, may hold: {lost[:4]}")
    handle.shutdown()
    if not lost:
        save(model_path, model)
        print(f"all {len(blocks)} blocks are as they may be")


mode, arguments = sys.argv[1], sys.argv[2:]
if mode == "fill":
    fill(arguments[0], arguments[1], int(arguments[2]))
elif mode == "write":
    write(*arguments[:3], *map(int, arguments[3:]))
else:
    verify(*arguments)
finish()
