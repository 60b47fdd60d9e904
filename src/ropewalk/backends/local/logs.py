"""Reading a node's log in pieces."""

from __future__ import annotations

from pathlib import Path

from ropewalk.backends import logtext
from ropewalk.backends.port import LogChunk


def read(log: Path, cursor: str | None, limit: int, *, gone: bool) -> LogChunk:
    """Return at most *limit* bytes of *log* from *cursor*; *gone* must have been found out before.

    Raises:
        FixItError: a cursor that is none.
        OSError: it cannot be read.
    """
    offset = logtext.offset_of(cursor)
    try:
        with log.open("rb") as file:
            file.seek(offset)
            raw = file.read(logtext.room(limit))
    except FileNotFoundError:
        raw = b""
    return logtext.cut(raw, offset, limit, gone=gone)
