"""A real server in a process of its own, with one user, as the other side of a benchmark."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import psutil

PROGRAM = str(Path(sys.executable).with_name("ropewalk"))
PASSWORD = "benchmark-only-1"  # noqa: S105 - of a server that lives for a minute
READY_SECONDS, WARM_SECONDS = 60.0, 60.0


@dataclass(frozen=True, slots=True)
class Server:
    """Where it is, and how to be let in."""

    url: str
    token: str
    pid: int


@contextmanager
def server() -> Iterator[Server]:
    """Run a server that is warm: it has forked its last import."""
    with tempfile.TemporaryDirectory(prefix="ropewalk-bench-") as folder:
        data = Path(folder) / "data"
        with (Path(folder) / "log").open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [PROGRAM, "server", "start", "--data-dir", str(data), "--port", "0"], stdout=log, stderr=log
            )
        try:
            url = _ready(data / "server.json", process)
            yield Server(url, _token(data, url), process.pid)
        finally:
            process.terminate()
            process.wait(60)


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
    subprocess.run(setup, input=PASSWORD, text=True, check=True, capture_output=True)  # noqa: S603 - our own program
    login = {"username": "bench", "password": PASSWORD, "token_name": "bench"}
    answer = httpx.post(f"{url}/api/v1/login", json=login)
    answer.raise_for_status()
    return str(answer.json()["token"])


def wait_warm(server: Server) -> None:
    """Wait until the warm parent has nothing to import any more, which its processor time tells."""
    deadline = time.monotonic() + WARM_SECONDS
    spent = -1.0
    while time.monotonic() < deadline:
        parents = [p for p in psutil.Process(server.pid).children() if "warm.py" in " ".join(p.cmdline())]
        now = sum(p.cpu_times().user for p in parents)
        if parents and now == spent:
            return
        spent = now
        time.sleep(0.5)
