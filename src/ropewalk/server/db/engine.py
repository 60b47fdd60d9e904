"""Sessions on SQLite or PostgreSQL with the same meaning on both.

A transaction begins by taking what it will write: on SQLite the one write lock (``BEGIN IMMEDIATE``), on PostgreSQL
the row locks of the statements. Transactions are short and never span a network call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, InterfaceError, NoSuchModuleError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, async_sessionmaker, create_async_engine
from sqlalchemy.pool import ConnectionPoolEntry, Pool, QueuePool

from ropewalk.errors import SettingsError, UnavailableError
from ropewalk.server.db import sqlite

FROZEN_SECONDS = 15.0
"""PostgreSQL ends a connection whose transaction has been idle this long. None of ours waits for anything else in
between, so its server is frozen or its machine is gone; until then nobody could take over the rows that it locked."""

CLOSE_SECONDS, CLOSE_PAUSE = 2.0, 0.005
"""How long the end waits for connections in use: what was cancelled gives them back within milliseconds."""

_READ = "ropewalk_read"
"""Execution option of connections that only read."""

_DRIVERS = {"sqlite": "sqlite+aiosqlite", "postgresql": "postgresql+asyncpg", "postgres": "postgresql+asyncpg"}


def async_url(url: str) -> str:
    """Return *url* with our driver in it; refuses databases other than SQLite and PostgreSQL."""
    try:
        parsed = make_url(url)
    except ArgumentError:
        raise SettingsError(
            "The database URL cannot be parsed.",
            advice="Use sqlite:////path/to/ropewalk.db or postgresql://user:password@host/name.",
            field="database_url",
        ) from None
    backend = parsed.drivername.split("+")[0]
    if backend not in _DRIVERS:
        raise SettingsError(
            f"The database {backend!r} is not supported.",
            advice="Use sqlite:////path/to/ropewalk.db or postgresql://user:password@host/name.",
            field="database_url",
        )
    return parsed.set(drivername=_DRIVERS[backend]).render_as_string(hide_password=False)


def hint(exc: BaseException) -> str:
    """Return why the database could not be used, in one line and without the statement or its parameters."""
    cause = getattr(exc, "orig", None) or exc
    return (str(cause).strip().splitlines() or [type(cause).__name__])[0].rstrip(".")[:300]


_OUTAGES = ("08", "25P03", "40", "53", "57", "58")
"""SQLSTATE (PostgreSQL, appendix A) and classes of it: connection, idle in a transaction for too long, rolled back by
the server (deadlock), out of resources, operator intervention (shutdown), system error."""


def _is_outage(exc: DBAPIError) -> bool:
    """Return whether the same work may succeed later. Broken constraints, for example, go on as they are."""
    state = str(getattr(exc.orig, "sqlstate", None) or "")
    lost = exc.connection_invalidated or isinstance(exc, OperationalError | InterfaceError)
    return lost or state.startswith(_OUTAGES)


class Database:
    """An engine and its sessions.

    Args:
        url: ``sqlite:///…`` or ``postgresql://…``.
        pool_size: Connections at the most; PostgreSQL only.
    """

    def __init__(self, url: str, *, pool_size: int = 10) -> None:
        full = async_url(url)
        self.is_sqlite = full.startswith("sqlite")
        frozen = {"idle_in_transaction_session_timeout": str(round(FROZEN_SECONDS * 1000))}
        options: dict[str, Any] = {
            "pool_size": pool_size,
            "pool_pre_ping": True,
            "connect_args": {"server_settings": frozen},
        }
        if self.is_sqlite:
            options = {"async_creator": partial(sqlite.connect, str(make_url(full).database))}
        try:
            self.engine: AsyncEngine = create_async_engine(full, hide_parameters=True, **options)
        except (ModuleNotFoundError, NoSuchModuleError) as exc:
            raise SettingsError(
                f"The driver for this database is not installed: {exc}.",
                advice="Install it, in a checkout of Ropewalk, with: pip install '.[server,postgres]'.",
                field="database_url",
            ) from None
        if self.is_sqlite:
            _configure_sqlite(self.engine)
        self._sessions = async_sessionmaker(self.engine, expire_on_commit=False)
        self._readers = async_sessionmaker(self.engine.execution_options(**{_READ: True}), expire_on_commit=False)

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator[AsyncSession]:
        """Give a session whose work is committed at the end of the block, or rolled back by an exception.

        Raises:
            UnavailableError: The database cannot be used at the moment. Nothing was done, unless the connection was
                lost during the very commit.
        """
        async with self._work(self._sessions) as session:
            yield session

    @asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncSession]:
        """Give a session that only reads: on SQLite it never waits for a writer, and no writer waits for it."""
        async with self._work(self._readers) as session:
            yield session

    @asynccontextmanager
    async def _work(self, sessions: async_sessionmaker[AsyncSession]) -> AsyncIterator[AsyncSession]:
        try:
            async with sessions() as session, session.begin():
                try:
                    await session.connection()
                except (OSError, PoolTimeoutError, DBAPIError) as exc:
                    raise self._unavailable(exc) from exc
                yield session
        except DBAPIError as exc:
            if _is_outage(exc):
                raise self._unavailable(exc) from exc
            raise

    def _unavailable(self, exc: Exception) -> UnavailableError:
        return UnavailableError(f"The database cannot be used at the moment: {hint(exc)}.", advice="Try again soon.")

    async def serialize(self, session: AsyncSession, name: str) -> None:
        """Wait until no other transaction that asked for *name* is open, and hold it until this one ends.

        For making a row that may not exist yet, which no row lock can guard. On SQLite every transaction is alone.
        """
        if not self.is_sqlite:
            await session.execute(text("SELECT pg_advisory_xact_lock(hashtextextended(:name, 0))"), {"name": name})

    @property
    def advice(self) -> str:
        """What to look at when it cannot be used."""
        url = self.engine.url
        if self.is_sqlite:
            return (
                f"Check that the file {url.database} and its directory can be written, and that the disk is not full."
            )
        return f"Check that PostgreSQL runs at {url.host}:{url.port or 5432} and that database_url is right."

    async def close(self) -> None:
        """Close all connections, also if cancelled meanwhile.

        Those in use are waited for; what is given back later than that is closed then.
        """
        closing = asyncio.create_task(self._close())
        cancelled = await sqlite.settled(closing)
        if cancelled is not None:
            raise cancelled
        closing.result()

    async def _close(self) -> None:
        pool = self.engine.sync_engine.pool
        deadline = time.monotonic() + CLOSE_SECONDS
        try:
            while _used(pool) and time.monotonic() < deadline:  # noqa: ASYNC110 - the pool tells nobody
                await asyncio.sleep(CLOSE_PAUSE)
        finally:
            # Nobody will ask the pool for what comes back to it now.
            event.listen(pool, "checkin", _close_returned)
            await self.engine.dispose()


def _close_returned(_connection: Any, record: ConnectionPoolEntry) -> None:
    record.invalidate()


def _used(pool: Pool) -> bool:
    return isinstance(pool, QueuePool) and pool.checkedout() > 0


def _configure_sqlite(engine: AsyncEngine) -> None:
    @event.listens_for(engine.sync_engine, "connect")
    def connect(connection: Any, _record: Any) -> None:
        # We emit BEGIN ourselves, see below: https://docs.sqlalchemy.org/en/20/dialects/sqlite.html#pysqlite-serializable
        connection.isolation_level = None
        cursor = connection.cursor()
        cursor.execute("PRAGMA foreign_keys=ON")
        # NORMAL keeps the file consistent in WAL mode and may lose the last commits on power loss, which would break
        # "write before you call"; FULL does not.
        cursor.execute("PRAGMA synchronous=FULL")
        cursor.close()

    @event.listens_for(engine.sync_engine, "begin")
    def begin(connection: Any) -> None:
        reading = connection.get_execution_options().get(_READ)
        connection.exec_driver_sql(sqlite.READ if reading else "BEGIN IMMEDIATE")
