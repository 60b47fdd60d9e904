"""Cutting a node's log, which is bytes, into pieces of text that can be asked for one after the other."""

from __future__ import annotations

import codecs

from ropewalk.backends.port import LogChunk
from ropewalk.errors import FixItError

_LONGEST = 4
"""Bytes of the longest character in UTF-8; a smaller piece might not hold one."""

_DIGITS = 18
"""More than the size of any file has, and what fits into a C long."""


def offset_of(cursor: str | None) -> int:
    """Return the byte offset that *cursor* means.

    Raises:
        FixItError: it is no cursor.
    """
    if cursor is None:
        return 0
    if not cursor.isascii() or not cursor.isdigit() or len(cursor) > _DIGITS:
        raise FixItError(
            f"{cursor[:40]!r} is not a cursor of this log.",
            field="cursor",
            advice="Pass the cursor of the previous page, or none to begin.",
        )
    return int(cursor)


def room(limit: int) -> int:
    """Return how many bytes to read for a piece of *limit* bytes: one more tells whether something follows."""
    return max(limit, _LONGEST) + 1


def cut(raw: bytes, offset: int, limit: int, *, gone: bool) -> LogChunk:
    """Return at most *limit* bytes (at least 4) of *raw*, which was read at *offset*, whole characters only.

    Args:
        raw: :func:`room` bytes, or fewer at the end of the log.
        offset: Where they were read.
        limit: What the caller asked for.
        gone: Nothing more will be written, found out before reading.
    """
    size = room(limit) - 1
    more, raw = len(raw) > size, raw[:size]
    last = gone and not more
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    text = decoder.decode(raw, final=last)
    unread = len(decoder.getstate()[0])
    return LogChunk(text, str(offset + len(raw) - unread), complete=last)
