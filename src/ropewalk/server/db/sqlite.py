"""Connections to SQLite that survive cancellation.

A task may be cancelled while a statement runs in aiosqlite's thread. Plain aiosqlite then leaves the statement running
with nobody waiting for it, and a connection that is closed with an open cursor keeps its locks until the cursor is
collected: on a database with one writer, everything would wait. Here a statement is always waited for, and whatever is
open is rolled back before a connection is closed. Opening and closing are waited for, too: a task that is cancelled
while it does either would leave a connection, with its thread and its file, that nobody else knows of.

A statement crosses to aiosqlite's thread once, and comes back with its rows. Plain aiosqlite crosses four times
(cursor, execution, rows, end), which cost more than the statements themselves (docs/explanation/performance.md). What
reads no file does not cross at all: the begin and the end of a transaction that only reads, and a rollback of nothing,
which SQLAlchemy's pool asks for after each transaction.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from asyncio import Future
from collections.abc import Iterable
from functools import partial
from typing import Any

import aiosqlite

BUSY_SECONDS = 30.0
"""How long a writer waits for another one; our transactions take milliseconds."""
BUSY_PAUSE = 0.01
"""Seconds between two tries where SQLite does not wait by itself."""
READ = "BEGIN"
"""Begins a transaction that only reads. SQLite takes no lock before its first statement."""
ROWS_PER_FETCH = 64
"""Rows that cross from aiosqlite's thread at once; its own default."""


class WholeCursor(aiosqlite.Cursor):
    """A cursor that has all rows when a statement has been executed. Its other methods do not block."""

    _conn: PatientConnection
    _rows: list[Any]
    _given = 0
    """Of these, how many were fetched in parts."""

    async def execute(self, sql: str, parameters: Iterable[Any] | None = None) -> WholeCursor:
        self._given = 0
        if sql == READ:
            self._rows = self._run(sql, ())
            self._conn.reading = True
        else:
            self._rows = await self._conn.patiently(self._run, sql, parameters or ())
        return self

    def _run(self, sql: str, parameters: Iterable[Any]) -> list[Any]:
        self._cursor.execute(sql, parameters)  # type: ignore[arg-type]  # sequences or mappings, as the caller has them
        return self._cursor.fetchall() if self._cursor.description else []

    async def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows[self._given :] if self._given else self._rows, []
        return rows

    async def fetchmany(self, size: int | None = None) -> list[Any]:
        """Return the next rows, for those who stream: they hold all rows, but only so many objects made of them."""
        rows = self._rows[self._given : self._given + (size or ROWS_PER_FETCH)]
        self._given += len(rows)
        return rows

    async def fetchone(self) -> Any:
        return next(iter(await self.fetchmany(1)), None)

    async def close(self) -> None:
        self._cursor.close()


class PatientConnection(aiosqlite.Connection):
    """An aiosqlite connection that never leaves a statement, a transaction or itself behind."""

    reading = False
    """A transaction is open that only reads: SQLite ends it without a look at the disk."""
    _stopped: Future[Any] | None = None

    def cursor(self) -> WholeCursor:  # type: ignore[override]  # which may be awaited or entered; SQLAlchemy enters it
        return WholeCursor(self, self._conn.cursor())

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        return await self.patiently(fn, *args, **kwargs)

    async def patiently(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        """Call *fn* in the connection's thread, and wait for it even if cancelled."""
        if not self._running or self._connection is None:
            raise ValueError("Connection closed")
        work: Future[Any] = asyncio.get_running_loop().create_future()
        self._tx.put_nowait((work, partial(fn, *args, **kwargs)))
        cancelled = await settled(work)
        if cancelled is not None:
            work.exception()  # who is cancelled does not ask for the result
            raise cancelled
        return work.result()

    async def commit(self) -> None:
        if self.reading:
            self._end_reading()
        else:
            await super().commit()

    async def rollback(self) -> None:
        if self.reading or not self._conn.in_transaction:
            self._end_reading()
            return
        try:
            await super().rollback()
        except asyncio.CancelledError:
            _put_off()  # it is done all the same

    def _end_reading(self) -> None:
        """End what only read, or nothing: a statement is always waited for, so the thread is at rest."""
        self._conn.rollback()
        self.reading = False

    async def close(self) -> None:
        ended = self.stop()
        if ended is not None and await settled(ended) is not None:
            _put_off()

    async def ended(self) -> None:
        """Wait for the end of the thread, which was told to end: it needs the event loop until then."""
        await asyncio.to_thread(self._thread.join)

    def stop(self) -> Future[Any] | None:
        """Let the thread roll back, close and end, however often this is called; returns what tells when it has."""
        if self._running:
            if self._connection is not None:
                self._tx.put_nowait((None, self._connection.rollback))
            self._stopped = super().stop()
        return self._stopped


async def settled(work: Future[Any]) -> asyncio.CancelledError | None:
    """Wait until *work* is done, however often the task is cancelled; returns the last of these, for whoever waits."""
    cancelled: asyncio.CancelledError | None = None
    while not work.done():
        try:
            await asyncio.wait([work])
        except asyncio.CancelledError as exc:
            cancelled = exc
    return cancelled


def _put_off() -> None:
    """Let a cancellation that came meanwhile wait for the task's next await.

    SQLAlchemy takes an exception here for a broken connection, or leaves the other ones of its pool open.
    """
    task = asyncio.current_task()
    if task is not None:
        task.uncancel()  # which keeps the count right that asyncio.timeout() looks at
        task.cancel()


async def connect(path: str) -> PatientConnection:
    """Open the file *path* in WAL mode; statements may run in any thread, one at a time."""
    connection = PatientConnection(partial(_open, path), ROWS_PER_FETCH)
    opening = asyncio.create_task(_opened(connection))
    cancelled = await settled(opening)
    if opening.cancelled() or opening.exception() is not None:
        await connection.ended()
    elif cancelled is not None:
        await connection.close()
    if cancelled is not None:
        raise cancelled
    return opening.result()


async def _opened(connection: PatientConnection) -> PatientConnection:
    await connection
    return connection


def _open(path: str) -> sqlite3.Connection:
    """Open the file; runs in aiosqlite's thread, which may wait."""
    connection = sqlite3.connect(path, timeout=BUSY_SECONDS, check_same_thread=False)
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as exc:
            # Two that change a new file's mode at once would wait for each other: SQLite refuses one at once.
            if exc.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                connection.close()
                raise
            time.sleep(BUSY_PAUSE)
        else:
            return connection
