"""A private PostgreSQL server for one test session: on loopback, with a password, in a directory of its own."""

from __future__ import annotations

import asyncio
import contextlib
import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import asyncpg

from tests.support.waiting import PATIENCE

T = TypeVar("T")

_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "shared_buffers": "32MB",
    "max_connections": "200",
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",
    "logging_collector": "off",
    "autovacuum": "off",
    "jit": "off",
}


class NoPostgresError(Exception):
    """There are no server programs; says what is missing."""


@dataclass(frozen=True)
class PostgresServer:
    """A running server. ``kill`` and ``start`` let a test see what an outage does."""

    port: int
    password: str

    def url(self, database: str) -> str:
        return f"postgresql://ropewalk:{self.password}@127.0.0.1:{self.port}/{database}"

    async def execute(self, *statements: str) -> None:
        connection = await asyncpg.connect(self.url("postgres"))
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()


def in_thread(work: Coroutine[Any, Any, T]) -> T:
    """Run *work* in an event loop of its own, which a session-wide fixture needs."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(asyncio.run, work).result()


def find_programs() -> Path:
    """Return the directory of ``initdb`` and ``postgres``, newest version first."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda p: float(p.parent.name), reverse=True)
    found = shutil.which("initdb")
    for folder in [*versions, *([Path(found).resolve().parent] if found else [])]:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    raise NoPostgresError("PostgreSQL's server programs (initdb, postgres) are not installed")


def _account() -> dict[str, Any]:
    """Return arguments of Popen: PostgreSQL refuses to run as root."""
    if os.geteuid() != 0:
        return {}
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}
    raise NoPostgresError("PostgreSQL does not run as root, and there is no user postgres or nobody")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def postgres_server() -> Iterator[PostgresServer]:
    """Run a server for the length of the block."""
    programs, account = find_programs(), _account()
    folder = Path(tempfile.mkdtemp(prefix="ropewalk-pg-"))
    try:
        password, password_file = secrets.token_hex(16), folder / "password"
        password_file.write_text(password)
        data = folder / "data"
        data.mkdir(mode=0o700)
        if account:
            for path in (folder, password_file, data):
                os.chown(path, account["user"], account["group"])
        command: list[str | Path] = [programs / "initdb", "-D", data, "-U", "ropewalk", f"--pwfile={password_file}"]
        options = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C", "--no-sync"]
        subprocess.run([*command, *options], check=True, cwd=folder, stdout=subprocess.DEVNULL, **account)
        with _running(programs, data, folder, account, password) as server:
            yield server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def _running(
    programs: Path, data: Path, folder: Path, account: dict[str, Any], password: str
) -> Iterator[PostgresServer]:
    log = folder / "log"
    for _ in range(3):  # somebody else may take the free port first
        server = PostgresServer(free_port(), password)
        settings = [f"--{name}={value}" for name, value in _FAST.items()]
        with log.open("wb") as output:
            process = subprocess.Popen(
                [programs / "postgres", "-D", data, f"--port={server.port}", *settings],
                cwd=folder,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C is for pytest
                **account,
            )
        try:
            if _ready(server, process):
                yield server
                return
        finally:
            process.send_signal(signal.SIGINT)  # "fast shutdown": does not wait for clients
            process.wait(PATIENCE)
    raise AssertionError(f"PostgreSQL did not start: {log.read_text()[-2000:]}")


def _ready(server: PostgresServer, process: subprocess.Popen[bytes]) -> bool:
    deadline = time.monotonic() + PATIENCE
    while process.poll() is None and time.monotonic() < deadline:
        try:
            in_thread(server.execute("SELECT 1"))
        except (OSError, asyncpg.PostgresError):
            time.sleep(0.05)
        else:
            return True
    return False
