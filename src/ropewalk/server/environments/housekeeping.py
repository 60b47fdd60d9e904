"""Removing what nobody uses any more: environments of package sync, folders, uploaded wheels, logs."""

from __future__ import annotations

import asyncio
import shutil
import time
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import exists, select

from ropewalk.schemas.environments import EnvironmentSpec
from ropewalk.server.db.models import Cluster, Environment, EnvironmentBuild, EnvironmentVersion
from ropewalk.server.environments.files import Files
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["tidy"]

HALF_SECONDS = 24 * 3600.0
"""Age at which a folder that was never finished is removed; a build ends long before."""
ENDED = ("stopped", "failed")

log = structlog.get_logger(__name__)


async def tidy(context: Context, files: Files) -> None:
    """Remove what was not used for ``environment_days``, and what builds left half made."""
    before = context.clock.now() - timedelta(days=context.settings.environment_days)
    async with context.db.transaction() as session:
        unused = select(Environment).where(
            Environment.managed.is_(True), Environment.deleted_at.is_(None), Environment.used_at < before
        )
        for row in await session.scalars(unused):
            row.deleted_at = context.clock.now()
            message = f"The software environment {row.name!r} of package sync was not used for long, and is removed."
            record(session, row.deleted_at, EventCode.ENVIRONMENT_DELETED, message, account_id=row.account_id)
    for path in await asyncio.to_thread(_folders, files):
        await _remove_unused(context, files, path, before)
    async with context.db.read() as session:
        wanted = await _wheels(session)
    await asyncio.to_thread(_remove_left, files, wanted)


def _folders(files: Files) -> list[Path]:
    with suppress(OSError):
        return [path for path in files.venvs.iterdir() if not path.name.startswith("tmp-")]
    return []


async def _remove_unused(context: Context, files: Files, path: Path, before: datetime) -> None:
    """Remove a virtual environment that no cluster runs in, and that none asked for in a long time."""
    async with context.db.transaction() as session:
        # Clusters are made in transactions that lock the build they use: they see that it is gone, or are seen here.
        mine = select(EnvironmentBuild).where(EnvironmentBuild.path == str(path)).with_for_update()
        builds = list(await session.scalars(mine))
        used = exists().where(Cluster.venv == str(path), Cluster.state.not_in(ENDED))
        if await session.scalar(select(used)) or any(build.used_at >= before for build in builds):
            return
        removed = await asyncio.to_thread(_remove, files, path, known=bool(builds))
    if removed:
        log.info("environment.removed", path=str(path))


def _remove(files: Files, path: Path, *, known: bool) -> bool:
    with suppress(OSError):
        # A build that has just made it may not have written it down yet.
        if known or time.time() - path.stat().st_mtime > HALF_SECONDS:
            files.remove(path)
            return True
    return False


async def _wheels(session: AsyncSession) -> set[str]:
    """Return the SHA-256 of every uploaded wheel that a version may still need."""
    live = (
        select(EnvironmentVersion.spec)
        .join(Environment, Environment.id == EnvironmentVersion.environment_id)
        .where(Environment.deleted_at.is_(None))
    )
    specs = [EnvironmentSpec.model_validate(spec) for spec in await session.scalars(live)]
    return {wheel.sha256 for spec in specs for wheel in spec.wheels}


def _remove_left(files: Files, wanted: set[str]) -> None:
    old = time.time() - HALF_SECONDS
    folders = [path for path in files.venvs.glob("tmp-*") if path.stat().st_mtime < old]
    folders += [path for path in files.scratch.iterdir() if path.stat().st_mtime < old]
    wheels = files.root / "wheels"
    if wheels.is_dir():
        folders += [path for path in wheels.glob("*/*") if path.name not in wanted and path.stat().st_mtime < old]
    for path in folders:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
