"""What a cluster uses: the build of an environment for its cloud account, made if it is not there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from ropewalk.backends.local import LocalBackend
from ropewalk.errors import BackendError, ConflictError, InputError, NotFoundError
from ropewalk.schemas.environments import BuildState, EnvironmentSpec
from ropewalk.schemas.fingerprints import fingerprint
from ropewalk.server.db.models import Environment, EnvironmentBuild, EnvironmentVersion
from ropewalk.server.environments import builds, service
from ropewalk.server.environments.builder import BuildRequest
from ropewalk.server.environments.builders import LOCAL, builder_for, find_builder
from ropewalk.server.environments.places import asked_platform
from ropewalk.server.environments.worker import result_of

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.backends.port import Backend
    from ropewalk.server.context import Context
    from ropewalk.server.db.models import CloudAccount
    from ropewalk.server.environments.builder import Builder, Target
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["Software", "demand_sync", "mark_used", "use"]


@dataclass(frozen=True, slots=True)
class Software:
    """A version that was built for where a cluster is to run."""

    name: str
    """With the number of the version: ``name:3``."""
    environment_id: str
    build_id: str
    image: str | None
    venv: str | None
    environ: Mapping[str, str] = field(default_factory=dict)


async def demand_sync(
    context: Context,
    caller: AccountCaller,
    cloud: CloudAccount,
    backend: Backend,
    theirs: str,
    options: Mapping[str, Any],
) -> None:
    """Refuse a cluster whose nodes would have other packages than the client, where that can be helped.

    Args:
        context: The server's services.
        caller: Who wishes the cluster.
        cloud: Where it is to run.
        backend: Of that.
        theirs: The client's fingerprint.
        options: Those of the backend, which may ask for other processors.

    Raises:
        ConflictError: The client has to describe its packages first; ``details`` say for which platform.
    """
    if isinstance(backend, LocalBackend) and theirs == fingerprint():
        return
    if cloud.settings.get("image"):
        return  # the team chose what its nodes run, and keeps it
    found = await find_builder(context, cloud, caller.account_id)
    if found is None:
        return
    target = _of_cluster(found[1], cloud, options)
    conda = target.key != LOCAL  # which gets its packages from pip's indexes only
    raise ConflictError(
        "The nodes would have other packages than you have.",
        advice="Name a software environment, or let the client make one: ropewalk.Cluster() does so by itself.",
        details={"environment": "needed", "platform": target.platform, "target": target.key, "conda": conda},
    )


async def use(
    context: Context, caller: AccountCaller, cloud: CloudAccount, wanted: str, options: Mapping[str, Any]
) -> Software:
    """Return the build of an environment, ``name`` or ``name:3``, for a cloud account and what *options* say of nodes.

    Raises:
        NotFoundError: There is no such environment or version.
        ConflictError: It is being built (it is from now on, if it was not), or could not be.
    """
    name, number = _split(wanted)
    builder, target = await _builder(context, caller, cloud)
    target = _of_cluster(target, cloud, options)
    async with context.db.read() as session:
        environment = await service.find(session, caller, name)
        version = await service.find_version(session, environment, number)
        build = await builds.of_target(session, version.id, target)
    spec = EnvironmentSpec.model_validate(version.spec)
    if build is not None and build.state == BuildState.FAILED:
        raise ConflictError(
            f"The software environment {name!r} could not be built: {build.reason}",
            advice=f"Change it, or build it again: ropewalk env rebuild {name}",
            field="software",
            details={"environment": "failed", "build": build.id},
        )
    result = None if build is None or build.state != BuildState.READY else result_of(build)
    if build is not None and result is not None:
        request = BuildRequest(build.id, spec, target)
        if await builder.present(request, result):
            full = f"{environment.name}:{version.number}"
            return Software(full, environment.id, build.id, result.image, result.path, spec.environ)
    raise await _being_built(context, caller, environment, version, target, again=result is not None)


def _of_cluster(target: Target, cloud: CloudAccount, options: Mapping[str, Any]) -> Target:
    platform = asked_platform(cloud, options)
    return target if platform is None else replace(target, platform=platform)


async def _builder(context: Context, caller: AccountCaller, cloud: CloudAccount) -> tuple[Builder, Target]:
    try:
        return await builder_for(context, cloud, caller.account_id)
    except BackendError as exc:
        raise InputError(exc.message, advice=exc.advice, field="software") from None


async def _being_built(
    context: Context,
    caller: AccountCaller,
    environment: Environment,
    version: EnvironmentVersion,
    target: Target,
    *,
    again: bool,
) -> ConflictError:
    """Write down that it is to be built, and return what tells whoever waits for it."""
    async with context.db.transaction() as session:
        await context.db.serialize(session, f"environment {caller.account_id} {environment.name}")
        environment = await session.get_one(Environment, environment.id)
        version = await session.get_one(EnvironmentVersion, version.id)
        build = await builds.wish(context, session, environment, version, target, caller.username, again=again)
        await session.flush()
    return ConflictError(
        f"The software environment {environment.name!r} is being built{_why(build) if again else ''}: "
        "a cluster can start when that is done.",
        advice=f"Follow it with: ropewalk env log {environment.name} --follow",
        field="software",
        details={"environment": "building", "build": build.id},
    )


def _why(build: EnvironmentBuild) -> str:
    """Return why what was built is built again, within a sentence."""
    return " again, since its image is not in the registry any more" if build.image else " again, since it was removed"


async def mark_used(context: Context, session: AsyncSession, software: Software) -> None:
    """Take note, with the cluster that is written, that the build and its environment are used."""
    now = context.clock.now()
    build = await session.get_one(EnvironmentBuild, software.build_id, with_for_update=True)
    environment = await session.get_one(Environment, software.environment_id)
    build.used_at = environment.used_at = now


def _split(wanted: str) -> tuple[str, int | None]:
    name, colon, number = wanted.partition(":")
    if not colon:
        return name, None
    if not number.isdigit() or len(number) > 9:
        raise NotFoundError(
            f"{wanted[:60]!r} names no version of a software environment.",
            advice="Write it as NAME or NAME:3.",
            field="software",
        )
    return name, int(number)
