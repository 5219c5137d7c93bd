"""Two repld daemons that stand for two hosts, on loopback or at the two ends of a link with a rate."""

import contextlib
import os
import time

import peers

PORT = 7733


class Link:
    """Two network namespaces with a cable between them, for the `with` block that it is made in; needs root."""

    device = "cable0"
    addresses = {"north": "10.78.0.1", "south": "10.78.0.2"}

    def __init__(self):
        self.names = {end: f"repld-benchmark-{os.getpid()}-{end}" for end in self.addresses}
        self.made = []

    def __enter__(self):
        try:
            self.make()
        except BaseException:
            self.__exit__()
            raise
        return self

    def make(self):
        """Makes the namespaces, and the cable with its ends in them."""
        north, south = self.names.values()
        for name in (north, south):
            peers.run("ip", "netns", "add", name)
            self.made.append(name)
        peers.run(
            "ip", "link", "add", "name", self.device, "netns", north, "type", "veth", "peer",
            "name", self.device, "netns", south,
        )
        for end, name in self.names.items():
            peers.run("ip", "-n", name, "address", "add", f"{self.addresses[end]}/24", "dev", self.device)
            for device in ("lo", self.device):
                peers.run("ip", "-n", name, "link", "set", device, "up")

    def __exit__(self, *_):
        for name in self.made:
            with contextlib.suppress(peers.Failed):
                peers.run("ip", "netns", "delete", name)

    def launcher(self, end):
        """The command that lets a program run on one end's network."""
        # Not `ip netns exec`, which gives the program copies of all mounts as well.
        return ["nsenter", f"--net=/run/netns/{self.names[end]}", "--"]

    def set_rate(self, gigabits):
        """Lets the link carry so many gigabits a second each way; `None` for as much as the machine can."""
        for name in self.names.values():
            with contextlib.suppress(peers.Failed):
                peers.run("tc", "-n", name, "qdisc", "delete", "dev", self.device, "root")
            if gigabits is not None:
                # What leaves at once has to hold a segment of 64 KiB as TCP hands it on, and what is sent between two looks.
                bucket = ["rate", f"{gigabits}gbit", "burst", f"{256 * gigabits}kb", "latency", "20ms"]
                peers.run("tc", "-n", name, "qdisc", "add", "dev", self.device, "root", "tbf", *bucket)


class HostPair:
    """Daemons that know each other: `north` has the sources, `south` the copies; there may be further ones like `south`."""

    def __init__(self, folder, name, secure, link=None, compress="off", souths=("south",)):
        self.folder = folder
        self.name = name
        self.key = f"{folder}/{name}.key" if secure else None
        self.compress = compress
        self.link = link
        self.addresses = link.addresses if link else {end: peers.loopback_address() for end in ("north", *souths)}
        self.daemons = {}
        self.stack = contextlib.ExitStack()

    def __enter__(self):
        with contextlib.ExitStack() as stack:
            if self.key is not None:
                peers.run(peers.release_program("replctl"), "peer", "key-new", self.key)
            for end in self.addresses:
                self.daemons[end] = stack.enter_context(self.daemon(end))
            for south in self.addresses:
                if south != "north":
                    self.introduce("north", south)
                    self.introduce(south, "north")
                    wait_for_peer(self.north, south)
                    wait_for_peer(self.daemons[south], "north")
            self.stack = stack.pop_all()
        return self

    def __exit__(self, *_):
        self.stack.close()

    @property
    def north(self):
        """The daemon that has the sources."""
        return self.daemons["north"]

    @property
    def south(self):
        """The daemon that has the copies."""
        return self.daemons["south"]

    @property
    def processes(self):
        """All daemons."""
        return list(self.daemons.values())

    def daemon(self, end):
        """One of the daemons, which does not know the others yet."""
        config = f"peers:\n  listen: {self.addresses[end]}:{PORT}\n  allow-plaintext: true\n"
        launcher = self.link.launcher(end) if self.link else ()
        return peers.Repld(self.folder, f"{self.name}-{end}", config, launcher)

    def introduce(self, own, other):
        """Makes one host known to another."""
        trust = ["--plaintext"] if self.key is None else ["--key-file", self.key]
        self.daemons[own].replctl(
            "peer", "add", other, "--address", f"{self.addresses[other]}:{PORT}", "--compress", self.compress, *trust
        )

    def add_pair(self, volume, source, target, *options):
        """Serves `source` and pairs it with `target` at the other end; returns when it is Synchronized, with the URI."""
        uri = self.north.add_volume(volume, source)
        self.south.replctl("volume", "add", volume, "--element", target)
        self.north.add_mirror(volume, f"repl://south/{volume}", *options)
        return uri


def wait_for_peer(daemon, name):
    """Waits until a daemon is connected with a peer."""
    deadline = time.monotonic() + peers.START_SECONDS
    while True:
        shown = daemon.asked("peer", "show", name)
        if shown["isConnected"]:
            return
        if time.monotonic() > deadline:
            raise peers.Failed(f"{daemon.name} is not connected with {name}: {shown.get('reason')}")
        time.sleep(0.05)
