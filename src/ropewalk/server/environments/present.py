"""Software environments as the API shows them, and what two versions differ in."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from sqlalchemy import select

from ropewalk.schemas import environments as schemas
from ropewalk.schemas.common import ErrorBody
from ropewalk.schemas.environments import BuildState, EnvironmentSpec, Lock, LockedPackage
from ropewalk.server.db.models import Environment, EnvironmentBuild, EnvironmentVersion, User
from ropewalk.server.environments.files import Files
from ropewalk.server.environments.uses import Use, uses

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

__all__ = ["build", "builds_of", "detail", "difference", "listed", "version"]


async def listed(session: AsyncSession, rows: Sequence[Environment], account: str) -> list[schemas.Environment]:
    """Return environments, in six queries however many they are."""
    creators, used = await _names(session, rows), await uses(session, rows)
    newest = select(EnvironmentVersion).where(EnvironmentVersion.environment_id.in_([row.id for row in rows]))
    versions = {(each.environment_id, each.number): each for each in await session.scalars(newest)}
    good = {row.id: versions[row.id, row.good].id for row in rows if row.good is not None}
    sizes = await _sizes(session, good.values())
    return [
        schemas.Environment(
            **_common(row, account, creators[row.creator_id], versions[row.id, row.latest], used[row.id]),
            size=sizes.get(good.get(row.id, "")),
        )
        for row in rows
    ]


async def detail(
    session: AsyncSession, row: Environment, account: str, files: Files, most: int
) -> schemas.EnvironmentDetail:
    """Return one environment with its newest versions, *most* at the most."""
    creators = await _names(session, [row])
    mine = select(EnvironmentVersion).where(EnvironmentVersion.environment_id == row.id)
    found = list(await session.scalars(mine.order_by(EnvironmentVersion.number.desc()).limit(most)))
    shown = [await version(session, row, each, files) for each in found]
    used = (await uses(session, [row]))[row.id]
    sizes = [build.size for each in shown if each.number == row.good for build in each.builds]
    common = _common(row, account, creators[row.creator_id], found[0], used)
    return schemas.EnvironmentDetail(**common, size=next(filter(None, sizes), None), versions=shown)


async def version(
    session: AsyncSession, environment: Environment, row: EnvironmentVersion, files: Files
) -> schemas.EnvironmentVersion:
    """Return one version with its builds."""
    builds = await builds_of(session, row.id)
    locks = [each.lock for each in builds if each.lock is not None]
    return schemas.EnvironmentVersion(
        id=row.id,
        environment=environment.name,
        number=row.number,
        spec=EnvironmentSpec.model_validate(row.spec),
        spec_hash=row.spec_hash,
        state=BuildState(row.state),
        reason=row.reason,
        creator=row.creator,
        created_at=row.created_at,
        packages=Lock.model_validate(locks[0]).packages if locks else [],
        builds=[build(environment.name, row.number, each, files) for each in builds],
    )


async def builds_of(session: AsyncSession, version_id: str) -> list[EnvironmentBuild]:
    """Return the builds of a version, the newest first."""
    mine = select(EnvironmentBuild).where(EnvironmentBuild.version_id == version_id)
    return list(await session.scalars(mine.order_by(EnvironmentBuild.created_at.desc(), EnvironmentBuild.id)))


def build(name: str, number: int, row: EnvironmentBuild, files: Files) -> schemas.EnvironmentBuild:
    """Return one build."""
    return schemas.EnvironmentBuild(
        id=row.id,
        environment=name,
        version=number,
        target=row.target,
        platform=row.platform,
        state=BuildState(row.state),
        reason=row.reason,
        image=row.image,
        differences=Lock.model_validate(row.lock).differences if row.lock is not None else [],
        reused=row.reused,
        created_at=row.created_at,
        started_at=row.started_at,
        finished_at=row.finished_at,
        log_size=files.log(row.id).size,
        size=row.details.get("size"),
        error=None if row.error is None else ErrorBody.model_validate({**row.error, "details": {}}),
    )


async def _sizes(session: AsyncSession, versions: Iterable[str]) -> dict[str, int]:
    """Return the size of one good build of each version, where it is known."""
    mine = select(EnvironmentBuild.version_id, EnvironmentBuild.details).where(
        EnvironmentBuild.version_id.in_(versions), EnvironmentBuild.state == BuildState.READY
    )
    return {key: details["size"] for key, details in await session.execute(mine) if "size" in details}


async def _names(session: AsyncSession, rows: Sequence[Environment]) -> dict[str, str]:
    wanted = select(User.id, User.username).where(User.id.in_({row.creator_id for row in rows}))
    return {key: name for key, name in await session.execute(wanted)}  # noqa: C416 - rows are not tuples to mypy


def _common(row: Environment, account: str, creator: str, newest: EnvironmentVersion, used: Use) -> dict[str, Any]:
    return {
        "id": row.id,
        "name": row.name,
        "account": account,
        "private": row.private,
        "managed": row.managed,
        "creator": creator,
        "version": row.good,
        "latest": row.latest,
        "state": BuildState(newest.state),
        "reason": newest.reason,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "used_at": used.last,
        "clusters": list(used.clusters),
    }


def difference(before: schemas.EnvironmentVersion, after: schemas.EnvironmentVersion) -> schemas.EnvironmentDiff:
    """Return what two versions differ in: their packages, and the other fields of their specifications."""
    old, new = _by_name(before.packages), _by_name(after.packages)
    changed = [(old[key], new[key]) for key in sorted(old.keys() & new.keys()) if _differ(old[key], new[key])]
    left, right = (each.spec.model_dump(mode="json") for each in (before, after))
    spec = {field: (_text(left[field]), _text(right[field])) for field in left if left[field] != right[field]}
    return schemas.EnvironmentDiff(
        before=before.number,
        after=after.number,
        added=[new[key] for key in sorted(new.keys() - old.keys())],
        removed=[old[key] for key in sorted(old.keys() - new.keys())],
        changed=changed,
        spec=spec,
    )


def _by_name(packages: Sequence[LockedPackage]) -> dict[tuple[str, str], LockedPackage]:
    return {(package.manager, package.name): package for package in packages}


def _differ(one: LockedPackage, other: LockedPackage) -> bool:
    # The files that will do may grow in number while the version stays: another platform was added.
    shared = set(one.hashes) & set(other.hashes)
    return (one.version, one.url, one.build) != (other.version, other.url, other.build) or not (
        shared or not one.hashes or not other.hashes
    )


def _text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)
