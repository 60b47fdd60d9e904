"""Uploaded wheels: people's own code, by hash, so that nothing is sent twice."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ropewalk.errors import InputError, NotFoundError
from ropewalk.schemas.environments import MAX_WHEEL, LocalWheel
from ropewalk.server.environments import room
from ropewalk.server.environments.builders import files_of

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["get", "keep", "missing"]


async def missing(context: Context, caller: AccountCaller, wanted: Sequence[LocalWheel]) -> list[LocalWheel]:
    """Return which of these wheels have to be sent."""
    return await asyncio.to_thread(files_of(context).missing, caller.account_id, wanted)


async def keep(
    context: Context, caller: AccountCaller, sha256: str, filename: str, length: str | None, body: AsyncIterator[bytes]
) -> None:
    """Keep a wheel that is sent.

    Raises:
        InputError: It is not the file with that hash, is too large, or its size was not told.
        LimitExceededError: The account has no room for it.
    """
    size = int(length) if length and length.isdecimal() else 0
    if not 0 < size <= MAX_WHEEL:
        raise InputError(
            f"A wheel has from 1 to {MAX_WHEEL} bytes, and the request says how many.",
            advice="Send the header Content-Length; put large data somewhere else than into packages.",
            field="content-length",
        )
    await room.demand_upload(context, files_of(context), caller.account_id, size)
    wheel = LocalWheel(filename=filename, sha256=sha256, size=size)
    await files_of(context).keep_wheel(caller.account_id, wheel, body)


async def get(context: Context, caller: AccountCaller, sha256: str, filename: str) -> Path:
    """Return the file of a wheel that was sent.

    Raises:
        NotFoundError: The account has none with that hash.
    """
    path = files_of(context).wheel(caller.account_id, LocalWheel(filename=filename, sha256=sha256, size=1))
    if not await asyncio.to_thread(path.is_file):
        raise NotFoundError(
            f"The account {caller.account} has no wheel {filename} with that hash.",
            advice="Wheels that no environment names any more are removed after a day.",
        )
    return path
