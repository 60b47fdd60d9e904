"""Reading the log of a task from CloudWatch Logs, live and after its death.

A cursor is CloudWatch's token of a page and how many bytes of that page were read; the token of the first page is
empty.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from ropewalk.backends import logtext
from ropewalk.backends.aws.api import Aws, aws_code
from ropewalk.backends.aws.definitions import STREAM_PREFIX
from ropewalk.backends.aws.tasks import CONTAINER, task_id
from ropewalk.backends.port import LogChunk
from ropewalk.errors import FixItError

__all__ = ["LAST_WORDS", "Logs"]

EVENTS = 10_000
"""Events in one page at the most; a page has at most 1 MB, too (GetLogEvents in the CloudWatch Logs API reference)."""
HOPS = 20
"""Pages asked for by one reading at the most: an empty page is not the end of a log."""
LAST_WORDS = 10.0
"""Seconds after the end of a task until its log is taken for complete: CloudWatch shows events after a moment."""


class Logs:
    """Reads streams of one log group.

    Args:
        aws: Calls AWS.
        clock: Seconds since the epoch.
    """

    def __init__(self, aws: Aws, clock: Callable[[], float] = time.time) -> None:
        self._aws = aws
        self._clock = clock

    @staticmethod
    def check(cursor: str | None) -> None:
        """Raise FixItError for what is no cursor."""
        _position(cursor)

    async def read(self, group: str, arn: str, cursor: str | None, limit: int, ended_at: float | None) -> LogChunk:
        """Read at most *limit* bytes from *cursor*.

        Args:
            group: The log group.
            arn: The task's.
            cursor: Where the last reading ended; None: the beginning.
            limit: Bytes, at least 4.
            ended_at: When the task ended, in seconds since the epoch; None: it may still write.
        """
        over = ended_at is not None and self._clock() - ended_at >= LAST_WORDS
        token, offset = _position(cursor)
        for _ in range(HOPS):
            page = await self._page(group, arn, token)
            if page is None:
                return LogChunk("", _cursor(token, offset), complete=over)
            text = "".join(f"{event.get('message', '')}\n" for event in page.get("events") or ())
            raw = text.encode()[offset:]
            if raw:
                chunk = logtext.cut(raw[: logtext.room(limit)], offset, limit, gone=True)
                return self._chunk(chunk, page, token, offset, len(raw))
            if page["nextForwardToken"] == token:
                return LogChunk("", _cursor(token, offset), complete=over)
            token, offset = page["nextForwardToken"], 0
        return LogChunk("", _cursor(token, offset), complete=False)

    def _chunk(self, chunk: LogChunk, page: dict[str, Any], token: str, offset: int, size: int) -> LogChunk:
        read = int(chunk.cursor)
        if read < offset + size or page["nextForwardToken"] == token:
            return LogChunk(chunk.text, _cursor(token, read), complete=False)
        return LogChunk(chunk.text, _cursor(page["nextForwardToken"], 0), complete=False)

    async def _page(self, group: str, arn: str, token: str) -> dict[str, Any] | None:
        """Return a page; None: the task has not written anything yet."""
        stream = f"{STREAM_PREFIX}/{CONTAINER}/{task_id(arn)}"
        more = {"nextToken": token} if token else {}
        try:
            return await self._aws.call(
                "logs",
                "GetLogEvents",
                logGroupName=group,
                logStreamName=stream,
                startFromHead=True,
                limit=EVENTS,
                **more,
            )
        except FixItError as exc:
            if aws_code(exc) == "ResourceNotFoundException" and "stream" in exc.message.lower():
                return None
            if aws_code(exc) == "InvalidParameterException" and token:
                raise _wrong(token) from None
            raise


def _cursor(token: str, offset: int) -> str:
    return f"{offset}@{token}"


def _position(cursor: str | None) -> tuple[str, int]:
    if cursor is None:
        return "", 0
    offset, at, token = cursor.partition("@")
    if not at:
        raise _wrong(cursor)
    return token, logtext.offset_of(offset)


def _wrong(cursor: str) -> FixItError:
    return FixItError(
        f"{cursor[:40]!r} is not a cursor of this log.",
        field="cursor",
        advice="Pass the cursor of the previous page, or none to begin.",
    )
