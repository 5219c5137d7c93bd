"""repld and its peers as processes on elements of one folder: how each is started, reached and ended."""

import argparse
import contextlib
import datetime
import json
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
START_SECONDS = 30
RUN_SECONDS = 600
TICKS = os.sysconf("SC_CLK_TCK")


class Failed(Exception):
    """A program that is measured, or needed, did not do what it was started for; the words say which and what."""


def program(main):
    """Runs a script's `main`, so that whoever ends it, nothing stays behind."""
    def ended(*_):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        raise SystemExit(143)

    signal.signal(signal.SIGTERM, ended)
    try:
        main()
    except Failed as failure:
        sys.exit(f"{sys.argv[0]}: {failure}")
    except KeyboardInterrupt:
        sys.exit(130)


def parser(words, rounds, mib, mib_words):
    """The options that all scripts have."""
    made = argparse.ArgumentParser(description=words)
    made.add_argument("--rounds", type=int, default=rounds)
    made.add_argument("--mib", type=int, default=mib, help=mib_words)
    made.add_argument("--smoke", action="store_true", help="one short round, to see that everything runs")
    made.add_argument("--svg", metavar="FILE", help="draw the medians as well")
    return made


def workspace():
    """A folder on tmpfs for the `with` block that it is made in."""
    return tempfile.TemporaryDirectory(prefix="repld-benchmark-", dir="/dev/shm")


def need(*programs):
    """Stops with the missing programs' names, and with the Debian packages that have them."""
    packages = {
        "fio": "fio", "nbdkit": "nbdkit", "nbdcopy": "libnbd-bin", "qemu-storage-daemon": "qemu-system-common",
        "lz4": "lz4", "ip": "iproute2", "tc": "iproute2", "nsenter": "util-linux",
    }
    missing = [name for name in programs if shutil.which(name) is None]
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
    with running(*command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            output, errors = process.communicate(timeout=RUN_SECONDS)
        except subprocess.TimeoutExpired as reason:
            raise Failed(f"{' '.join(command)} did not end in {RUN_SECONDS} s") from reason
    if process.returncode != 0:
        raise Failed(f"{' '.join(command)} ended with {process.returncode}: {(errors or output).strip()}")
    return output


@contextlib.contextmanager
def running(*command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL):
    """A command that runs during the `with` block; what has not ended by then is killed, and its children with it.

    But fio's jobs, which leave its session and wait for ever for a server that is gone: it has to be run with `--thread`.
    """
    # pylint: disable=consider-using-with
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=stdout, stderr=stderr, text=True, start_new_session=True
    )
    try:
        yield process
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate()


def make_file(path, byte_count):
    """An element: all of it written, so that nobody's first write allocates."""
    block = os.urandom(1 << 20)
    with open(path, "wb") as file:
        for _ in range(byte_count >> 20):
            file.write(block)
    return path


def sparse(path, byte_count):
    """A new file without blocks."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    with open(path, "wb") as file:
        file.truncate(byte_count)
    return path


def timed(action):
    """Seconds that an action takes."""
    begun = time.monotonic()
    action()
    return time.monotonic() - begun


def loopback_address():
    """An address of this machine that nobody else uses, so that ports are ours."""
    return "127." + ".".join(str(random.randint(1, 254)) for _ in range(3))


class Peer:
    """A server process with a unix socket; ends with the `with` block that it was made in."""

    def __init__(self, folder, name, command):
        self.folder = pathlib.Path(folder)
        self.name = name
        self.command = command
        self.log_path = self.folder / f"{name}.log"
        self.process = None
        self.start()

    def start(self):
        """Starts the process; its log goes on."""
        with open(self.log_path, "ab") as log:
            # pylint: disable=consider-using-with
            self.process = subprocess.Popen(self.command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait_for_socket(self, path, family=socket.AF_UNIX):
        """Waits until the server accepts connections at `path`, a file or an address with a port."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            with socket.socket(family) as probe:
                try:
                    probe.connect(path)
                    return
                except OSError:
                    pass
            if self.process.poll() is not None or time.monotonic() > deadline:
                raise Failed(f"{self.name} does not serve {path}: {self.log_path.read_text(errors='replace').strip()}")
            time.sleep(0.02)

    def cpu_seconds(self):
        """Processor time of all threads so far."""
        with open(f"/proc/{self.process.pid}/stat", encoding="ascii") as file:
            fields = file.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / TICKS

    def started(self):
        """Waits until it serves; for those that can say so."""

    def __enter__(self):
        try:
            self.started()
        except BaseException:
            self.__exit__()
            raise
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

    def __init__(self, folder, name="repld", config=None, launcher=()):
        self.nbd_socket = f"{folder}/{name}.nbd"
        self.control_socket = f"{folder}/{name}.control"
        self.replctl_program = release_program("replctl")
        command = [
            *launcher, release_program("repld"), "run", "--state-dir", f"{folder}/{name}.state",
            "--control", self.control_socket, "--nbd-socket", self.nbd_socket,
        ]
        if config is not None:
            path = pathlib.Path(folder) / f"{name}.yaml"
            path.write_text(config, encoding="utf-8")
            command += ["--config", str(path)]
        super().__init__(folder, name, command)

    def started(self):
        self.wait_for_socket(self.control_socket)

    def replctl(self, *arguments):
        """Runs replctl against this daemon."""
        return run(self.replctl_program, *arguments, "--control", self.control_socket)

    def asked(self, *arguments):
        """What replctl prints for programs."""
        return json.loads(self.replctl(*arguments, "--json"))

    def add_volume(self, name, element):
        """Serves an element; returns the URI of the volume."""
        self.replctl("volume", "add", name, "--element", str(element))
        self.wait_for_socket(self.nbd_socket)
        return self.uri(name)

    def uri(self, name):
        """Where NBD clients find a volume."""
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def add_mirror(self, volume, target, *options):
        """Pairs a volume with a target and waits until the pair is Synchronized."""
        self.replctl(
            "pair", "create", "--source", volume, "--target", str(target), "--name", f"{volume}-mirror", "--wait",
            "--timeout", "5m", *options,
        )

    def synchronized(self, pair):
        """Waits until a pair that copies is Synchronized; returns when that was, in seconds of the wall's clock."""
        self.replctl("pair", "watch", pair)
        return self.copy_times(pair)[1]

    def copy_times(self, pair):
        """When the copy that began last began and ended, by the daemon's events, in seconds of the wall's clock."""
        begun = ended = None
        for line in self.replctl("events", "--json").splitlines():
            event = json.loads(line)
            name = event.get("copyState", {}).get("name")
            if event.get("pair") != pair or name not in ("Unsynchronized", "Synchronized"):
                continue
            moment = datetime.datetime.fromisoformat(event["time"].replace("Z", "+00:00")).timestamp()
            if name == "Unsynchronized":
                begun, ended = moment, None
            else:
                ended = moment
        return begun, ended


class Nbdkit(Peer):
    """nbdkit's file plugin on one element, on a unix socket or on TCP."""

    def __init__(self, folder, element, name="nbdkit", address=None):
        self.address = address
        self.socket = f"{folder}/{name}.nbd"
        # nbdkit leaves it behind when it ends, and does not take it over.
        pathlib.Path(self.socket).unlink(missing_ok=True)
        place = ["--unix", self.socket] if address is None else ["--ipaddr", address, "--port", "10809"]
        super().__init__(folder, name, ["nbdkit", "--foreground", *place, "file", f"file={element}"])

    def started(self):
        if self.address is None:
            self.wait_for_socket(self.socket)
            self.uri = f"nbd+unix:///?socket={self.socket}"
        else:
            self.wait_for_socket((self.address, 10809), socket.AF_INET)
            self.uri = f"nbd://{self.address}:10809/"


class StorageDaemon(Peer):
    """qemu-storage-daemon on elements, by the names of their nodes; some are exported, and one may be mirrored to another.

    With an address the exports are there on TCP. `remote` is the address of another one, whose export `target` becomes this
    one's node `target`.
    """

    def __init__(self, folder, elements, exports, name="qsd", address=None, remote=None):
        self.address = address
        self.nbd_socket = f"{folder}/{name}.nbd"
        self.monitor_socket = f"{folder}/{name}.qmp"
        command = [
            "qemu-storage-daemon", "--chardev", f"socket,id=m,path={self.monitor_socket},server=on,wait=off",
            "--monitor", "chardev=m",
        ]
        for node, path in elements.items():
            options = "cache.direct=on,aio=io_uring,discard=unmap"
            command += ["--blockdev", f"driver=file,node-name={node},filename={path},{options}"]
        if remote is not None:
            server = f"server.type=inet,server.host={remote},server.port=10809"
            command += ["--blockdev", f"driver=nbd,node-name=target,export=target,{server}"]
        place = f"addr.type=unix,addr.path={self.nbd_socket}"
        if address is not None:
            place = f"addr.type=inet,addr.host={address},addr.port=10809"
        command += ["--nbd-server", f"{place},max-connections=16"]
        for node in exports:
            command += ["--export", f"type=nbd,id=e-{node},node-name={node},name={node},writable=on"]
        super().__init__(folder, name, command)

    def started(self):
        self.wait_for_socket(self.monitor_socket)
        if self.address is None:
            self.wait_for_socket(self.nbd_socket)
        else:
            self.wait_for_socket((self.address, 10809), socket.AF_INET)

    def uri(self, name):
        """Where NBD clients find an export."""
        return f"nbd+unix:///{name}?socket={self.nbd_socket}"

    def start_mirror(self):
        """Copies `source` to `target`, and waits until every write goes to both."""
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
