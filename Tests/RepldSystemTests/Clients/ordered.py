"""Numbered writes, each with when it was submitted and when acknowledged, and the check that an image is a point in time.

ordered.py write SOCKET EXPORT JOURNAL SEED COUNT PID N   COUNT writes, or until the server goes, to the first N blocks; then
                                                          kills PID if it is not 0, in the middle of what is on its way;
                                                          a journal that is there is continued
ordered.py check IMAGE JOURNAL                            the image has no write without all that had been acknowledged
                                                          before that one was submitted
ordered.py spoil IMAGE JOURNAL lose|tear|invent           makes an image that is no point in time

Times are numbers of one count of all submissions and acknowledgements, so that there is no doubt which came first.
"""
import errno
import hashlib
import json
import os
import random
import signal
import struct
import sys

import nbd
from checks import check, connect, finish

BLOCK = 4096
DEPTH = 16
# What libnbd says of requests whose server has gone: ENOTCONN, ESHUTDOWN, ECONNRESET, EPIPE.
GONE = (107, 108, 104, 32)


def content(number, block):
    """The bytes of a block as write `number` leaves it: its number and place, and a sum of both."""
    head = struct.pack("<QQ", number, block)
    return (head + hashlib.blake2b(head, digest_size=48).digest()) * (BLOCK // 64)


def number_in(data, block):
    """The number of the write that left these bytes, 0 for zeroes; None when no write did."""
    if data == bytes(BLOCK):
        return 0
    number = struct.unpack_from("<Q", data)[0]
    return number if number > 0 and data == content(number, block) else None


class Writer:
    def __init__(self, socket_path, export, seed, block_count, writes):
        self.random = random.Random(seed)
        self.handle = connect(socket_path, export)
        self.block_count = block_count
        self.busy = set()
        self.now = max((max(write[2:]) for write in writes), default=0)
        self.acknowledged = 0
        self.gone = False
        # Of each write, number by number from 1: first block, count of blocks, submitted when, acknowledged when or 0.
        self.writes = writes

    def tick(self):
        self.now += 1
        return self.now

    def submit(self):
        count = self.random.choice((1, 1, 1, 2, 8))
        first = self.random.randrange(self.block_count - count + 1)
        extent = range(first, first + count)
        # Two writes of one block at once could end in either order.
        if any(block in self.busy for block in extent):
            return
        write = [first, count, self.tick(), 0]
        self.writes.append(write)
        number = len(self.writes)
        self.busy.update(extent)

        def completed(result):
            error = result.value
            self.busy.difference_update(extent)
            if error == 0:
                write[3] = self.tick()
                self.acknowledged += 1
            elif error in GONE:
                self.gone = True
            else:
                check(False, f"write {number} at block {first} failed: {os.strerror(error)}")
            return 1

        data = bytearray(b"".join(content(number, block) for block in extent))
        self.handle.aio_pwrite(nbd.Buffer.from_bytearray(data), first * BLOCK, completed)

    def run(self, count, victim):
        try:
            while not self.gone and self.acknowledged < count:
                # Now and then one write alone, so that there are many points in time.
                depth = self.random.choice((1, 4, DEPTH))
                while self.handle.aio_in_flight() < depth:
                    self.submit()
                self.handle.poll(1000)
            if victim:
                os.kill(victim, signal.SIGKILL)
            while not self.gone and self.handle.aio_in_flight() > 0:
                self.handle.poll(1000)
        except nbd.Error as error:
            # libnbd says EINVAL of what is asked of a connection that has ended, well or not.
            has_ended = self.handle.aio_is_closed() or self.handle.aio_is_dead()
            is_over = error.errnum in GONE or (error.errnum == errno.EINVAL and has_ended)
            check(is_over, f"the connection broke with {error}")


def write(socket_path, export, journal, seed, count, victim, block_count):
    writes = []
    if os.path.exists(journal):
        with open(journal) as file:
            writes = json.load(file)["writes"]
    writer = Writer(socket_path, export, seed, block_count, writes)
    writer.run(count, victim)
    with open(journal, "w") as file:
        json.dump({"blocks": block_count, "writes": writer.writes}, file)
    print(f"{writer.acknowledged} of {len(writer.writes)} writes acknowledged")


def load(image, journal):
    """What is held in each block, and the writes."""
    with open(journal) as file:
        known = json.load(file)
    with open(image, "rb") as file:
        held = [number_in(file.read(BLOCK), block) for block in range(known["blocks"])]
    return held, known["writes"]


def required(held, writes):
    """The last write that the image has any of, and the writes that it has to have because of that."""
    last = max((number for number in held if number), default=0)
    moment = writes[last - 1][2] if last else 0
    return last, [number for number, write in enumerate(writes, 1) if 0 < write[3] < moment]


def verify(image, journal):
    held, writes = load(image, journal)
    strange = [block for block, number in enumerate(held) if number is None or number > len(writes)]
    check(not strange, f"{len(strange)} blocks hold what was never written: {strange[:4]}")
    for block in strange:
        held[block] = 0
    misplaced = [
        (block, number) for block, number in enumerate(held)
        if number and not writes[number - 1][0] <= block < writes[number - 1][0] + writes[number - 1][1]
    ]
    check(not misplaced, f"blocks hold writes of other places: {misplaced[:4]}")
    last, needed = required(held, writes)
    # Numbers rise with submission, and of two writes of one block the second was submitted after the first had ended.
    lacking = [
        (number, block) for number in needed
        for block in range(writes[number - 1][0], sum(writes[number - 1][:2])) if held[block] < number
    ]
    check(not lacking, f"write {last} is there, and {len(lacking)} blocks of writes acknowledged before: {lacking[:4]}")
    print(f"held up to {last} of {len(writes)}, which requires {len(needed)}")
    finish()


def spoil(image, journal, how):
    held, writes = load(image, journal)
    last, needed = required(held, writes)
    needed = set(needed)
    block, number = next((block, number) for block, number in enumerate(held) if number in needed)
    data = {
        "lose": bytes(BLOCK),
        "tear": content(number, block)[:BLOCK // 2] + bytes(BLOCK // 2),
        "invent": content(len(writes) + 1, block),
    }[how]
    with open(image, "r+b") as file:
        file.seek(block * BLOCK)
        file.write(data)
    finish()


mode, arguments = sys.argv[1], sys.argv[2:]
if mode == "write":
    write(*arguments[:3], *map(int, arguments[3:]))
elif mode == "check":
    verify(*arguments)
else:
    spoil(*arguments)
