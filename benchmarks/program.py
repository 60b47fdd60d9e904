"""A real server in a process of its own, with one user, as the other side of a benchmark."""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil

from ropewalk.backends.local.spares import WANTED

PROGRAM = str(Path(sys.executable).with_name("ropewalk"))
PASSWORD = "benchmark-only-1"  # noqa: S105 - of a server that lives for a minute
COMMAND = (PROGRAM, "server", "start")
READY_SECONDS, WARM_SECONDS, END_SECONDS, REQUEST_SECONDS, GONE_SECONDS = 60.0, 60.0, 20.0, 60.0, 30.0
"""Nothing here waits without an end: a benchmark that hangs tells nothing."""


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and how to be let in."""

    url: str
    token: str
    pid: int
    data: Path


@contextmanager
def server(*options: str, command: Sequence[str] = COMMAND) -> Iterator[Server]:
    """Run a server with its own data directory, and with *options*; *command* is what starts it."""
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder:
        data = Path(folder) / "data"
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*command, "--data-dir", str(data), "--port", "0", "--gateway-port", "0", *options],
                stdout=log,
                stderr=log,
            )
        try:
            with ended_with_us(process):
                url = _ready(data / "server.json", process)
                yield Server(url, _token(data, url), process.pid, data)
        finally:
            end_nodes(data)


@contextmanager
def ended_with_us(process: subprocess.Popen[Any], number: signal.Signals = signal.SIGTERM) -> Iterator[None]:
    """End *process* after the block: politely with *number*, else by force, and all that it started in its session."""
    try:
        yield
    finally:
        session = None
        with suppress(ProcessLookupError):
            session = process.pid if os.getsid(process.pid) == process.pid else None
        process.send_signal(number)
        try:
            process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        if session is not None:
            with suppress(ProcessLookupError):
                os.killpg(session, signal.SIGKILL)


@contextmanager
def bounded(seconds: float) -> Iterator[None]:
    """Break off the block after *seconds*, or when asked to end, such that what it began is ended, too."""

    def stop(*_: object) -> None:
        raise SystemExit("The benchmark was broken off: it took too long, or was asked to end.")

    before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGALRM)}
    earlier = signal.setitimer(signal.ITIMER_REAL, seconds)
    faulthandler.dump_traceback_later(seconds + END_SECONDS, exit=True, file=2)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        faulthandler.cancel_dump_traceback_later()
        for number, handler in before.items():
            signal.signal(number, handler)
        signal.setitimer(signal.ITIMER_REAL, *earlier)


@contextmanager
def users_folder() -> Iterator[Path]:
    """Be a program in a folder of its own, and not one in this checkout.

    Modules beside a program come along to the nodes, and here these would be all tests and benchmarks.
    """
    checkout = str(Path(__file__).parents[1])
    before = list(sys.path)
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder:
        sys.path[:] = [folder, *(each for each in before if (each or os.getcwd()) != checkout)]  # noqa: PTH109 - as texts
        try:
            yield Path(folder)
        finally:
            sys.path[:] = before


def nodes(data: Path) -> list[psutil.Process]:
    """Return the processes of nodes of the server with the data directory *data*, helpers included."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            environ = process.environ()
            if "ROPEWALK_NODE" in environ and Path(environ.get("TMPDIR", "/")).is_relative_to(data):
                found.append(process)
    return found


def wait_gone(processes: Sequence[psutil.Process], within: float = GONE_SECONDS) -> None:
    """Wait until none of *processes* runs; those that have ended may not have been taken note of.

    Raises:
        RuntimeError: some still run after *within* seconds.
    """
    deadline = time.monotonic() + within
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            while process.status() != psutil.STATUS_ZOMBIE:
                if time.monotonic() > deadline:
                    raise RuntimeError(f"{' '.join(process.cmdline())[:200]} ({process.pid}) has outlived its cluster")
                time.sleep(0.005)


def end_nodes(data: Path) -> None:
    """End by force what a benchmark that was broken off has left; say so, since clusters that are closed leave none."""
    left = nodes(data)
    for process in left:
        with suppress(psutil.Error):
            process.kill()
    if left:
        sys.stderr.write(f"{len(left)} processes of nodes were left, and were ended by force.\n")


def _ready(state: Path, process: subprocess.Popen[bytes]) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            url = str(json.loads(state.read_text())["url"])
            if httpx.get(f"{url}/readyz").status_code == 200:
                return url
        except (OSError, ValueError, httpx.HTTPError):
            pass
        time.sleep(0.05)
    raise RuntimeError("the server did not become ready")


def _token(data: Path, url: str) -> str:
    setup = [PROGRAM, "server", "setup", "--data-dir", str(data), "--username", "bench", "--password-stdin"]
    subprocess.run(setup, input=PASSWORD, text=True, check=True, capture_output=True, timeout=REQUEST_SECONDS)  # noqa: S603 - our own
    login = {"username": "bench", "password": PASSWORD, "token_name": "bench"}
    answer = httpx.post(f"{url}/api/v1/login", json=login, timeout=REQUEST_SECONDS)
    answer.raise_for_status()
    return str(answer.json()["token"])


def wait_warm(server: Server) -> None:
    """Wait until the server would start a cluster as fast as it can: until all its spare nodes are there.

    Raises:
        RuntimeError: they are not.
    """
    deadline = time.monotonic() + WARM_SECONDS
    wanted = sum(number * (3 if children else 1) for children, number in WANTED.items())
    while len(spares(server)) < wanted:
        if time.monotonic() > deadline:
            raise RuntimeError("the server has no spare nodes")
        time.sleep(0.05)


def spares(server: Server) -> list[psutil.Process]:
    """Return the processes that wait to become nodes; a worker is three."""
    found = []
    for process in psutil.Process(server.pid).children(recursive=True):
        with suppress(psutil.Error):
            if process.cmdline()[-1:] == ["spare"]:
                found.append(process)
    return found
