"""repld and its peers as processes on elements of one folder: how each is started, reached and ended."""

import json
import os
import pathlib
import shutil
import socket
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_SECONDS = 30


class Failed(Exception):
    """A program that is measured, or needed, did not do what it was started for; the words say which and what."""


def need(*programs):
    """Stops with the missing programs' names, and with the Debian packages that have them."""
    packages = {
        "fio": "fio", "nbdkit": "nbdkit", "nbdcopy": "libnbd-bin", "qemu-storage-daemon": "qemu-system-common",
    }
    missing = [program for program in programs if shutil.which(program) is None]
    if missing:
        raise Failed("missing: " + ", ".join(f"{name} (package {packages.get(name, name)})" for name in missing))


def release_program(name):
    """The release build of one of the package's programs; REPLD_BUILD names another folder to take them from."""
    path = pathlib.Path(os.environ.get("REPLD_BUILD", ROOT / ".build" / "release")) / name
    if not path.exists():
        raise Failed(f"{path} is missing: swift build -c release --product {name}")
    return str(path)


def run(*command):
    """Runs a command to its end and returns what it printed."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {done.returncode}: {(done.stderr or done.stdout).strip()}")
    return done.stdout


def make_file(path, byte_count):
    """An element: all of it written, so that nobody's first write allocates."""
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(byte_count >> 20):
            file.write(block)
    return path


class Peer:
    """A server process with a unix socket; ends with the `with` block that it was made in."""

    def __init__(self, folder, name, command):
        self.folder = pathlib.Path(folder)
        self.name = name
        self.log_path = self.folder / f"{name}.log"
        with open(self.log_path, "wb") as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_socket(self, path):
        """Waits until the server accepts connections at `path`."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket(socket.AF_UNIX) as probe:
                try:
                    probe.connect(str(path))
                    return
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} does not serve {path}: {self.log_path.read_text(errors='replace').strip()}")
            time.sleep(0.02)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Repld(Peer):
    """A repld daemon of its own, with its state in the folder."""

    def __init__(self, folder, name="repld"):
        self.nbd_socket = f"{folder}/{name}.nbd"
        self.control_socket = f"{folder}/{name}.control"
        self.replctl_program = release_program("replctl")
        super().__init__(
            folder,
            name,
            [
                release_program("repld"), "run", "--state-dir", f"{folder}/{name}.state",
                "--control", self.control_socket, "--nbd-socket", self.nbd_socket,
            ],
        )

    def __enter__(self):
        try:
            self.wait_for_socket(self.control_socket)
        except Failed:
            self.__exit__()
            raise
        return self

    def replctl(self, *arguments):
        """Runs replctl against this daemon."""
        return run(self.replctl_program, *arguments, "--control", self.control_socket)

    def add_volume(self, name, element):
        """Serves an element; returns the URI of the volume."""
        self.replctl("volume", "add", name, "--element", str(element))
        self.wait_for_socket(self.nbd_socket)
        return self.uri(name)

    def uri(self, name):
        """Where NBD clients find a volume."""
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def add_mirror(self, volume, target):
        """Pairs a volume with a target and waits until the pair is Synchronized."""
        self.replctl("pair", "create", "--source", volume, "--target", str(target), "--wait", "--timeout", "5m")


class Nbdkit(Peer):
    """nbdkit's file plugin on one element."""

    def __init__(self, folder, element, name="nbdkit"):
        self.socket = f"{folder}/{name}.nbd"
        # nbdkit leaves it behind when it ends, and does not take it over.
        pathlib.Path(self.socket).unlink(missing_ok=True)
        super().__init__(folder, name, ["nbdkit", "--foreground", "--unix", self.socket, "file", f"file={element}"])

    def __enter__(self):
        try:
            self.wait_for_socket(self.socket)
        except Failed:
            self.__exit__()
            raise
        self.uri = f"nbd+unix:///?socket={self.socket}"
        return self


class StorageDaemon(Peer):
    """qemu-storage-daemon with one plain element, and one with a write-blocking mirror to a second."""

    def __init__(self, folder, plain, source, target):
        self.nbd_socket = f"{folder}/qsd.nbd"
        self.monitor_socket = f"{folder}/qsd.qmp"
        command = [
            "qemu-storage-daemon", "--chardev", f"socket,id=m,path={self.monitor_socket},server=on,wait=off",
            "--monitor", "chardev=m",
        ]
        for node, path in [("plain", plain), ("source", source), ("target", target)]:
            options = "cache.direct=on,aio=io_uring,discard=unmap"
            command += ["--blockdev", f"driver=file,node-name={node},filename={path},{options}"]
        command += ["--nbd-server", f"addr.type=unix,addr.path={self.nbd_socket},max-connections=16"]
        for node in ["plain", "source"]:
            command += ["--export", f"type=nbd,id=e-{node},node-name={node},name={node},writable=on"]
        super().__init__(folder, "qsd", command)

    def __enter__(self):
        try:
            self.wait_for_socket(self.monitor_socket)
            self.wait_for_socket(self.nbd_socket)
            self.start_mirror()
        except Failed:
            self.__exit__()
            raise
        return self

    def uri(self, name):
        """Where NBD clients find an export."""
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def start_mirror(self):
        """Copies source to target, and waits until every write goes to both."""
        mirror = {
            "execute": "blockdev-mirror",
            "arguments": {
                "job-id": "mirror", "device": "source", "target": "target", "sync": "full",
                "copy-mode": "write-blocking",
            },
        }
        with socket.socket(socket.AF_UNIX) as connection:
            connection.settimeout(120)
            connection.connect(self.monitor_socket)
            stream = connection.makefile("rw")
            stream.readline()
            for command in [{"execute": "qmp_capabilities"}, mirror]:
                stream.write(json.dumps(command) + "\n")
                stream.flush()
            for line in stream:
                message = json.loads(line)
                if "error" in message:
                    raise Failed(f"qemu-storage-daemon: {message['error']['desc']}")
                if message.get("event") == "BLOCK_JOB_READY":
                    return
        raise Failed("qemu-storage-daemon closed its monitor before the mirror was ready")


def median(values):
    """The middle one, or the mean of the two in the middle."""
    ordered = sorted(values)
    middle = len(ordered) // 2
    return ordered[middle] if len(ordered) % 2 else (ordered[middle - 1] + ordered[middle]) / 2


def print_table(rows):
    """Prints rows of text in columns: the first to the left, the others to the right."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        first, *others = [cell.rjust(width) if place else cell.ljust(width)
                          for place, (cell, width) in enumerate(zip(row, widths))]
        print("  ".join([first, *others]).rstrip())
