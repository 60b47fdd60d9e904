"""Software environments by name: made, listed, shown, compared, deleted. What is to be built is written down here."""

from __future__ import annotations

import asyncio
import sysconfig
from dataclasses import replace
from typing import TYPE_CHECKING

from sqlalchemy import or_, select

from ropewalk.errors import BackendError, ConflictError, InputError, NotFoundError
from ropewalk.schemas import environments as schemas
from ropewalk.schemas.environments import BuildState, EnvironmentSpec
from ropewalk.server.cloud_accounts.service import resolve
from ropewalk.server.db.models import Account, Environment, EnvironmentVersion, new_id
from ropewalk.server.environments import builds, credentials, present
from ropewalk.server.environments.builders import LOCAL, builder_for, files_of
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.permissions import AccountCaller, Permission

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.environments.builder import Target

__all__ = [
    "create",
    "delete",
    "difference",
    "find",
    "find_version",
    "get",
    "get_version",
    "list_all",
    "rebuild",
    "seen",
]

MAX_PAGE = 1000
"""Environments that one request lists."""
MAX_VERSIONS = 100
"""Versions that are shown with an environment, the newest."""


async def create(
    context: Context, caller: AccountCaller, wish: schemas.EnvironmentCreate, *, only_new: bool = False
) -> schemas.EnvironmentDetail:
    """Write down a new environment, or a new version of one, and its build for where the account's clusters run.

    What is the newest version already makes none, unless a rebuild is forced.

    Raises:
        ConflictError: With *only_new*: there is one of that name.
        InputError: Something in it is wrong, or wheels were not uploaded.
        NotFoundError: Credentials that it names are not stored; the name is somebody's private environment.
    """
    spec = complete(wish.spec)
    target = await _target(context, caller, spec, wish.platform)
    files = files_of(context)
    missing = await asyncio.to_thread(files.missing, caller.account_id, spec.wheels)
    if missing:
        raise InputError(
            f"{len(missing)} of the wheels were not uploaded: {missing[0].filename}.",
            advice="Send them first; the client does so by itself.",
            field="spec.wheels",
            details={"missing": [wheel.sha256 for wheel in missing]},
        )
    async with context.db.transaction() as session:
        await context.db.serialize(session, f"environment {caller.account_id} {wish.name}")
        await credentials.refuse_unknown(session, caller.account_id, spec.credentials)
        if only_new and await _named(session, caller.account_id, wish.name) is not None:
            raise _taken(caller, wish.name)
        row = await _row_for(context, session, caller, wish)
        version = await _version_for(context, session, caller, row, spec, force=wish.force_rebuild)
        build = await builds.wish(context, session, row, version, target, caller.username, fresh=wish.force_rebuild)
        await session.flush()
        shown = await present.detail(session, row, caller.account, files, MAX_VERSIONS)
        return shown.model_copy(update={"build": build.id})


def complete(spec: EnvironmentSpec) -> EnvironmentSpec:
    """Return *spec* with what it leaves to the server."""
    return spec if spec.python else spec.model_copy(update={"python": sysconfig.get_python_version()})


async def _target(
    context: Context, caller: AccountCaller, spec: EnvironmentSpec, platform: schemas.Platform | None
) -> Target:
    async with context.db.read() as session:
        cloud = await resolve(session, await session.get_one(Account, caller.account_id))
    builder, target = await builder_for(context, cloud, caller.account_id)
    if platform not in (None, target.platform):
        if target.key == LOCAL:
            raise InputError(
                f"Nodes of this cloud account run on {target.platform}, not on {platform}.",
                advice="Leave platform out.",
                field="platform",
            )
        target = replace(target, platform=platform)
    try:
        builder.validate(spec, target)
    except BackendError as exc:
        raise InputError(exc.message, advice=exc.advice, field=exc.field, details=exc.details) from None
    return target


async def _row_for(
    context: Context, session: AsyncSession, caller: AccountCaller, wish: schemas.EnvironmentCreate
) -> Environment:
    row = await _named(session, caller.account_id, wish.name)
    now = context.clock.now()
    if row is None:
        row = Environment(
            id=new_id("en"),
            account_id=caller.account_id,
            creator_id=caller.user_id,
            name=wish.name,
            private=bool(wish.private),
            managed=wish.managed,
            latest=0,
            created_at=now,
            updated_at=now,
            used_at=now,
        )
        session.add(row)
        await session.flush()
        return row
    if row.private and row.creator_id != caller.user_id:
        raise _taken(caller, wish.name)
    row.used_at = now
    if wish.private is not None and wish.private != row.private:
        caller.demand_own_or(
            Permission.ACCOUNT_ENVIRONMENTS_UPDATE_ANY, row.creator_id, f"the environment {row.name!r}"
        )
        row.private = wish.private
    return row


def _taken(caller: AccountCaller, name: str) -> ConflictError:
    return ConflictError(
        f"The name {name!r} is taken in the account {caller.account}.", advice="Choose another name.", field="name"
    )


async def _version_for(
    context: Context,
    session: AsyncSession,
    caller: AccountCaller,
    row: Environment,
    spec: EnvironmentSpec,
    *,
    force: bool,
) -> EnvironmentVersion:
    newest = await _numbered(session, row.id, row.latest)
    if newest is not None and newest.spec_hash == spec.hash and not force and newest.state != BuildState.FAILED:
        return newest
    if newest is not None and not row.managed:
        caller.demand_own_or(
            Permission.ACCOUNT_ENVIRONMENTS_UPDATE_ANY, row.creator_id, f"the environment {row.name!r}"
        )
    row.latest += 1
    row.updated_at = context.clock.now()
    version = EnvironmentVersion(
        id=new_id("ev"),
        environment_id=row.id,
        number=row.latest,
        spec=spec.model_dump(mode="json"),
        spec_hash=spec.hash,
        state=BuildState.QUEUED.value,
        creator=caller.username,
        created_at=row.updated_at,
    )
    session.add(version)
    await session.flush()
    return version


async def list_all(context: Context, caller: AccountCaller, *, managed: bool = False) -> list[schemas.Environment]:
    """Return the account's environments by name; those of package sync only where *managed* asks for them."""
    mine = select(Environment).where(Environment.account_id == caller.account_id, Environment.deleted_at.is_(None))
    mine = mine.where(or_(Environment.private.is_(False), Environment.creator_id == caller.user_id))
    if not managed:
        mine = mine.where(Environment.managed.is_(False))
    async with context.db.read() as session:
        rows = list(await session.scalars(mine.order_by(Environment.name).limit(MAX_PAGE)))
        return await present.listed(session, rows, caller.account)


async def get(context: Context, caller: AccountCaller, name: str) -> schemas.EnvironmentDetail:
    """Return one environment with its versions."""
    async with context.db.read() as session:
        row = await find(session, caller, name)
        return await present.detail(session, row, caller.account, files_of(context), MAX_VERSIONS)


async def get_version(
    context: Context, caller: AccountCaller, name: str, number: int | None = None
) -> schemas.EnvironmentVersion:
    """Return one version, by default the one that the name points to."""
    async with context.db.read() as session:
        row = await find(session, caller, name)
        version = await find_version(session, row, number)
        return await present.version(session, row, version, files_of(context))


async def seen(context: Context, caller: AccountCaller, full: str) -> bool:
    """Return whether the caller can look at the version that a cluster runs, ``name:3``."""
    name, _, number = full.partition(":")
    async with context.db.read() as session:
        try:
            await find_version(session, await find(session, caller, name), int(number) if number.isdigit() else None)
        except NotFoundError:
            return False
    return True


async def difference(
    context: Context, caller: AccountCaller, name: str, before: int, after: int
) -> schemas.EnvironmentDiff:
    """Return what two versions of an environment differ in."""
    one = await get_version(context, caller, name, before)
    return present.difference(one, await get_version(context, caller, name, after))


async def rebuild(context: Context, caller: AccountCaller, name: str) -> schemas.EnvironmentDetail:
    """Resolve and build the newest version's specification again, as a new version."""
    async with context.db.read() as session:
        row = await find(session, caller, name)
        version = await find_version(session, row, row.latest)
    spec = EnvironmentSpec.model_validate(version.spec)
    wish = schemas.EnvironmentCreate(name=row.name, spec=spec, managed=row.managed, force_rebuild=True)
    return await create(context, caller, wish)


async def delete(context: Context, caller: AccountCaller, name: str) -> None:
    """Delete an environment. Clusters that use it go on; what was built is removed when nobody uses it."""
    async with context.db.transaction() as session:
        row = await find(session, caller, name)
        caller.demand_own_or(
            Permission.ACCOUNT_ENVIRONMENTS_DELETE_ANY, row.creator_id, f"the environment {row.name!r}"
        )
        row.deleted_at = context.clock.now()
        record(
            session,
            row.deleted_at,
            EventCode.ENVIRONMENT_DELETED,
            f"The software environment {row.name!r} was deleted.",
            account_id=caller.account_id,
            actor=caller.username,
            details={"name": row.name},
        )
        await context.wakeups.announce(session, f"environments:{caller.account_id}")


async def find(session: AsyncSession, caller: AccountCaller, name: str) -> Environment:
    """Return the environment of that name, if the caller may see it.

    Raises:
        NotFoundError: There is none.
    """
    row = await _named(session, caller.account_id, name)
    if row is None or (row.private and row.creator_id != caller.user_id):
        raise NotFoundError(
            f"There is no software environment {name[:60]!r} in the account {caller.account}.",
            advice="List them with: ropewalk env list",
            field="software",
        )
    return row


async def find_version(session: AsyncSession, row: Environment, number: int | None) -> EnvironmentVersion:
    """Return a version, by default the newest good one, or else the newest.

    Raises:
        NotFoundError: There is none of that number.
    """
    wanted = (row.good or row.latest) if number is None else number
    version = await _numbered(session, row.id, wanted)
    if version is None:
        raise NotFoundError(
            f"The software environment {row.name!r} has no version {wanted}.",
            advice=f"See its versions with: ropewalk env inspect {row.name}",
            field="version",
        )
    return version


async def _named(session: AsyncSession, account_id: str, name: str) -> Environment | None:
    live = select(Environment).where(
        Environment.account_id == account_id, Environment.name == name, Environment.deleted_at.is_(None)
    )
    return (await session.scalars(live)).one_or_none()


async def _numbered(session: AsyncSession, environment_id: str, number: int) -> EnvironmentVersion | None:
    wanted = select(EnvironmentVersion).where(
        EnvironmentVersion.environment_id == environment_id, EnvironmentVersion.number == number
    )
    return (await session.scalars(wanted)).one_or_none()
