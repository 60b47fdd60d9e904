"""Whether this server can serve, part by part: for load balancers and for operators."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import text

from ropewalk.errors import RopewalkError
from ropewalk.server.db import migrate

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.leases.loops import Loops

__all__ = ["CHECK_SECONDS", "readiness"]

CHECK_SECONDS = 3.0
"""A database that takes longer than this to answer a trivial question is not ready."""


async def readiness(
    context: Context, *, clusters: Loops, cloud_accounts: Loops, environments: Loops
) -> dict[str, str | None]:
    """Return for each part what is wrong with it, or None."""
    return {
        "database": await _database(context),
        "reconciler": None if clusters.running else "is not running",
        "cloud accounts": None if cloud_accounts.running else "are not worked on",
        "software environments": None if environments.running else "are not built",
        "server": "is stopping" if context.stopping.is_set() else None,
    }


async def _database(context: Context) -> str | None:
    try:
        async with asyncio.timeout(CHECK_SECONDS), context.db.read() as session:
            revision = await session.scalar(text("SELECT version_num FROM alembic_version"))
    except TimeoutError:
        return f"did not answer within {CHECK_SECONDS:g} seconds"
    except RopewalkError:
        return "cannot be used; the server's log says why"
    if revision != migrate.head():
        return f"is at revision {revision}; this version needs {migrate.head()}"
    return None
