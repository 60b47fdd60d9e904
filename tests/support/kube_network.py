"""Network namespaces for pods of the test suite's node agent: an address and a loopback of its own for each.

Kubelets forward ports to a pod's own loopback, so a pod that shared the machine's would hide it from the tests when a
scheduler listens on its pod's address only, as one once did. Pods reach each other and this machine, and nobody else.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import os
import shutil
import socket
import subprocess
from collections.abc import Iterator
from itertools import count
from pathlib import Path

NETWORKS = 64
_NEWNET = 0x40000000  # CLONE_NEWNET of <sched.h>
_LIBC = ctypes.CDLL(None, use_errno=True)


class Network:
    """A bridge to which all pods of one agent are plugged."""

    def __init__(self) -> None:
        with _alone():
            self.number = next(number for number in range(NETWORKS) if _taken(number))
        self.bridge = _bridge(self.number)
        self._numbers = count(2)
        _ip(f"addr add 10.{32 + self.number}.0.1/16 dev {self.bridge}", f"link set {self.bridge} up")
        self._filter("-I")

    def _filter(self, action: str) -> None:
        # Docker lets the kernel drop what bridges carry unless told otherwise, and nothing may leave the machine.
        if shutil.which("iptables"):
            for target, end in (("REJECT", ()), ("ACCEPT", ("-o", self.bridge))):
                command = ["iptables", "-w", action, "FORWARD", "-i", self.bridge, *end, "-j", target]
                subprocess.run(command, check=action == "-I", capture_output=True)

    async def plug(self, name: str) -> tuple[str, str]:
        """Make a network namespace for a pod; returns its name and the pod's address."""
        number = next(self._numbers)
        address = f"10.{32 + self.number}.{number // 250}.{number % 250 + 2}"
        space, cable = f"{self.bridge}-{name}", f"{self.bridge}-{number}"
        await asyncio.to_thread(self._plug, space, cable, address)
        return space, address

    def _plug(self, space: str, cable: str, address: str) -> None:
        _ip(
            f"netns add {space}",
            f"link add {cable} type veth peer name eth0 netns {space}",
            f"link set {cable} master {self.bridge} up",
        )
        _ip(
            *("link set lo up", f"addr add {address}/16 dev eth0", "link set eth0 up"),
            # Dask finds its own address by asking which way packets to the world would go.
            f"route add default via 10.{32 + self.number}.0.1",
            space=space,
        )

    async def unplug(self, space: str) -> None:
        """Remove a pod's network namespace, and with it its cable."""
        with contextlib.suppress(subprocess.CalledProcessError):
            await asyncio.to_thread(_ip, f"netns del {space}")

    def close(self) -> None:
        """Remove everything."""
        self._filter("-D")
        _remove(self.bridge)


def _bridge(number: int) -> str:
    return f"rk{number}"


@contextlib.contextmanager
def _alone() -> Iterator[None]:
    """Take turns with other agents: two that remove the same dead one's network would remove that of the quicker."""
    place = os.open("/run", os.O_RDONLY)
    try:
        fcntl.flock(place, fcntl.LOCK_EX)
        yield
    finally:
        os.close(place)


def _taken(number: int) -> bool:
    """Take a network for this process, unless a living one has it."""
    bridge = _bridge(number)
    with contextlib.suppress(OSError):
        owner = (Path("/sys/class/net") / bridge / "ifalias").read_text().strip()
        if owner and not Path("/proc", owner).exists():
            _remove(bridge)
    try:
        _ip(f"link add {bridge} type bridge")
    except subprocess.CalledProcessError:
        return False
    _ip(f"link set dev {bridge} alias {os.getpid()}")
    return True


def _remove(bridge: str) -> None:
    for space in Path("/run/netns").glob(f"{bridge}-*"):
        with contextlib.suppress(subprocess.CalledProcessError):
            _ip(f"netns del {space.name}")
    with contextlib.suppress(subprocess.CalledProcessError):
        _ip(f"link del {bridge}")


def _ip(*lines: str, space: str | None = None) -> None:
    command = ["ip", *(["-n", space] if space else []), "-batch", "-"]
    subprocess.run(command, input="\n".join(lines), check=True, capture_output=True, text=True)


def socket_inside(space: str) -> socket.socket:
    """Return a socket of a pod's network, wherever it is used."""
    home, there = (os.open(path, os.O_RDONLY) for path in ("/proc/self/ns/net", f"/run/netns/{space}"))
    try:
        _enter(there)
        try:
            return socket.socket()
        finally:
            _enter(home)
    finally:
        os.close(home)
        os.close(there)


def _enter(descriptor: int) -> None:
    """Move this thread, and no other, into a network namespace."""
    if _LIBC.setns(descriptor, _NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
