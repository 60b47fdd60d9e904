"""Room for software environments on the server's disk: demanded before a build, watched while it runs, and made."""

from __future__ import annotations

import asyncio
import shutil
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import func, select

from ropewalk.errors import FixItError, LimitExceededError, TryAgainError
from ropewalk.server.db.models import EnvironmentBuild
from ropewalk.server.environments import caches
from ropewalk.server.environments.unused import folders, remove_unused

if TYPE_CHECKING:
    from ropewalk.server.context import Context
    from ropewalk.server.environments.builder import BuildRequest, BuildResult
    from ropewalk.server.environments.files import Files
    from ropewalk.server.settings import Settings

__all__ = ["Limits", "build_within", "demand_upload", "tidy"]

GIB = 2**30
LOGS_BYTES = GIB
"""Of logs of builds, the newest: some ten thousand builds."""
SPARED = timedelta(hours=1)
"""What was asked for since is not removed for want of room: a cluster may be about to start in it."""
WATCH_SECONDS = 2.0
"""Between two looks at the disk while a build runs: a fast line brings half a GiB in that time."""

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """Bytes."""

    packages: int
    layers: int
    venvs: int
    account: int
    free: int

    @classmethod
    def of(cls, settings: Settings) -> Limits:
        wanted = (
            settings.package_cache_gib,
            settings.image_cache_gib,
            settings.environment_venvs_gib,
            settings.environment_account_gib,
            settings.environment_free_gib,
        )
        return cls(*(int(gib * GIB) for gib in wanted))


def free_bytes(folder: Path) -> int:
    """Return how much room the disk of *folder* has."""
    return shutil.disk_usage(folder).free


async def build_within(
    context: Context, files: Files, request: BuildRequest, work: Callable[[BuildRequest], Awaitable[BuildResult]]
) -> BuildResult:
    """Build by *work*, in the room that there is.

    Raises:
        TryAgainError: The disk is full, also without all that can be made again.
        FixItError: The account holds too much, or the build was about to fill the disk.
    """
    limits = Limits.of(context.settings)
    await _demand_free(files, limits)
    left = await _left(context, files, request.target.account_id, limits)
    with caches.running(await asyncio.to_thread(lambda: files.running), request.build_id):
        task = asyncio.ensure_future(work(replace(request, room=left)))
        try:
            while not (await asyncio.wait({task}, timeout=WATCH_SECONDS))[0]:
                if await asyncio.to_thread(free_bytes, files.root) < limits.free // 2:
                    raise FixItError(
                        f"The build was stopped: it left less than {_gib(limits.free // 2)} of the server's disk free.",
                        advice="Ask for fewer or smaller packages, or ask an operator for a larger disk.",
                    )
            return task.result()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


async def _demand_free(files: Files, limits: Limits) -> None:
    if await asyncio.to_thread(free_bytes, files.root) < limits.free:
        freed = await asyncio.to_thread(_prune, files, replace(limits, packages=0, layers=0))
        log.warning("environments.disk_full", freed=freed)
    free = await asyncio.to_thread(free_bytes, files.root)
    if free < limits.free:
        raise TryAgainError(
            f"The server's disk is full: {_gib(free)} are free, and {_gib(limits.free)} have to be for a build.",
            advice="An operator frees space there (ropewalk's caches are empty already), or sets environment_free_gib.",
            delay=10.0,
        )


async def _left(context: Context, files: Files, account_id: str, limits: Limits) -> int:
    """Return how many bytes an account may add, after removing what it does not use if there are none."""
    held = await _held(context, files, account_id)
    if held >= limits.account:
        before = context.clock.now() - SPARED
        for path, _ in await _paths(context, account_id):
            await remove_unused(context, files, path, before)
        held = await _held(context, files, account_id)
    if held >= limits.account:
        raise FixItError(_too_much(held, limits), advice=_FEWER)
    return limits.account - held


async def demand_upload(context: Context, files: Files, account_id: str, size: int) -> None:
    """Refuse a wheel of *size* bytes that an account has no room for.

    Raises:
        LimitExceededError: It holds too much.
    """
    limits = Limits.of(context.settings)
    held = await _held(context, files, account_id) + size
    if held > limits.account:
        raise LimitExceededError(
            f"There is no room for the wheel. {_too_much(held - size, limits)}", advice=_FEWER, field="content-length"
        )


_FEWER = (
    "What it did not use in the last hour is removed already. End clusters that use old environments, and leave out "
    "large wheels; an operator can set environment_account_gib."
)


def _too_much(size: int, limits: Limits) -> str:
    most = _gib(limits.account)
    return f"The account's software environments take {_gib(size)} on the server's disk, and may take {most}."


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB" if size >= GIB // 10 else f"{size / 2**20:.1f} MiB"


async def _paths(context: Context, account_id: str | None = None) -> list[tuple[Path, float]]:
    """Return the virtual environments that builds made, of one account or of all; least recently used first."""
    used = func.max(EnvironmentBuild.used_at)
    wanted = select(EnvironmentBuild.path, used).where(EnvironmentBuild.path.is_not(None))
    if account_id is not None:
        wanted = wanted.where(EnvironmentBuild.account_id == account_id)
    async with context.db.read() as session:
        rows = await session.execute(wanted.group_by(EnvironmentBuild.path).order_by(used))
        return [(Path(path), moment.timestamp()) for path, moment in rows if path is not None]


async def _held(context: Context, files: Files, account_id: str) -> int:
    venvs = [path for path, _ in await _paths(context, account_id)]

    def measure() -> int:
        kept = caches.private(files.root, account_id)
        wheels = (files.root / "wheels" / account_id).glob("*/*")
        return sum(map(caches.bytes_of, (*venvs, *wheels))) + sum(part.size for part in kept)

    return await asyncio.to_thread(measure)


async def tidy(context: Context, files: Files) -> None:
    """Keep everything within its limits, and tell how much there is."""
    limits = Limits.of(context.settings)
    await asyncio.to_thread(_prune, files, limits)
    sizes = await asyncio.to_thread(lambda: {path: caches.bytes_of(path) for path in folders(files)})
    excess = sum(sizes.values()) - limits.venvs
    before = context.clock.now() - SPARED
    for path, _ in await _paths(context):
        if excess <= 0:
            break
        if path in sizes and await remove_unused(context, files, path, before):
            excess -= sizes[path]
    parts = await asyncio.to_thread(_measure, files)
    for part, size in parts.items():
        context.metrics.environment_bytes.labels(part).set(size)
    context.metrics.environment_free.set(await asyncio.to_thread(free_bytes, files.root))


def _prune(files: Files, limits: Limits) -> int:
    since = caches.began(files.running)
    freed = caches.prune(caches.packages(files.root), limits.packages, since)
    freed += caches.prune(caches.blobs(files.root), limits.layers, since)
    return freed + caches.prune(caches.logs(files.root), LOGS_BYTES, min(since, time.time() - SPARED.total_seconds()))


def _measure(files: Files) -> dict[str, int]:
    return {
        "venvs": sum(caches.bytes_of(path) for path in folders(files)),
        "packages": sum(part.size for part in caches.packages(files.root)),
        "layers": sum(part.size for part in caches.blobs(files.root)),
        "wheels": sum(map(caches.bytes_of, files.root.glob("wheels/*/*/*"))),
        "logs": sum(part.size for part in caches.logs(files.root)),
    }
