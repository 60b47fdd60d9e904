"""Connections to SQLite that survive cancellation.

A task may be cancelled while a statement runs in aiosqlite's thread. Plain aiosqlite then leaves the statement running
with nobody waiting for it, and a connection that is closed with an open cursor keeps its locks until the cursor is
collected: on a database with one writer, everything would wait. Here a statement is always waited for, and whatever is
open is rolled back before a connection is closed.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from asyncio import Future
from typing import Any

import aiosqlite

ROWS_PER_FETCH = 64
"""Rows that cross from aiosqlite's thread at once; its own default."""


class PatientConnection(aiosqlite.Connection):
    """An aiosqlite connection that never leaves a statement or a transaction behind."""

    async def _execute(self, fn: Any, *args: Any, **kwargs: Any) -> Any:
        # aiosqlite types none of its inner methods.
        work: Future[Any] = asyncio.ensure_future(super()._execute(fn, *args, **kwargs))  # type: ignore[no-untyped-call]
        cancelled: asyncio.CancelledError | None = None
        while not work.done():
            try:
                await asyncio.wait([work])
            except asyncio.CancelledError as exc:
                cancelled = exc
        if cancelled is not None:
            work.exception()  # who is cancelled does not ask for the result
            raise cancelled
        return work.result()

    async def rollback(self) -> None:
        try:
            await super().rollback()
        except asyncio.CancelledError:
            # It is done all the same. SQLAlchemy takes an exception here for a broken connection, so the cancellation
            # is put off to the task's next await; uncancel() keeps the count right that asyncio.timeout() looks at.
            task = asyncio.current_task()
            if task is None:
                raise
            task.uncancel()
            task.cancel()

    async def close(self) -> None:
        if self._connection is not None:
            with contextlib.suppress(sqlite3.Error, ValueError):
                await self._execute(self._connection.rollback)
        await super().close()

    def stop(self) -> Future[Any] | None:
        connection = self._connection
        if connection is not None:
            self._tx.put_nowait((None, connection.rollback))
        return super().stop()


async def connect(path: str) -> PatientConnection:
    """Open the file *path*; statements may run in any thread, one at a time."""
    connection = PatientConnection(lambda: sqlite3.connect(path, check_same_thread=False), ROWS_PER_FETCH)
    await connection
    return connection
