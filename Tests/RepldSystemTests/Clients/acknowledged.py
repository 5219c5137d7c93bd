"""Writes until the server dies, or checks that every write that was acknowledged is there afterwards.

acknowledged.py write|check SOCKET EXPORT JOURNAL BLOCK-COUNT
"""
import hashlib
import sys

import nbd
from checks import check, connect, finish

mode, socket_path, export, journal_path, block_count = sys.argv[1:5] + [int(sys.argv[5])]
BLOCK = 4096


def content(number):
    """The bytes of write `number`, different for each."""
    return hashlib.sha256(str(number).encode()).digest() * (BLOCK // 32)


def place(number):
    """Each block once, in an order that jumps about: 1021 has no factor in common with a power of two."""
    return number * 1021 % block_count * BLOCK


def write():
    handle = connect(socket_path, export)
    with open(journal_path, "w", buffering=1) as journal:
        for number in range(block_count):
            try:
                handle.pwrite(content(number), place(number), nbd.CMD_FLAG_FUA if number % 8 == 0 else 0)
            except nbd.Error:
                break
            # Only now does the journal say so: the write was acknowledged.
            print(number, file=journal)
    finish()


def verify():
    with open(journal_path) as journal:
        numbers = [int(line) for line in journal if line.endswith("\n")]
    check(len(numbers) > 0, "at least one write was acknowledged")
    handle = connect(socket_path, export)
    lost = [number for number in numbers if handle.pread(BLOCK, place(number)) != content(number)]
    check(not lost, f"{len(lost)} of {len(numbers)} acknowledged writes are gone, the first is {lost[:1]}")
    handle.shutdown()
    print(f"{len(numbers)} acknowledged writes are there")
    finish()


write() if mode == "write" else verify()
