"""A data directory with one user, real servers on it, and what runs of it on this machine."""

from __future__ import annotations

import contextlib
import os
import shutil
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest

from tests.support import server_process as processes
from tests.support.server_process import ServerProcess, ropewalk, server_process
from tests.support.waiting import PATIENCE, wait_until

PASSWORD = "correct-horse-9"
CRASHING = (sys.executable, "-m", "tests.support.crashing_server")
ROOT = Path(__file__).parents[2]

Request = tuple[str, str, dict[str, Any] | None]


class Installation:
    """A data directory with one user, and requests to whichever server runs on it."""

    def __init__(self, data_dir: Path, token: str) -> None:
        self.data_dir = data_dir
        self.headers = {"Authorization": f"Bearer {token}"}

    def crash(self, point: str, monkeypatch: pytest.MonkeyPatch, *requests: Request) -> None:
        """Run a server that dies at *point*, send it *requests*, and wait for its death."""
        with monkeypatch.context() as patch:
            patch.setattr(processes, "PROGRAM", CRASHING)
            with server_process(self.data_dir, CRASH_AT=point) as server:
                url = f"{wait_until(server.address, within=120)}/api/v1"
                for method, path, body in requests:
                    # It may die before it answers, or before it is asked: who asks then asks the next one again.
                    with contextlib.suppress(httpx.TransportError):
                        httpx.request(method, f"{url}/{path}", json=body, headers=self.headers, timeout=60)
                assert server.process.wait(120) == -9, server.output

    def ask(self, server: ServerProcess, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        answer = httpx.request(method, f"{server.url}/api/v1/{path}", json=body, headers=self.headers, timeout=60)
        assert answer.is_success, answer.text
        return answer.json()

    def create(self, server: ServerProcess, name: str, **fields: Any) -> None:
        small = {"worker_memory": "512 MiB", "scheduler_memory": "512 MiB"}
        self.ask(server, "POST", "accounts/ada/clusters", {"name": name, **small, **fields})

    def cluster(self, server: ServerProcess, name: str = "c") -> dict[str, Any]:
        found: dict[str, Any] = self.ask(server, "GET", f"accounts/ada/clusters/{name}")
        return found

    def wait_for(
        self, server: ServerProcess, state: str, workers: int | None = None, *, name: str = "c", within: float = 120
    ) -> dict[str, Any]:
        def there() -> dict[str, Any] | None:
            cluster = self.cluster(server, name)
            return cluster if cluster["state"] == state and workers in (None, cluster["workers_ready"]) else None

        return wait_until(there, within=within, every=0.05) or {}

    def nodes(self) -> Counter[str]:
        """Count the main processes of each node that run on this machine."""
        return Counter(name for name, _pid in self.processes())

    def processes(self) -> list[tuple[str, int]]:
        """Return node and pid of the main processes of nodes."""
        found = []
        for process in psutil.process_iter(["cmdline"]):
            words = process.info["cmdline"] or []
            if any(str(self.data_dir) in word and word.endswith("config.json") for word in words):
                found.append((Path(words[-1]).parent.name, process.pid))
        return found

    def pid(self, node: str) -> int:
        (pid,) = [pid for name, pid in self.processes() if name.endswith(node)]
        return pid


def made(data_dir: Path, **environment: str) -> tuple[Path, str]:
    """Make a data directory to copy; returns it and its user's token."""
    setup = ("server", "setup", "--data-dir", str(data_dir), "--username", "ada", "--password-stdin")
    with server_process(data_dir, **environment) as server:
        server.wait_ready()
        done = ropewalk(*setup, stdin=PASSWORD, **environment)
        assert done.returncode == 0, done.stderr
        login = {"username": "ada", "password": PASSWORD, "token_name": "t"}
        token = httpx.post(f"{server.url}/api/v1/login", json=login, timeout=PATIENCE).json()["token"]
        server.stop()
    return data_dir, token


@contextlib.contextmanager
def copied(template: tuple[Path, str], data_dir: Path) -> Iterator[Installation]:
    """Give a copy of a data directory, of which nothing runs any more after the block."""
    shutil.copytree(template[0], data_dir)
    try:
        yield Installation(data_dir, template[1])
    finally:
        for process in psutil.process_iter(["cmdline"]):
            if any(str(data_dir) in word for word in process.info["cmdline"] or []):
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()


def python_path() -> str:
    """Return PYTHONPATH for servers that import our tests."""
    return os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
