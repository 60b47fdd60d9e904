"""A page, not JSON, for browsers that go to an address where there is nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from starlette.exceptions import HTTPException

from ropewalk.server.web.deps import failure

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["add_handlers"]


def add_handlers(app: FastAPI) -> None:
    """Answer people with pages where *app* has no route; programs go on to get what they got before."""
    plain = cast("Callable[[Request, Exception], Awaitable[Response]]", app.exception_handlers[HTTPException])

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        for_people = "text/html" in request.headers.get("accept", "") and not request.url.path.startswith("/api/")
        if not for_people or exc.status_code not in (404, 405):
            return await plain(request, exc)
        advice = "The address may be mistyped, or what it was about is gone."
        return failure("There is nothing here", "This server has no such page.", advice, status=exc.status_code)
