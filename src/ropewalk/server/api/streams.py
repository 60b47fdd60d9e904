"""Events as they happen: server-sent events of a cluster or a cloud account."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeAlias

from fastapi.responses import StreamingResponse

from ropewalk.server.identity import access
from ropewalk.server.wakeups import first_of

if TYPE_CHECKING:
    from ropewalk.schemas.common import Event
    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import Caller

__all__ = ["KEEP_ALIVE_SECONDS", "Feed", "Seen"]

KEEP_ALIVE_SECONDS = 15.0
"""A comment is sent on a quiet stream this often, so that proxies keep it open and a dead peer is noticed."""

Seen: TypeAlias = "tuple[list[Event], bool]"
"""Events, and whether more can follow."""


@dataclass(kw_only=True, slots=True)
class Feed:
    """Events of one thing, told until no more can follow, the caller may not see them, or the server stops.

    Attributes:
        context: The server's services.
        caller: Who gets them. Looked up again before anything is sent, so nothing is told to somebody whose token was
            revoked, and within :data:`KEEP_ALIVE_SECONDS` the stream ends.
        topic: What is woken when there may be more.
        look: Returns what happened after the event of that id.
        first: What it returned for *after*, so that errors come before the stream.
        after: The last event that the client has seen.
        woken: What ``context.wakeups.woken`` was before the first look; None: not known.
    """

    context: Context
    caller: Caller
    topic: str
    look: Callable[[int], Awaitable[Seen]]
    first: Seen
    after: int
    woken: int | None = None

    def response(self) -> StreamingResponse:
        """Return the stream, as server-sent events."""
        headers = {"Cache-Control": "no-store"}
        return StreamingResponse(self._follow(), media_type="text/event-stream", headers=headers)

    async def _follow(self) -> AsyncIterator[str]:
        found, more = self.first
        stopping = self.context.stopping
        with self.context.wakeups.subscribe(self.topic) as changed:
            if self.woken != self.context.wakeups.woken:
                # What happened between the first look and the subscription is found by looking at once.
                changed.set()
            while True:
                for event in found:
                    self.after = event.id
                    yield f"id: {event.id}\nevent: {event.code}\ndata: {event.model_dump_json()}\n\n"
                if (not more and not found) or stopping.is_set():
                    return
                if more and not await first_of(changed, stopping, seconds=KEEP_ALIVE_SECONDS):
                    yield ": still here\n\n"
                if stopping.is_set():
                    return  # the client asks the next server for what follows
                changed.clear()
                found, more = await self.look(self.after)
                # After the look: what happens once the caller may not see it any more is not told.
                if not await access.still(self.context, self.caller):
                    return  # the client asks again, and is told why not
