"""A whole server that may change users."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.support import isolated
from tests.support import server_process as processes
from tests.support.server_process import ServerProcess, server_process
from tests.support.waiting import PATIENCE

__all__ = ["PASSWORD", "SOURCES", "server", "token"]

SOURCES = Path(__file__).parents[2] / "src"
PASSWORD = "correct-horse-9"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[ServerProcess]:
    """A server whose interpreter and data directory other users can reach."""
    program = (isolated.interpreter(), "-c", "from ropewalk.cli.main import main; main()")
    monkeypatch.setattr(processes, "PROGRAM", program)
    monkeypatch.setenv("PYTHONPATH", str(SOURCES))
    with server_process(isolated.data_dir()) as server:
        server.wait_ready()
        yield server


def token(server: ServerProcess) -> str:
    """Make the operator and return a token of theirs."""
    made = processes.ropewalk(
        "server", "setup", "--username", "ada", "--password-stdin", "--data-dir", str(server.data_dir),
        stdin=PASSWORD + "\n",
    )  # fmt: skip
    assert made.returncode == 0, made.stderr
    wish = {"username": "ada", "password": PASSWORD}
    login = httpx.post(f"{server.url}/api/v1/login", json=wish, timeout=PATIENCE)
    return str(login.json()["token"])
