"""Tells an open page that something changed; the page then asks for itself again. No data goes this way."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from fastapi.responses import StreamingResponse

from ropewalk.server.identity import access, sessions
from ropewalk.server.wakeups import first_of

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import Caller

__all__ = ["KEEP_ALIVE_SECONDS", "LEAST_SECONDS", "allowed", "respond"]

KEEP_ALIVE_SECONDS = 15.0
"""A comment is sent on a quiet stream this often: proxies keep it open, and the end of a session is noticed."""

LEAST_SECONDS = 0.5
"""A busy account changes a page at most this often."""


def respond(context: Context, caller: Caller, cookie: str, topic: str) -> StreamingResponse:
    """Return a stream that says ``changed`` when *topic* is woken, until the session ends or the server stops.

    Args:
        context: The server's services.
        caller: Who gets it; an account's, while they may see the account.
        cookie: Of the session.
        topic: See :mod:`ropewalk.server.wakeups`.
    """
    stream = _follow(context, caller, cookie, topic)
    return StreamingResponse(stream, media_type="text/event-stream", headers={"Cache-Control": "no-store"})


async def _follow(context: Context, caller: Caller, cookie: str, topic: str) -> AsyncIterator[str]:
    with context.wakeups.subscribe(topic) as changed:
        # A browser that comes back, after a restart of the server for example, has missed something.
        yield "retry: 2000\nevent: changed\ndata: \n\n"
        while await allowed(context, caller, cookie):
            woken = await first_of(changed, context.stopping, seconds=KEEP_ALIVE_SECONDS)
            if context.stopping.is_set():
                return
            changed.clear()
            yield "event: changed\ndata: \n\n" if woken else ": still here\n\n"
            if woken:
                await first_of(context.stopping, seconds=LEAST_SECONDS)
        # The page asks for itself a last time, and is told why it is not for this browser any more.
        yield "event: changed\ndata: \n\n"


async def allowed(context: Context, caller: Caller, cookie: str) -> bool:
    """Return whether whoever opened a stream may still have it."""
    return await sessions.find(context, cookie) is not None and await access.still(context, caller)
