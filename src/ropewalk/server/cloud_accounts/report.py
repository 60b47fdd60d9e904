"""What an operator should know about hosted clusters from the moment that the server runs."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import structlog

from ropewalk.errors import RopewalkError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus
from ropewalk.server.cloud_accounts.service import HOSTED_ID

if TYPE_CHECKING:
    from ropewalk.server.context import Context

ALWAYS_SAID = "user"
"""The item that says whose rights users' code has: an operator must not have to ask for it."""

log = structlog.get_logger(__name__)


@asynccontextmanager
async def reported(context: Context) -> AsyncIterator[None]:
    """Check the hosted cloud account beside the block, and log what is wanting; nothing waits for it."""
    task = asyncio.create_task(say_what_is_wanting(context))
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def say_what_is_wanting(context: Context) -> None:
    """Log every item of the check that is not as it should be, and in any case whom hosted clusters trust."""
    try:
        report = await (await context.backends.get(HOSTED_ID)).check()
    except RopewalkError as exc:
        log.warning("hosted.unchecked", error=exc.message)
        return
    for item in report.items:
        if item.status is not CheckStatus.OK:
            _say(log.warning, item)
        elif item.name == ALWAYS_SAID:
            _say(log.info, item)


def _say(write: structlog.types.WrappedLogger, item: CheckItem) -> None:
    write(f"hosted.{item.name.replace(' ', '_')}", found=item.message, hint=item.advice)
