"""Waiting for what is told, and giving up."""

from __future__ import annotations

import asyncio

import pytest

from ropewalk.server.wakeups import first_of
from tests.support.waiting import eventually


@pytest.mark.parametrize("told", [True, False])
async def test_a_wait_says_whether_one_came(told: bool) -> None:
    never, event = asyncio.Event(), asyncio.Event()
    if told:
        event.set()
    assert await first_of(never, event, seconds=0.01) is told


async def test_a_wait_that_is_given_up_leaves_no_task() -> None:
    before = asyncio.all_tasks()
    waiting = asyncio.create_task(first_of(asyncio.Event(), asyncio.Event(), seconds=60))
    await eventually(lambda: len(asyncio.all_tasks()) >= len(before) + 3)
    waits = asyncio.all_tasks() - before
    waiting.cancel()
    done, pending = await asyncio.wait(waits, timeout=30)
    assert not pending
    assert all(task.cancelled() for task in done)
