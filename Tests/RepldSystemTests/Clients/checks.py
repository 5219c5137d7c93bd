"""What the NBD client scripts share: checks that are all run, and an exit status that says whether all held."""
import errno
import sys

import nbd

failures = []


def check(holds, words):
    if not holds:
        failures.append(words)
        print("FAILED:", words, flush=True)


def check_fails(action, expected, words):
    """The request has to be refused, with one of these error numbers."""
    names = [errno.errorcode[number] for number in expected]
    try:
        action()
    except nbd.Error as error:
        check(error.errnum in expected, f"{words}: {error.errno} instead of {' or '.join(names)}")
        return
    check(False, f"{words}: accepted instead of {' or '.join(names)}")


def connect(socket_path, export, structured=True, strict=True):
    handle = nbd.NBD()
    handle.set_request_structured_replies(structured)
    handle.set_export_name(export)
    if structured:
        handle.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
    if not strict:
        handle.set_strict_mode(0)
    handle.connect_unix(socket_path)
    return handle


def finish():
    print(f"{len(failures)} failed")
    sys.exit(1 if failures else 0)
