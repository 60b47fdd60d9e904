"""A private container engine for one test process: Debian's dockerd, with files, addresses and networks of its own.

No packet leaves the machine: containers are in one internal network, rules of routing keep in what comes from it and
goes to it, and nothing is ever pulled. Neither iptables nor forwarding is touched. The test can reach containers by
their addresses, as a team would reach public ones, and they can reach what listens on the network's own address
(:attr:`Engine.gateway`).
"""

from __future__ import annotations

import contextlib
import fcntl
import http.client
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support import node_image

CACHE = node_image.CACHE
NETWORK = "ropewalk"
IMAGE = "ropewalk-node:test"
_SLOTS = 32


class NoEngineError(Exception):
    """There is no container engine here; says why."""


@dataclass(frozen=True)
class Engine:
    """A running engine with the node image and one network."""

    socket: Path
    slot: int

    @property
    def subnet(self) -> str:
        return f"10.211.{self.slot}.0/24"

    @property
    def gateway(self) -> str:
        """Address of this machine in the network."""
        return f"10.211.{self.slot}.1"

    def docker(self, *arguments: str) -> str:
        """Run the docker program; return what it says."""
        command = [_client(), "--host", f"unix://{self.socket}", *arguments]
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=_client_environ())
        if done.returncode:
            raise NoEngineError(f"docker {arguments[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def containers(self) -> list[str]:
        """Return the ids of running containers."""
        return self.docker("ps", "--quiet").split()


def _client() -> str:
    return "/usr/bin/docker" if Path("/usr/bin/docker").exists() else "docker"


def _client_environ() -> dict[str, str]:
    """Return an environment without proxies, contexts and credentials of the person who runs the tests."""
    return {"PATH": os.environ.get("PATH", ""), "HOME": "/nonexistent"}


def find_programs() -> str:
    """Return dockerd, or say why it cannot be used."""
    found = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise NoEngineError("dockerd is not installed; scripts/test installs Debian's docker.io where it may")
    if os.geteuid() != 0:
        raise NoEngineError("dockerd needs root")
    return found


@contextlib.contextmanager
def running() -> Iterator[Engine]:
    """Run an engine for a while."""
    program = find_programs()
    image = node_image.build()
    with _slot() as slot, tempfile.TemporaryDirectory(prefix="rwe", dir="/tmp") as folder:
        engine = Engine(Path(folder) / "s", slot)
        with _daemon(program, Path(folder), slot, engine), _kept_in(engine.subnet, slot):
            _furnish(engine, image)
            yield engine


@contextlib.contextmanager
def _slot() -> Iterator[int]:
    """Take a number that no other test process has: of files and addresses."""
    home = CACHE / "engine"
    home.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        for number in range(_SLOTS):
            lock = stack.enter_context((home / f"{number}.lock").open("w"))
            if _taken(lock):
                continue
            yield number
            return
    raise NoEngineError(f"{_SLOTS} test processes have container engines already")


def _taken(lock: IO[str]) -> bool:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    return False


@contextlib.contextmanager
def _daemon(program: str, folder: Path, slot: int, engine: Engine) -> Iterator[None]:
    # The engine must end with the tests, however they end.
    setpriv = shutil.which("setpriv")
    with (folder / "log").open("wb") as log:
        process = subprocess.Popen(
            [
                *([setpriv, "--pdeathsig", "TERM"] if setpriv else []),
                *(program, "--host", f"unix://{engine.socket}"),
                *("--data-root", str(CACHE / "engine" / str(slot)), "--exec-root", str(folder / "run")),
                *("--pidfile", str(folder / "pid"), "--bridge=none", "--iptables=false", "--ip6tables=false"),
                *("--ip-forward=false", "--ip-masq=false", "--userland-proxy=false"),
            ],
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_client_environ() | {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
            start_new_session=True,
        )
        try:
            _wait(process, engine.socket, folder / "log")
            yield
        finally:
            process.send_signal(signal.SIGTERM)
            try:
                process.wait(60)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=10)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(str(self._path))


def _answers(path: Path) -> bool:
    connection = _UnixConnection(path)
    try:
        connection.request("GET", "/_ping")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def _wait(process: subprocess.Popen[Any], path: Path, log: Path) -> None:
    deadline = time.monotonic() + 90
    while not _answers(path):
        if process.poll() is not None or time.monotonic() > deadline:
            raise NoEngineError(f"dockerd did not start: {log.read_text(errors='replace')[-2000:]}")
        time.sleep(0.05)


@contextlib.contextmanager
def _kept_in(subnet: str, slot: int) -> Iterator[None]:
    """Let nothing from or to an address of the network take any route but the network's own, also once that is gone."""
    rules = [
        ["to", subnet, "lookup", "main", "suppress_prefixlength", "0"],
        ["to", subnet, "unreachable"],
        ["from", subnet, "unreachable"],
    ]
    numbered = {str(21100 + len(rules) * slot + place): rule for place, rule in enumerate(rules)}
    for priority, rule in numbered.items():
        subprocess.run(["ip", "rule", "del", "priority", priority], capture_output=True, check=False)
        subprocess.run(["ip", "rule", "add", "priority", priority, *rule], check=True)
    try:
        yield
    finally:
        for priority in numbered:
            subprocess.run(["ip", "rule", "del", "priority", priority], check=False)


def _remove_bridges(address: str) -> None:
    """Remove bridges that a killed engine left: of two with one address, answers may take the wrong one."""
    shown = subprocess.run(["ip", "-oneline", "-4", "address", "show", "to", address], capture_output=True, check=True)
    for line in shown.stdout.decode().splitlines():
        name = line.split()[1]
        if name.startswith("br-"):
            subprocess.run(["ip", "link", "delete", name], check=False)


def _furnish(engine: Engine, image: Path) -> None:
    """Bring the engine to a known state: one network, the node image, no containers of an earlier process."""
    left = engine.docker("ps", "--all", "--quiet").split()
    if left:
        engine.docker("rm", "--force", "--volumes", *left)
    with contextlib.suppress(NoEngineError):
        engine.docker("network", "rm", NETWORK)
    _remove_bridges(engine.gateway)
    facts = ["--internal", "--subnet", engine.subnet, "--gateway", engine.gateway]
    engine.docker("network", "create", *facts, NETWORK)
    tag = f"{IMAGE.partition(':')[0]}:{image.stem}"
    if not engine.docker("images", "--quiet", tag):
        changes = ["--change", "ENV PYTHONUNBUFFERED=1", "--change", "ENV PATH=/usr/local/bin:/bin"]
        engine.docker("import", *changes, str(image), tag)
    engine.docker("tag", tag, IMAGE)
