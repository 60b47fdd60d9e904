"""Makes one build: asks the builder, which finds what exists, and writes down what came of it.

Whoever takes over after a crash asks the same again; nothing here depends on the memory of a process.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.errors import FixItError, RopewalkError, TryAgainError, UnavailableError
from ropewalk.schemas.environments import BuildState, EnvironmentSpec, Lock
from ropewalk.server.db.models import CloudAccount, Environment, EnvironmentBuild, EnvironmentVersion
from ropewalk.server.environments import credentials, room
from ropewalk.server.environments.builder import Builder, BuildRequest, BuildResult
from ropewalk.server.environments.builders import builder_for, files_of
from ropewalk.server.environments.leases import Lease, LeaseLostError, fenced
from ropewalk.server.environments.report import WISHED, BuildReport, log_topic
from ropewalk.server.events import EventCode, record
from ropewalk.server.leases.rows import give_back

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.schemas.environments import Platform
    from ropewalk.server.context import Context

__all__ = ["BuildWorker", "result_of"]

TRIES = 8
"""A passing fault is tried again so often, in all for some five minutes: somebody waits for it."""
LAST_RETRY = 60.0
"""Seconds between two tries at the most."""
BUILD_SECONDS = 3 * 3600.0
"""A build that takes longer is given up."""

log = structlog.get_logger(__name__)


def result_of(row: EnvironmentBuild) -> BuildResult | None:
    """Return what was built; None: nothing yet."""
    if row.lock is None:
        return None
    lock = Lock.model_validate(row.lock)
    return BuildResult(lock, image=row.image, path=row.path, reused=row.reused, details=row.details)


class BuildWorker:
    """Works on one build for as long as the lease holds."""

    def __init__(self, context: Context, lease: Lease) -> None:
        self._context = context
        self._lease = lease
        self._report: BuildReport | None = None

    async def run(self) -> None:
        """Build; returns when it is done, failed, or waits for another try. The lease is given back."""
        structlog.contextvars.bind_contextvars(build=self._lease.row_id)
        try:
            async with asyncio.timeout(BUILD_SECONDS):
                await self._run()
        except (LeaseLostError, SQLAlchemyError, OSError, UnavailableError) as exc:
            if isinstance(exc, TimeoutError):
                await self._failed(FixItError("The build did not end in time.", advice="Ask for less at once."))
                return
            # Whoever claims it next goes on; the database cannot be told now.
            log.warning("environment.build_interrupted", error=type(exc).__name__)
        except TryAgainError as exc:
            await self._later(exc)
        except RopewalkError as exc:
            await self._failed(exc)
        except Exception as exc:
            log.exception("environment.defect")
            await self._later(
                TryAgainError(f"The builder failed with {type(exc).__name__}; the server's log says more.", delay=5.0)
            )

    async def _run(self) -> None:
        async with fenced(self._context, self._lease) as (session, row):
            version = await session.get_one(EnvironmentVersion, row.version_id)
            environment = await session.get_one(Environment, version.environment_id)
            cloud = await session.get_one(CloudAccount, row.cloud_account_id)
            spec = EnvironmentSpec.model_validate(version.spec)
            opened = await credentials.opened(self._context, session, row.account_id, spec.credentials)
            twin = None if row.fresh else await _twin(session, row)
            row.state, row.started_at = BuildState.BUILDING.value, row.started_at or self._context.clock.now()
            await self._mirror(session, row, version)
        files = files_of(self._context)
        self._report = BuildReport(
            self._context, self._lease, row.account_id, await asyncio.to_thread(files.log, row.id), opened
        )
        builder, target = await builder_for(self._context, cloud, row.account_id)
        target = replace(target, platform=cast("Platform", row.platform))  # a cluster may have asked for another one
        place = "this machine" if cloud.backend == "local" else f"nodes in {cloud.backend}"
        self._report.log(f"Building {environment.name} version {version.number} for {place} ({row.platform}).")
        if row.image is not None and not row.fresh:
            self._report.log(f"The image {row.image} is not in its registry any more, so it is made again.")
        wheels = {wheel.sha256: files.wheel(row.account_id, wheel) for wheel in spec.wheels}
        earlier = twin or row
        lock = None if row.fresh or earlier.lock is None else Lock.model_validate(earlier.lock)
        request = BuildRequest(row.id, spec, target, opened, wheels, lock)
        result = await self._build(builder, request, None if twin is None else result_of(twin))
        await self._done(result)

    async def _build(self, builder: Builder, request: BuildRequest, earlier: BuildResult | None) -> BuildResult:
        if self._report is None:
            raise RuntimeError("there is a report by now")
        if earlier is not None and await builder.present(request, earlier):
            await self._report.event("The same was built before, and is still there.")
            return BuildResult(earlier.lock, earlier.image, earlier.path, reused=True, details=earlier.details)
        report, files = self._report, files_of(self._context)
        try:
            return await room.build_within(self._context, files, request, lambda within: builder.build(within, report))
        except (TimeoutError, ConnectionError):
            raise
        except OSError as exc:  # else it would be tried for ever, and nobody told
            log.exception("environment.defect")
            why = exc.strerror or type(exc).__name__
            advice = "The server's log says more: ask an operator."
            raise TryAgainError(f"The builder could not go on: {why}.", delay=5.0, advice=advice) from exc

    async def _done(self, result: BuildResult) -> None:
        async with fenced(self._context, self._lease) as (session, row):
            version = await session.get_one(EnvironmentVersion, row.version_id)
            row.lock = result.lock.model_dump(mode="json")
            row.image, row.path, row.reused, row.details = result.image, result.path, result.reused, {**result.details}
            row.state, row.reason, row.error = BuildState.READY.value, None, None
            row.fresh = False
            self._close(row)
            await self._mirror(session, row, version)
            environment = await session.get_one(Environment, version.environment_id, with_for_update=True)
            if environment.good is None or environment.good < version.number:
                environment.good = version.number
                environment.updated_at = self._context.clock.now()
            message = f"Version {version.number} of {environment.name!r} is ready."
            self._say(message)
            await self._tell(session, row, EventCode.ENVIRONMENT_READY, message)
        log.info("environment.built", reused=result.reused, packages=len(result.lock.packages))

    async def _failed(self, error: RopewalkError) -> None:
        reason = self._clean(str(error))
        self._say(f"Failed: {reason}")
        try:
            async with fenced(self._context, self._lease) as (session, row):
                version = await session.get_one(EnvironmentVersion, row.version_id)
                row.state, row.reason = BuildState.FAILED.value, reason
                row.error = {**error.body(), "message": self._clean(error.message)}
                self._close(row)
                await self._mirror(session, row, version)
                await self._tell(session, row, EventCode.ENVIRONMENT_FAILED, reason, level="error", field=error.field)
        except LeaseLostError:
            log.warning("lease.lost")

    async def _later(self, error: TryAgainError) -> None:
        self._context.metrics.retries.labels("environment").inc()
        try:
            async with fenced(self._context, self._lease) as (session, row):
                row.attempts += 1
                tries = row.attempts
                if tries < TRIES:
                    seconds = max(error.delay, min(2.0 ** (tries - 1), LAST_RETRY))
                    row.retry_at = self._context.clock.now() + timedelta(seconds=seconds)
                    row.reason = f"{self._clean(str(error))} It is tried again in {seconds:.0f} seconds."
                    give_back(row)
                    self._say(row.reason)
                    await self._mirror(session, row, await session.get_one(EnvironmentVersion, row.version_id))
                    await self._tell(session, row, EventCode.ENVIRONMENT_RETRYING, row.reason, level="warning")
        except LeaseLostError:
            log.warning("lease.lost")
            return
        if tries >= TRIES:
            await self._failed(FixItError(error.message, advice=error.advice, field=error.field))

    def _close(self, row: EnvironmentBuild) -> None:
        row.finished_at, row.retry_at, row.attempts = self._context.clock.now(), None, 0
        give_back(row)

    async def _mirror(self, session: AsyncSession, row: EnvironmentBuild, version: EnvironmentVersion) -> None:
        """Let the version tell of its build, unless it is good by another one."""
        if version.state != BuildState.READY or row.state == BuildState.READY:
            version.state, version.reason = row.state, row.reason
        topics = (f"events:{row.id}", f"environments:{row.account_id}")
        await self._context.wakeups.announce(session, *topics)

    async def _tell(
        self,
        session: AsyncSession,
        row: EnvironmentBuild,
        code: EventCode,
        message: str,
        level: str = "info",
        **details: Any,
    ) -> None:
        record(
            session,
            self._context.clock.now(),
            code,
            message,
            level=level,
            account_id=row.account_id,
            build_id=row.id,
            details={"build": row.id, **{name: value for name, value in details.items() if value is not None}},
        )
        # What is done next may depend on it: a twin that waits, for example.
        await self._context.wakeups.announce(session, f"events:{row.id}", WISHED, log_topic(row.id))

    def _say(self, line: str) -> None:
        if self._report is not None:
            self._report.log(line)

    def _clean(self, text: str) -> str:
        return text if self._report is None else self._report.clean(text)


async def _twin(session: AsyncSession, row: EnvironmentBuild) -> EnvironmentBuild | None:
    """Return the newest good build of the same content for the same place, whatever it is called."""
    same = select(EnvironmentBuild).where(
        EnvironmentBuild.account_id == row.account_id,
        EnvironmentBuild.spec_hash == row.spec_hash,
        EnvironmentBuild.target == row.target,
        EnvironmentBuild.platform == row.platform,
        EnvironmentBuild.state == BuildState.READY,
        EnvironmentBuild.id != row.id,
    )
    return (await session.scalars(same.order_by(EnvironmentBuild.finished_at.desc()).limit(1))).first()
