"""Every command with every flag, and every refusal: commands.py SOCKET EXPORT BYTES BLOCK-BYTES on|off (structured)."""
import errno
import os
import sys

import nbd
from checks import check, check_fails, connect, finish

socket_path, export, size, block = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
structured = sys.argv[5] == "on"
MIB = 1 << 20


def commands(handle):
    data = os.urandom(MIB)
    handle.pwrite(data, 0)
    check(handle.pread(MIB, 0) == data, "a write is read back")
    check(handle.pread(block, block) == data[block:2 * block], "one block inside a write is read back")
    handle.pwrite(data[:block], size - block, nbd.CMD_FLAG_FUA)
    check(handle.pread(block, size - block) == data[:block], "the last block is written with FUA and read back")
    handle.flush()
    handle.pwrite(data, 3 * MIB)
    handle.cache(MIB, 3 * MIB)
    for flags in (0, nbd.CMD_FLAG_FUA):
        handle.trim(64 * 1024, 3 * MIB, flags)
        after = handle.pread(MIB, 3 * MIB)
        check(after[64 * 1024:] == data[64 * 1024:], "a trim leaves its neighbours alone")


def zeroes(handle):
    data = os.urandom(MIB)
    for flags in (0, nbd.CMD_FLAG_FUA, nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FUA):
        handle.pwrite(data, 0)
        handle.zero(64 * 1024, 128 * 1024, flags)
        expected = data[:128 * 1024] + bytes(64 * 1024) + data[192 * 1024:]
        check(handle.pread(MIB, 0) == expected, f"write-zeroes with flags {flags} zeroes its range and no more")
    handle.pwrite(data, 0)
    handle.zero(block, block)
    expected = data[:block] + bytes(block) + data[2 * block:]
    check(handle.pread(MIB, 0) == expected, "write-zeroes of one block zeroes its range and no more")
    if handle.can_fast_zero():
        handle.pwrite(data, 0)
        try:
            handle.zero(64 * 1024, 0, nbd.CMD_FLAG_FAST_ZERO)
            check(handle.pread(64 * 1024, 0) == bytes(64 * 1024), "a fast write-zeroes that succeeds has zeroed")
        except nbd.Error as error:
            check(error.errnum == errno.ENOTSUP, f"a fast write-zeroes is refused with ENOTSUP, not {error.errno}")
            check(handle.pread(MIB, 0) == data, "a fast write-zeroes that is refused has changed nothing")


def refusals(handle):
    invalid, past_end = [errno.EINVAL], [errno.EINVAL, errno.ENOSPC]
    largest = handle.get_block_size(nbd.SIZE_MAXIMUM)
    buffer = bytes(block)
    requests = [
        (lambda: handle.pread(block, 1), invalid, "a read at a misaligned offset"),
        (lambda: handle.pread(block - 1, 0), invalid, "a read of a misaligned length"),
        (lambda: handle.pwrite(buffer, block - 1), invalid, "a write at a misaligned offset"),
        (lambda: handle.pwrite(buffer[1:], 0), invalid, "a write of a misaligned length"),
        (lambda: handle.zero(block, 1), invalid, "a misaligned write-zeroes"),
        (lambda: handle.trim(block - 1, 0), invalid, "a misaligned trim"),
        (lambda: handle.pread(block, size), invalid, "a read behind the end"),
        (lambda: handle.pread(2 * block, size - block), invalid, "a read across the end"),
        (lambda: handle.pwrite(buffer, size), past_end, "a write behind the end"),
        (lambda: handle.pwrite(buffer + buffer, size - block), past_end, "a write across the end"),
        (lambda: handle.zero(2 * block, size - block), past_end, "a write-zeroes across the end"),
        (lambda: handle.trim(2 * block, size - block), past_end, "a trim across the end"),
        (lambda: handle.cache(2 * block, size - block), past_end, "a cache across the end"),
        (lambda: handle.pread(block, (1 << 63) - block), invalid, "a read at the end of all numbers"),
        (lambda: handle.pread(0, 0), invalid, "a read of nothing"),
        (lambda: handle.pwrite(b"", 0), invalid, "a write of nothing"),
        (lambda: handle.zero(0, 0), invalid, "a write-zeroes of nothing"),
        (lambda: handle.trim(0, 0), invalid, "a trim of nothing"),
    ]
    if 0 < largest < min(size, 64 * MIB):
        too_long = [errno.EINVAL, errno.EOVERFLOW, errno.ENOMEM]
        requests.append((lambda: handle.pread(largest + block, 0), too_long, "a read longer than the maximum"))
    for action, expected, words in requests:
        before = handle.pread(MIB, 0)
        check_fails(action, expected, words)
        check(handle.pread(MIB, 0) == before, f"{words} leaves the data and the connection alone")


def block_status(handle):
    runs = []
    handle.block_status(8 * MIB, 0, lambda context, offset, entries, error: runs.append((context, offset, entries)))
    check([run[:2] for run in runs] == [(nbd.CONTEXT_BASE_ALLOCATION, 0)], "block status answers for base:allocation")
    entries = runs[0][2] if runs else []
    lengths = entries[0::2]
    check(0 < sum(lengths) and all(length > 0 and length % block == 0 for length in lengths), "runs are whole blocks")
    check(all(flags in (0, 1, 2, 3) for flags in entries[1::2]), "runs are data, hole or zero")
    one = []
    handle.block_status(
        8 * MIB, 0, lambda context, offset, entries, error: one.append(entries), nbd.CMD_FLAG_REQ_ONE)
    check(len(one) == 1 and len(one[0]) == 2 and one[0][0] <= 8 * MIB, "REQ_ONE is answered with one run")


with_checks = connect(socket_path, export, structured)
check(with_checks.get_structured_replies_negotiated() == structured, "structured replies are as they were asked for")
check(with_checks.get_size() == size, f"the size is {with_checks.get_size()}, not {size}")
commands(with_checks)
zeroes(with_checks)
if structured:
    check(with_checks.can_df(), "DF is offered with structured replies")
    check(len(with_checks.pread_structured(MIB, 0, lambda *_: 0, nbd.CMD_FLAG_DF)) == MIB, "DF is answered in one piece")
    block_status(with_checks)
with_checks.shutdown()
without_checks = connect(socket_path, export, structured, strict=False)
refusals(without_checks)
without_checks.shutdown()
finish()
