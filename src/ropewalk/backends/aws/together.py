"""Steps that go on beside each other, and the one stream of resources that they make.

A step that made something hands it over and waits until it was stored, so whatever happens, at most one thing for each
branch exists that is not stored; it is found by its tags the next time.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from typing import Any

from ropewalk.backends.port import Resource
from ropewalk.errors import BackendError, FixItError, TryAgainError

__all__ = ["Tell", "combined", "stream", "together"]

Tell = Callable[[Resource], Awaitable[None]]
"""Hand a resource to whoever stores it; returns when it is stored."""


async def together(*steps: Coroutine[Any, Any, None]) -> None:
    """Run steps to their ends, also when some fail; then raise what went wrong, all of it at once.

    So that a person learns of every permission that is missing, and not of one after the other.
    """
    tasks = [asyncio.create_task(step) for step in steps]
    try:
        results = await asyncio.gather(*tasks, return_exceptions=True)
    finally:
        await _end(tasks)
    errors: list[BackendError] = []
    for result in results:
        if isinstance(result, BackendError):
            errors.append(result)
        elif isinstance(result, BaseException):
            raise result
    if errors:
        raise combined(errors)


def combined(errors: Sequence[BackendError]) -> BackendError:
    """Return one error for several: what a person must do comes before what passes by itself."""
    for error in errors:
        if error.details.get("credentials") == "invalid":
            return error  # all others follow from it
    relevant = [error for error in errors if isinstance(error, FixItError)] or list[BackendError](errors)
    different = list({error.message: error for error in relevant}.values())
    first = different[0]
    if len(different) == 1:
        return first
    details = {"errors": [error.body() for error in different]}
    message = " ".join(error.message for error in different)
    advice = " ".join(dict.fromkeys(error.advice for error in different if error.advice)) or None
    if isinstance(first, TryAgainError):
        delay = max(error.delay for error in different if isinstance(error, TryAgainError))
        return TryAgainError(message, advice=advice, details=details, delay=delay)
    return FixItError(message, advice=advice, field=first.field, details=details)


async def stream(run: Callable[[Tell], Coroutine[Any, Any, None]]) -> AsyncIterator[Resource]:
    """Yield what *run* tells; what it raises comes at the end. Closing the stream cancels *run*."""
    told: asyncio.Queue[tuple[Resource, asyncio.Event]] = asyncio.Queue()

    async def tell(resource: Resource) -> None:
        stored = asyncio.Event()
        await told.put((resource, stored))
        await stored.wait()

    work = asyncio.create_task(run(tell))
    try:
        while (item := await _next(told, work)) is not None:
            yield item[0]
            item[1].set()
        await work
    finally:
        await _end([work])


async def _next(
    told: asyncio.Queue[tuple[Resource, asyncio.Event]], work: asyncio.Task[None]
) -> tuple[Resource, asyncio.Event] | None:
    getting = asyncio.create_task(told.get())
    try:
        await asyncio.wait({getting, work}, return_when=asyncio.FIRST_COMPLETED)
        return getting.result() if getting.done() else None
    finally:
        await _end([getting])


async def _end(tasks: Sequence[asyncio.Task[Any]]) -> None:
    for task in tasks:
        task.cancel()
    if tasks:
        await asyncio.wait(tasks)
    for task in tasks:
        if not task.cancelled():
            task.exception()  # seen: the loop need not complain
