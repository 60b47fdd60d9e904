"""Reading a pod's log: whole pieces while the pod exists, the end of it for the archive.

A kubelet cannot begin in the middle of a log, so a piece is read from the beginning and what came before it is thrown
away; kubelets begin a new file at 10 MiB, which bounds that.
"""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field

import aiohttp

from ropewalk.backends import logtext
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.archive import KEPT_LOG
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.port import LogChunk
from ropewalk.errors import BackendError

READ_SECONDS = 30.0
PIECE = 2**16


@dataclass(frozen=True, slots=True)
class Source:
    """A container of a pod; without its name, a pod with containers that others added has no log."""

    api: Api
    pod: str
    container: str

    def stream(self, silence: float, **query: str) -> AbstractAsyncContextManager[aiohttp.StreamReader]:
        """Open the log."""
        return self.api.stream("get", "pods/log", self.pod, {"container": self.container, **query}, silence=silence)


@dataclass(slots=True)
class Tail:
    """The end of a log, and how much came before it."""

    content: bytearray = field(default_factory=bytearray)
    start: int = 0

    def add(self, data: bytes) -> None:
        """Take more of the log."""
        self.content += data
        if len(self.content) > 2 * KEPT_LOG:
            self.cut()

    def cut(self) -> None:
        """Forget all but the end."""
        excess = max(0, len(self.content) - KEPT_LOG)
        del self.content[:excess]
        self.start += excess

    def chunk(self, cursor: str | None, limit: int, *, gone: bool) -> LogChunk:
        """Return a piece of what is here."""
        offset = max(self.start, logtext.offset_of(cursor))
        first = offset - self.start
        raw = bytes(self.content[first : first + logtext.room(limit)])
        return logtext.cut(raw, offset, limit, gone=gone)


async def read(source: Source, cursor: str | None, limit: int, *, gone: bool) -> LogChunk:
    """Return at most *limit* bytes of a pod's log from *cursor*; *gone* must have been found out before.

    Raises:
        FixItError: a cursor that is none.
        BackendError: it cannot be read.
    """
    offset = logtext.offset_of(cursor)
    wanted, skip, raw, total = logtext.room(limit), offset, bytearray(), 0
    try:
        async with source.stream(READ_SECONDS) as stream:
            while len(raw) < wanted and (data := await stream.read(PIECE)):
                total += len(data)
                raw += data[min(skip, len(data)) :]
                skip -= min(skip, len(data))
    except BackendError as exc:
        if not no_log_yet(exc):
            raise
        return LogChunk("", str(offset), gone)
    if skip and total < offset and not gone:
        # The kubelet began a new file: what is in it is all new.
        return await read(source, "0", limit, gone=gone)
    return logtext.cut(bytes(raw[:wanted]), offset, limit, gone=gone)


def no_log_yet(error: BackendError) -> bool:
    """Whether there is no log because the container was never made (400), or none any more (404)."""
    return status_of(error) in (400, 404)


async def follow(source: Source, tail: Tail, opened: asyncio.Event, *, until_end: bool, seconds: float) -> None:
    """Read a pod's log into *tail*, if asked until its container has ended; *opened* is set once it is being read.

    Whatever goes wrong, what has come so far stays: the end of a log is worth having, and worth no error.
    """
    query = {"follow": "true"} if until_end else {}
    try:
        async with asyncio.timeout(seconds):
            with contextlib.suppress(BackendError):
                async with source.stream(seconds, **query) as stream:
                    opened.set()
                    while data := await stream.read(PIECE):
                        tail.add(data)
    except TimeoutError:
        return
    finally:
        tail.cut()
        opened.set()
