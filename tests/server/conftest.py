"""Databases, the application and people for tests of the server. Every test that takes one of the first three fixtures
below, directly or not, runs on SQLite and on PostgreSQL.
"""

from __future__ import annotations

import io
import logging
import secrets
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import structlog
from fastapi import FastAPI
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher

from ropewalk.server.app import create_app
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.context import Context
from ropewalk.server.db import migrate
from ropewalk.server.db.engine import Database
from ropewalk.server.logs import configure_logs
from ropewalk.server.secrets import Vault, generate_key
from ropewalk.server.settings import Settings
from ropewalk.server.wakeups import Wakeups
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.compiled import compiled_once
from tests.support.postgres import NoPostgresError, PostgresServer, in_thread, postgres_server
from tests.support.waiting import PATIENCE

DATABASES = ("sqlite", "postgresql")


@pytest.fixture(scope="session", autouse=True)
def statements_compiled_once() -> Iterator[None]:
    with compiled_once():
        yield


async def _migrate(url: str) -> None:
    database = Database(url)
    try:
        await migrate.upgrade(database)
    finally:
        await database.close()


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A private PostgreSQL server."""
    try:
        running = postgres_server()
        with running as server:
            yield server
    except NoPostgresError as exc:
        pytest.skip(str(exc))


@pytest.fixture(scope="session")
def postgres_template(postgres: PostgresServer) -> str:
    """The name of a migrated database to copy: that takes a tenth of the time of migrating."""
    in_thread(postgres.execute("CREATE DATABASE migrated"))
    in_thread(_migrate(postgres.url("migrated")))
    return "migrated"


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A migrated file to copy."""
    path = tmp_path_factory.mktemp("sqlite") / "migrated.db"
    in_thread(_migrate(f"sqlite:///{path}"))
    return path


@pytest.fixture(params=DATABASES)
async def empty_database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """URL of a database without tables."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/ropewalk.db"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    async for url in _postgres_database(server, "template1"):
        yield url


@pytest.fixture(params=DATABASES)
async def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[str]:
    """URL of a migrated database without rows."""
    if request.param == "sqlite":
        path = tmp_path / "ropewalk.db"
        shutil.copy(request.getfixturevalue("sqlite_template"), path)
        yield f"sqlite:///{path}"
        return
    server: PostgresServer = request.getfixturevalue("postgres")
    template: str = request.getfixturevalue("postgres_template")
    async for url in _postgres_database(server, template):
        yield url


async def _postgres_database(server: PostgresServer, template: str) -> AsyncIterator[str]:
    name = f"test_{secrets.token_hex(6)}"
    await server.execute(f"CREATE DATABASE {name} TEMPLATE {template}")
    yield server.url(name)
    await server.execute(f"DROP DATABASE {name} WITH (FORCE)")


@pytest.fixture
async def database(database_url: str) -> AsyncIterator[Database]:
    """A migrated database without rows."""
    made = Database(database_url)
    yield made
    await made.close()


@pytest.fixture(autouse=True)
def cheap_hashes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Hash passwords with argon2's least parameters: the real ones take a tenth of a second."""
    hasher = PasswordHash((Argon2Hasher(time_cost=1, memory_cost=8, parallelism=1),))
    monkeypatch.setattr("ropewalk.server.identity.passwords.HASHER", hasher)


@pytest.fixture(autouse=True)
def patient_readiness(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a server be ready whose database answers late: that is the machine, which is busy."""
    monkeypatch.setattr("ropewalk.server.readiness.CHECK_SECONDS", PATIENCE)


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def vault() -> Vault:
    return Vault([generate_key()])


@pytest.fixture
def settings(tmp_path: Path, database_url: str) -> Settings:
    """Settings of a server in the test's directory."""
    return Settings(data_dir=tmp_path / "data", database_url=database_url, host="127.0.0.1", port=0)


@pytest.fixture
async def context(settings: Settings, database: Database, vault: Vault, clock: FakeClock) -> AsyncIterator[Context]:
    """What services take, without the web application around it."""
    backends = Backends()
    backends.bind(database, settings, vault)
    yield Context(settings, database, vault, clock, backends, Wakeups(database))
    await backends.close()


@pytest.fixture
def backends() -> Backends:
    """The backends of the application; a test module may override it with ones in memory."""
    return Backends()


@pytest.fixture
async def app(settings: Settings, clock: FakeClock, backends: Backends) -> AsyncIterator[FastAPI]:
    """The whole application, started, on a fake clock."""
    made = create_app(settings, clock=clock, backends=backends)
    async with made.router.lifespan_context(made):
        yield made


@pytest.fixture
async def api(app: FastAPI) -> AsyncIterator[Api]:
    """Requests to :func:`app`, and people to send them."""
    async with Api(app) as made:
        yield made


@pytest.fixture
def logs() -> Iterator[io.StringIO]:
    """What is logged as JSON, with the logging of the test session put back afterwards."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    stream = io.StringIO()
    configure_logs("info", "json", stream)
    yield stream
    logging.captureWarnings(False)
    structlog.reset_defaults()
    root.handlers[:], root.level = handlers, level
