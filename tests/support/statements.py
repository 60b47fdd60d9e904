"""Counting what a database is asked."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from sqlalchemy import event

from ropewalk.server.db.engine import Database

_counting: ContextVar[list[str] | None] = ContextVar("counting", default=None)


@contextmanager
def counted(database: Database) -> Iterator[list[str]]:
    """Yield the list of statements that the block makes on *database*, but for what begins a transaction.

    Those of a server's loops, which run beside it, are not the block's.
    """
    seen: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_: object) -> None:
        if _counting.get() is seen and not statement.startswith(("BEGIN", "PRAGMA")):
            seen.append(statement)

    engine = database.engine.sync_engine
    event.listen(engine, "before_cursor_execute", note)
    token = _counting.set(seen)
    try:
        yield seen
    finally:
        _counting.reset(token)
        event.remove(engine, "before_cursor_execute", note)
