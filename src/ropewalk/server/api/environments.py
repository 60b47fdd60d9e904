"""Routes of software environments: their versions, builds and logs, uploaded wheels, credentials of indexes."""

from typing import Annotated

from fastapi import APIRouter, Path, Query, Request, Response, status
from fastapi.responses import FileResponse

from ropewalk.schemas import environments as schemas
from ropewalk.schemas.common import Event
from ropewalk.schemas.environments import LocalWheel, Sha256, WheelName
from ropewalk.server.api import build_log, streams
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.environments import builds, credentials, service, wheels
from ropewalk.server.identity.permissions import AccountCaller, Permission

router = APIRouter(prefix="/api/v1/accounts/{account}", tags=["software environments"])

Reader = Annotated[AccountCaller, require(Permission.ACCOUNT_ENVIRONMENTS_READ)]
Maker = Annotated[AccountCaller, require(Permission.ACCOUNT_ENVIRONMENTS_CREATE)]


@router.get("/environments")
async def list_environments(
    context: ContextDep,
    caller: Reader,
    *,
    managed: Annotated[bool, Query(description="Those of package sync, too.")] = False,
) -> list[schemas.Environment]:
    """List the account's software environments."""
    return await service.list_all(context, caller, managed=managed)


@router.post("/environments")
async def create_environment(
    context: ContextDep, caller: Maker, wish: schemas.EnvironmentCreate
) -> schemas.EnvironmentDetail:
    """Make a software environment, or a new version of one. Returns at once; follow the log of its build.

    What is the newest version already is left as it is.
    """
    return await service.create(context, caller, wish)


@router.get("/environments/{name}")
async def get_environment(context: ContextDep, caller: Reader, name: str) -> schemas.EnvironmentDetail:
    """Show a software environment with its versions, the newest first."""
    return await service.get(context, caller, name)


@router.delete("/environments/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_environment(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_ENVIRONMENTS_DELETE)], name: str
) -> None:
    """Delete a software environment. Clusters that use it go on."""
    await service.delete(context, caller, name)


@router.post("/environments/{name}/rebuild")
async def rebuild_environment(context: ContextDep, caller: Maker, name: str) -> schemas.EnvironmentDetail:
    """Resolve and build the newest version's specification again, as a new version."""
    return await service.rebuild(context, caller, name)


@router.get("/environments/{name}/diff")
async def diff_environment(
    context: ContextDep,
    caller: Reader,
    name: str,
    before: Annotated[int, Query(ge=1)],
    after: Annotated[int, Query(ge=1)],
) -> schemas.EnvironmentDiff:
    """Show what two versions differ in."""
    return await service.difference(context, caller, name, before, after)


@router.get("/environments/{name}/versions/{number}")
async def get_environment_version(
    context: ContextDep, caller: Reader, name: str, number: int
) -> schemas.EnvironmentVersion:
    """Show one version, with what it was resolved to."""
    return await service.get_version(context, caller, name, number)


@router.get("/builds/{build}")
async def get_build(context: ContextDep, caller: Reader, build: str) -> schemas.EnvironmentBuild:
    """Show a build."""
    return await builds.get(context, caller, build)


@router.get("/builds/{build}/log", response_model=schemas.LogPart)
async def get_build_log(
    context: ContextDep,
    caller: Reader,
    build: str,
    *,
    offset: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=1_000_000)] = 1_000_000,
    wait: Annotated[float, Query(ge=0, le=60, description="Seconds to wait for more, if there is none.")] = 0,
    follow_it: Annotated[bool, Query(alias="follow")] = False,
) -> Response | schemas.LogPart:
    """Read the log of a build.

    With `follow`, the answer is a stream of server-sent events, each a part of the log, that ends when the build is
    over or the server stops; its `id` is what to pass as `offset` to go on from there.
    """
    first = await build_log.grown(context, caller, build, offset, limit, wait)
    return build_log.respond(context, caller, build, first) if follow_it else first


@router.get("/builds/{build}/events", response_model=list[Event])
async def get_build_events(
    context: ContextDep,
    caller: Reader,
    build: str,
    *,
    after: Annotated[int, Query(ge=0)] = 0,
    follow_it: Annotated[bool, Query(alias="follow")] = False,
) -> Response | list[Event]:
    """List a build's events in order; with `follow` as a stream, as those of clusters are."""
    first = await builds.events(context, caller, build, after=after)
    if not follow_it:
        return first[0]

    async def look(after: int) -> streams.Seen:
        return await builds.events(context, caller, build, after=after)

    feed = streams.Feed(context=context, caller=caller, topic=f"events:{build}", look=look, first=first, after=after)
    return feed.response()


@router.post("/wheels/missing")
async def missing_wheels(context: ContextDep, caller: Maker, wanted: schemas.WheelsWanted) -> list[LocalWheel]:
    """Return which of these wheels have to be sent."""
    return await wheels.missing(context, caller, wanted.wheels)


@router.put("/wheels/{sha256}/{filename}", status_code=status.HTTP_204_NO_CONTENT)
async def put_wheel(
    context: ContextDep,
    caller: Maker,
    request: Request,
    sha256: Annotated[Sha256, Path()],
    filename: Annotated[WheelName, Path()],
) -> None:
    """Send a wheel: the body is the file. It is kept if it has that hash."""
    await wheels.keep(context, caller, sha256, filename, request.headers.get("content-length"), request.stream())


@router.get("/wheels/{sha256}/{filename}")
async def get_wheel(
    context: ContextDep,
    caller: Reader,
    sha256: Annotated[Sha256, Path()],
    filename: Annotated[WheelName, Path()],
) -> Response:
    """Get a wheel that was sent, to install it elsewhere."""
    return FileResponse(await wheels.get(context, caller, sha256, filename), media_type="application/octet-stream")


@router.get("/index-credentials")
async def list_index_credentials(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INDEXES_READ)]
) -> list[schemas.IndexCredentials]:
    """List the credentials of private package indexes, without the secrets."""
    return await credentials.list_all(context, caller)


@router.put("/index-credentials/{name}")
async def set_index_credentials(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INDEXES_SET)],
    name: str,
    wish: schemas.IndexCredentialsSet,
) -> schemas.IndexCredentials:
    """Store credentials of a private package index, encrypted; or replace them."""
    return await credentials.store(context, caller, name, wish)


@router.delete("/index-credentials/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_index_credentials(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INDEXES_DELETE)], name: str
) -> None:
    """Delete credentials of a private package index."""
    await credentials.delete(context, caller, name)
