"""Removing virtual environments that no cluster runs in. Clusters are asked for meanwhile: rows are locked for that."""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import exists, select

from ropewalk.server.db.models import Cluster, EnvironmentBuild
from ropewalk.server.environments.files import Files

if TYPE_CHECKING:
    from ropewalk.server.context import Context

__all__ = ["HALF_SECONDS", "folders", "remove_unused"]

HALF_SECONDS = 24 * 3600.0
"""Age at which a folder that was never finished is removed; a build ends long before."""
ENDED = ("stopped", "failed")

log = structlog.get_logger(__name__)


def folders(files: Files) -> list[Path]:
    """Return the virtual environments that are complete."""
    with suppress(OSError):
        return [path for path in files.venvs.iterdir() if not path.name.startswith("tmp-")]
    return []


async def remove_unused(context: Context, files: Files, path: Path, before: datetime) -> bool:
    """Remove a virtual environment that no cluster runs in, and that none asked for since *before*; say whether."""
    async with context.db.transaction() as session:
        # Clusters are made in transactions that lock the build they use: they see that it is gone, or are seen here.
        mine = select(EnvironmentBuild).where(EnvironmentBuild.path == str(path)).with_for_update()
        builds = list(await session.scalars(mine))
        used = exists().where(Cluster.venv == str(path), Cluster.state.not_in(ENDED))
        if await session.scalar(select(used)) or any(build.used_at >= before for build in builds):
            return False
        removed = await asyncio.to_thread(_remove, files, path, known=bool(builds))
    if removed:
        log.info("environment.removed", path=str(path))
    return removed


def _remove(files: Files, path: Path, *, known: bool) -> bool:
    with suppress(OSError):
        # A build that has just made it may not have written it down yet.
        if known or time.time() - path.stat().st_mtime > HALF_SECONDS:
            files.remove(path)
            return True
    return False
