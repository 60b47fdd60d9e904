"""Waiting for a condition with a deadline, in place of sleeping."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from inspect import isawaitable
from typing import Any, TypeVar, overload

T = TypeVar("T")

PATIENCE = 60.0
"""Seconds to wait for what has to happen. No test passes or fails by how fast or busy a machine is: on an idle
one nearly all of it takes less than one."""


@overload
async def eventually(
    condition: Callable[[], Awaitable[T | None]], *, within: float = PATIENCE, every: float = 0.02
) -> T: ...


@overload
async def eventually(condition: Callable[[], T | None], *, within: float = PATIENCE, every: float = 0.02) -> T: ...


async def eventually(condition: Callable[[], Any], *, within: float = PATIENCE, every: float = 0.02) -> T:
    """Return the first true value of *condition*; fail after *within* seconds."""
    deadline = time.monotonic() + within
    while True:
        result = condition()
        value = await result if isawaitable(result) else result
        if value:
            return value  # type: ignore[no-any-return] # the overloads say what it is
        assert time.monotonic() < deadline, f"not within {within} seconds: {condition}; last seen: {value!r}"
        await asyncio.sleep(every)


def wait_until(condition: Callable[[], T], *, within: float = PATIENCE, every: float = 0.02) -> T:
    """As :func:`eventually`, for tests without an event loop."""
    deadline = time.monotonic() + within
    while True:
        value = condition()
        if value:
            return value
        assert time.monotonic() < deadline, f"not within {within} seconds: {condition}; last seen: {value!r}"
        time.sleep(every)
