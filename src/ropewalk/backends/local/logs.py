"""Reading a node's log in pieces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from ropewalk.backends import logtext
from ropewalk.backends.local import loglimit
from ropewalk.backends.port import LogChunk


def read(log: Path, cursor: str | None, limit: int, *, gone: bool) -> LogChunk:
    """Return at most *limit* bytes of *log* from *cursor*; *gone* must have been found out before.

    Where the log was longer than it may be, its beginning is missing, and a line says so in its place.

    Raises:
        FixItError: a cursor that is none.
        OSError: it cannot be read.
    """
    wanted = offset = logtext.offset_of(cursor)
    try:
        with log.open("rb") as file:
            offset = loglimit.begin(file.fileno(), wanted)
            file.seek(offset)
            raw = file.read(logtext.room(limit))
    except FileNotFoundError:
        raw = b""
    chunk = logtext.cut(raw, offset, limit, gone=gone)
    missing = offset - wanted
    return replace(chunk, text=_gap(missing) + chunk.text) if missing else chunk


def _gap(missing: int) -> str:
    return f"[{missing:,} bytes of this log are missing here: it was longer than a log may be (log_limit_mib)]\n"
