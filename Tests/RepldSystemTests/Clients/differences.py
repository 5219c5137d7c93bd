"""Where the elements of pairs may differ, as BLOCK_STATUS has it.

differences.py SOCKET EXPORT write STRIDE COUNT     writes COUNT blocks of 4 KiB, STRIDE bytes apart
differences.py SOCKET EXPORT contexts               prints the names that the export has, as JSON
differences.py SOCKET EXPORT map CONTEXT...         prints for each context its runs [offset, length, flags], as JSON
"""
import json
import sys

import nbd

socket_path, export, mode, arguments = sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4:]


def connect(contexts=(), opt_mode=False):
    handle = nbd.NBD()
    handle.set_export_name(export)
    handle.set_opt_mode(opt_mode)
    for context in contexts:
        handle.add_meta_context(context)
    handle.connect_unix(socket_path)
    return handle


def write(handle, stride, count):
    for index in range(count):
        handle.pwrite(bytes([index % 255 + 1]) * 4096, index * stride)
    handle.flush()


def contexts(handle):
    names = []
    handle.opt_list_meta_context(names.append)
    print(json.dumps(names))
    handle.opt_abort()


def map_whole(handle):
    """One request after the other, each from where the shortest answer to the one before ended."""
    runs = {}
    offset, size = 0, handle.get_size()
    while offset < size:
        told = {}

        def extent(name, start, entries, error):
            told[name] = list(zip(entries[::2], entries[1::2]))

        handle.block_status(min(size - offset, 1 << 30), offset, extent)
        end = offset + min(sum(length for length, _ in entries) for entries in told.values())
        for name, entries in told.items():
            start = offset
            for length, flags in entries:
                length = min(length, end - start)
                if length > 0:
                    runs.setdefault(name, []).append([start, length, flags])
                start += length
        offset = end
    print(json.dumps(runs))


if mode == "write":
    write(connect(), int(arguments[0]), int(arguments[1]))
elif mode == "contexts":
    contexts(connect(opt_mode=True))
else:
    handle = connect(arguments)
    for context in arguments:
        if not handle.can_meta_context(context):
            sys.exit(f"the server does not have {context}")
    map_whole(handle)
    handle.shutdown()
