"""The log of a build as it grows: server-sent events."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse

from ropewalk.server.api.streams import KEEP_ALIVE_SECONDS
from ropewalk.server.environments import builds
from ropewalk.server.environments.report import log_topic
from ropewalk.server.identity import access
from ropewalk.server.wakeups import first_of

if TYPE_CHECKING:
    from ropewalk.schemas.environments import LogPart
    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["grown", "respond"]

PART = 1_000_000
"""Bytes of one event at the most."""


async def grown(
    context: Context, caller: AccountCaller, build: str, offset: int, limit: int, seconds: float
) -> LogPart:
    """Return what follows byte *offset*; if there is nothing yet, wait for it, *seconds* at the most."""
    with context.wakeups.subscribe(log_topic(build)) as changed:
        part = await builds.log(context, caller, build, offset, limit)
        if seconds and not part.text and not part.complete:
            await first_of(changed, context.stopping, seconds=seconds)
            part = await builds.log(context, caller, build, offset, limit)
        return part


def respond(context: Context, caller: AccountCaller, build: str, first: LogPart) -> StreamingResponse:
    """Return the log from *first* on, until the build is over, the caller may not see it, or the server stops."""
    stream = _follow(context, caller, build, first)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _follow(context: Context, caller: AccountCaller, build: str, part: LogPart) -> AsyncIterator[str]:
    with context.wakeups.subscribe(log_topic(build)) as changed:
        # What happened between the first look and the subscription is found by looking at once.
        changed.set()
        while True:
            if part.text or part.complete:
                yield f"id: {part.next}\nevent: log\ndata: {part.model_dump_json()}\n\n"
            if part.complete or context.stopping.is_set():
                return
            # Another server may build it: its words are found in the file, by looking now and then.
            if not await first_of(changed, context.stopping, seconds=KEEP_ALIVE_SECONDS):
                yield ": still here\n\n"
            changed.clear()
            if not await access.still(context, caller):
                return
            part = await builds.log(context, caller, build, part.next, PART)
