"""A real ``ropewalk server start`` in a process of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

from tests.support.waiting import PATIENCE, wait_until

PROGRAM = (str(Path(sys.executable).with_name("ropewalk")),)


class ServerProcess:
    """Started with ``server start --data-dir … --port 0``; its output is in a file."""

    def __init__(self, data_dir: Path, *arguments: str, **environment: str) -> None:
        self.data_dir = data_dir
        self.log = data_dir.with_name(f"{data_dir.name}.log")
        command = [*PROGRAM, "server", "start", "--data-dir", str(data_dir), "--port", "0", *arguments]
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                command, stdout=output, stderr=output, stdin=subprocess.DEVNULL, env=os.environ | environment
            )

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def state(self) -> dict[str, Any]:
        """What ``server.json`` says."""
        found: dict[str, Any] = json.loads((self.data_dir / "server.json").read_text())
        return found

    @property
    def url(self) -> str:
        return str(self.state["url"])

    def address(self) -> str | None:
        """Return its address once it listens, also when it dies soon after."""
        with contextlib.suppress(FileNotFoundError, ValueError):
            return self.url if self.state["pid"] == self.process.pid else None
        return None

    def wait_ready(self, within: float = 120) -> ServerProcess:
        """Wait until it answers; fail with its output if it ends."""

        def ready() -> bool:
            assert self.process.poll() is None, self.output
            try:
                return self.state["pid"] == self.process.pid and httpx.get(f"{self.url}/readyz").status_code == 200
            except (FileNotFoundError, httpx.HTTPError):
                return False

        wait_until(ready, within=within)
        return self

    def stop(self, number: signal.Signals = signal.SIGTERM, within: float = PATIENCE) -> int:
        """Send a signal and return the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        return self.process.wait(within)


@contextmanager
def server_process(data_dir: Path, *arguments: str, **environment: str) -> Iterator[ServerProcess]:
    """Run a server for the length of the block; wait for it with ``wait_ready``."""
    server = ServerProcess(data_dir, *arguments, **environment)
    try:
        yield server
    finally:
        if server.process.poll() is None:
            server.stop(signal.SIGKILL)


def ropewalk(*arguments: str, stdin: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        [*PROGRAM, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=180,
        check=False,
        env=os.environ | environment,
    )
