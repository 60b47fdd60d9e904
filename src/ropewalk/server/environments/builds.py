"""Builds: wished for here, followed by their events and logs."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.errors import NotFoundError
from ropewalk.schemas import common
from ropewalk.schemas import environments as schemas
from ropewalk.schemas.environments import BuildState
from ropewalk.server.db.models import Environment, EnvironmentBuild, EnvironmentVersion, Event, new_id
from ropewalk.server.environments import present
from ropewalk.server.environments.builders import files_of
from ropewalk.server.environments.report import WISHED
from ropewalk.server.events import EventCode, record, shown

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.environments.builder import Target
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["MAX_EVENTS", "events", "get", "log", "of_target", "wish"]

MAX_EVENTS = 1000
"""Events that one request can ask for."""


async def of_target(session: AsyncSession, version_id: str, target: Target) -> EnvironmentBuild | None:
    """Return the build of a version for a target."""
    wanted = select(EnvironmentBuild).where(
        EnvironmentBuild.version_id == version_id,
        EnvironmentBuild.target == target.key,
        EnvironmentBuild.platform == target.platform,
    )
    return (await session.scalars(wanted)).one_or_none()


async def wish(
    context: Context,
    session: AsyncSession,
    environment: Environment,
    version: EnvironmentVersion,
    target: Target,
    actor: str,
    *,
    fresh: bool = False,
    again: bool = False,
) -> EnvironmentBuild:
    """Write down that a version is to be built for a target; one that is built or being built stays as it is.

    Args:
        context: The server's services.
        session: In whose transaction.
        environment: Whose version it is.
        version: What is to be built.
        target: For which place.
        actor: Who wishes it.
        fresh: Whether everything is to be resolved anew.
        again: Whether it is to be built although it was: what came of it is gone.
    """
    now = context.clock.now()
    row = await of_target(session, version.id, target)
    if row is not None and (row.state in (BuildState.QUEUED, BuildState.BUILDING) or not again):
        return row
    new = row is None
    if row is None:
        row = EnvironmentBuild(
            id=new_id("eb"),
            version_id=version.id,
            account_id=environment.account_id,
            cloud_account_id=target.cloud_account_id,
            spec_hash=version.spec_hash,
            target=target.key,
            platform=target.platform,
            state=BuildState.QUEUED.value,
            details={},
            created_at=now,
            used_at=now,
            fence=0,
            attempts=0,
        )
        session.add(row)
    row.state, row.reason, row.fresh, row.actor = BuildState.QUEUED.value, None, fresh, actor
    row.attempts, row.retry_at, row.started_at, row.finished_at = 0, None, None, None
    if version.state != BuildState.READY:
        version.state, version.reason = row.state, None
    first = new and not (await present.builds_of(session, version.id))[1:]
    code = EventCode.ENVIRONMENT_CREATED if first else EventCode.ENVIRONMENT_REBUILDING
    message = f"{actor} asked for {environment.name!r}, version {version.number}, to be built for {target.platform}."
    if again and row.path:
        message += " What was built before was removed from the server's disk, since nothing used it."
    elif again and row.image:
        message += f" Its image is not in the registry any more: {row.image}"
    details = {"name": environment.name, "version": version.number, "build": row.id}
    record(session, now, code, message, account_id=row.account_id, build_id=row.id, actor=actor, details=details)
    topics = (WISHED, f"events:{row.id}", f"environments:{row.account_id}")
    await context.wakeups.announce(session, *topics)
    return row


async def get(context: Context, caller: AccountCaller, build_id: str) -> schemas.EnvironmentBuild:
    """Return one build."""
    async with context.db.read() as session:
        row, environment, version = await _find(session, caller, build_id)
        return present.build(environment.name, version.number, row, files_of(context))


async def log(context: Context, caller: AccountCaller, build_id: str, offset: int, limit: int) -> schemas.LogPart:
    """Read a build's log from byte *offset*."""
    async with context.db.read() as session:
        # First whether it is over, then its log: otherwise its last words could come in between.
        over = BuildState((await _find(session, caller, build_id))[0].state).over
    file = files_of(context).log(build_id)
    text, end = await asyncio.to_thread(file.read, offset, limit)
    return schemas.LogPart(offset=offset, next=end, text=text, complete=over and end >= file.size)


async def events(
    context: Context, caller: AccountCaller, build_id: str, *, after: int = 0, limit: int = MAX_EVENTS
) -> tuple[list[common.Event], bool]:
    """Return the events of a build after the one with id *after*, and whether more can follow."""
    async with context.db.read() as session:
        row, _, _ = await _find(session, caller, build_id)
        mine = select(Event).where(Event.build_id == row.id, Event.id > after).order_by(Event.id).limit(limit)
        return [shown(event) for event in await session.scalars(mine)], not BuildState(row.state).over


async def _find(
    session: AsyncSession, caller: AccountCaller, build_id: str
) -> tuple[EnvironmentBuild, Environment, EnvironmentVersion]:
    row = await session.get(EnvironmentBuild, build_id)
    if row is not None and row.account_id == caller.account_id:
        version = await session.get_one(EnvironmentVersion, row.version_id)
        environment = await session.get_one(Environment, version.environment_id)
        if not environment.private or environment.creator_id == caller.user_id:
            return row, environment, version
    raise NotFoundError(
        f"There is no build {build_id[:60]!r} in the account {caller.account}.",
        advice="See builds with: ropewalk env inspect NAME",
        field="build",
    )
