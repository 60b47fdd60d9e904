"""Removing what nobody uses any more: environments of package sync, folders, uploaded wheels, logs."""

from __future__ import annotations

import asyncio
import shutil
import time
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.schemas.environments import EnvironmentSpec
from ropewalk.server.db.models import Environment, EnvironmentVersion
from ropewalk.server.environments import room
from ropewalk.server.environments.caches import leftovers
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.unused import HALF_SECONDS, folders, remove_unused
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["tidy"]


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
    for path in await asyncio.to_thread(folders, files):
        await remove_unused(context, files, path, before)
    async with context.db.read() as session:
        wanted = await _wheels(session)
    await asyncio.to_thread(_remove_left, files, wanted)
    await room.tidy(context, files)


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
    left = [path for path in files.venvs.glob("tmp-*") if path.stat().st_mtime < old]
    left += [path for path in files.scratch.iterdir() if path.stat().st_mtime < old]
    left += leftovers(files.root, old)
    wheels = files.root / "wheels"
    if wheels.is_dir():
        left += [path for path in wheels.glob("*/*") if path.name not in wanted and path.stat().st_mtime < old]
    for path in left:
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)
