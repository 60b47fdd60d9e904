"""Telling those who wait that something changed: in this process at once, in others by PostgreSQL's LISTEN/NOTIFY.

A topic is a short text, such as ``cluster:c-…`` (someone wishes something of a cluster) or ``events:c-…`` (something
happened to it). Nothing is carried but the topic: who is woken looks in the database.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import structlog
from sqlalchemy import event, text
from sqlalchemy.engine import make_url
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.server.db.engine import Database

CHANNEL = "ropewalk"
RECONNECT_SECONDS = 1.0

log = structlog.get_logger(__name__)


class Wakeups:
    """Wakes by topic. On SQLite, which has one server, everything stays in this process."""

    def __init__(self, db: Database) -> None:
        self.woken = 0
        """How often anything was: who looked before that changed has seen all there is."""
        self._db = db
        self._waiting: dict[str, set[asyncio.Event]] = defaultdict(set)
        self._listeners: set[Callable[[str], None]] = set()
        self._task: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begin to listen to other servers, where there can be any."""
        if not self._db.is_sqlite:
            self._task = asyncio.create_task(self._listen(), name="wakeups")

    async def stop(self) -> None:
        """Stop listening."""
        if self._task is not None:
            self._task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._task

    async def announce(self, session: AsyncSession, *topics: str) -> None:
        """Wake those who wait for *topics*, here and elsewhere, once the transaction of *session* is committed."""
        if not self._db.is_sqlite:
            for topic in topics:
                await session.execute(text("SELECT pg_notify(:channel, :topic)"), {"channel": CHANNEL, "topic": topic})

        @event.listens_for(session.sync_session, "after_commit", once=True)
        def committed(_session: Any) -> None:
            for topic in topics:
                self.wake(topic)

    def wake(self, topic: str) -> None:
        """Wake those in this process who wait for *topic*."""
        self.woken += 1
        for waiting in self._waiting.get(topic, ()):
            waiting.set()
        for listener in self._listeners:
            listener(topic)

    def wake_all(self) -> None:
        """Wake everybody in this process: what happened is not known, or concerns all."""
        for topic in list(self._waiting):
            self.wake(topic)
        self.wake("*")

    @contextlib.contextmanager
    def listener(self, function: Callable[[str], None]) -> Iterator[None]:
        """Call *function* with every topic that is woken, for the length of the block."""
        self._listeners.add(function)
        try:
            yield
        finally:
            self._listeners.discard(function)

    @contextlib.contextmanager
    def subscribe(self, topic: str) -> Iterator[asyncio.Event]:
        """Give an event that is set whenever *topic* is woken; clear it before you look."""
        waiting = asyncio.Event()
        self._waiting[topic].add(waiting)
        try:
            yield waiting
        finally:
            self._waiting[topic].discard(waiting)
            if not self._waiting[topic]:
                del self._waiting[topic]

    async def _listen(self) -> None:
        while True:
            try:
                async with self._connection() as lost:
                    # What was announced while nobody listened is unknown: let everyone look.
                    self.wake_all()
                    await lost.wait()
            except OSError as exc:
                log.warning("wakeups.connection_lost", error=type(exc).__name__)
            await asyncio.sleep(RECONNECT_SECONDS)

    @contextlib.asynccontextmanager
    async def _connection(self) -> AsyncIterator[asyncio.Event]:
        import asyncpg  # noqa: PLC0415 - an optional dependency, of PostgreSQL only

        lost = asyncio.Event()
        url = make_url(self._db.engine.url.render_as_string(hide_password=False)).set(drivername="postgresql")
        try:
            connection = await asyncpg.connect(url.render_as_string(hide_password=False), timeout=10)
        except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
            raise ConnectionError(str(type(exc).__name__)) from exc
        connection.add_termination_listener(lambda _connection: lost.set())
        try:
            try:
                await connection.add_listener(CHANNEL, lambda _c, _pid, _channel, topic: self.wake(str(topic)))
            except (asyncpg.PostgresError, asyncpg.InterfaceError) as exc:
                raise ConnectionError(str(type(exc).__name__)) from exc
            yield lost
        finally:
            # The loop may be closing and the server gone: ending the connection is all that matters.
            connection.terminate()


async def first_of(*events: asyncio.Event, seconds: float) -> bool:
    """Wait for one of *events*, *seconds* at the most; returns whether one came."""
    waits = [asyncio.ensure_future(event.wait()) for event in events]
    try:
        done, _ = await asyncio.wait(waits, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        return bool(done)
    finally:
        # Whoever reads a stream may go away meanwhile: their wait is cancelled, and must take these with it.
        for wait in waits:
            wait.cancel()
