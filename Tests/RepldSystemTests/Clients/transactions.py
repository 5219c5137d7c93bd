"""Numbered transactions by several sessions of psql until the server goes, and a journal of what they were told.

transactions.py PSQL SOCKET-FOLDER DATABASE JOURNAL SESSION-COUNT

The journal has a line `begun N` before anything of transaction N is sent, and a line `acknowledged N` after its COMMIT was
answered. All sessions write to the one journal, so that there is no doubt which came first.
"""
import itertools
import subprocess
import sys
import threading

program, folder, database, journal_path, session_count = sys.argv[1:5] + [int(sys.argv[5])]
lock = threading.Lock()
numbers = itertools.count(1)
journal = open(journal_path, "w", buffering=1)


def begin():
    with lock:
        number = next(numbers)
        print("begun", number, file=journal)
    return number


def acknowledge(number):
    with lock:
        print("acknowledged", number, file=journal)


def commit_in(session):
    """Commits one transaction after the other; psql ends at the first error, and with the server."""
    psql = subprocess.Popen(
        [program, "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", folder, "-U", "postgres", "-d", database],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
    while True:
        number = begin()
        try:
            psql.stdin.write(
                f"BEGIN; INSERT INTO entries VALUES ({number}, {session}, repeat('{number} ', 20));"
                f" UPDATE sessions SET entry_count = entry_count + 1, last_number = {number} WHERE session = {session};"
                f" COMMIT;\n\\echo {number}\n")
        except BrokenPipeError:
            break
        # psql says so only when the COMMIT before it was answered without an error.
        if psql.stdout.readline() != f"{number}\n":
            break
        acknowledge(number)
    psql.kill()
    psql.wait()


threads = [threading.Thread(target=commit_in, args=(session,)) for session in range(1, session_count + 1)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
