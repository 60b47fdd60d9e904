"""Routes of cloud accounts. No route returns stored credentials."""

from typing import Annotated

from fastapi import APIRouter, Query, Request, Response

from ropewalk.schemas.cloud_accounts import (
    CheckReport,
    CloudAccount,
    CloudAccountSet,
    HostedSettings,
    PreparePlan,
    PrepareRequest,
)
from ropewalk.schemas.common import Event
from ropewalk.server.api import streams
from ropewalk.server.api.deps import ContextDep, address_of, require
from ropewalk.server.cloud_accounts import forgetting, service, setting, work
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["cloud accounts"])

Id = Annotated[
    str | None, Query(max_length=60, description="A former cloud account of the account; unset: the present one.")
]
ReadCaller = Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_READ)]


@router.get("/accounts/{account}/cloud-account")
async def get_cloud_account(context: ContextDep, caller: ReadCaller, id: Id = None) -> CloudAccount:  # noqa: A002 - the name in the query
    """Show where the account's clusters run."""
    return await service.get_cloud_account(context, caller, id)


@router.put("/accounts/{account}/cloud-account")
async def set_cloud_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_SET)],
    request: Request,
    wish: CloudAccountSet,
) -> CloudAccount:
    """Choose where the account's new clusters run. What is left out stays as it is, credentials included.

    Credentials are tried before anything is stored. Clusters that run stay where they are.
    """
    return await setting.set_cloud_account(context, caller, wish, address_of(request))


@router.delete("/accounts/{account}/cloud-account")
async def forget_cloud_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_FORGET)],
    *,
    id: Id = None,  # noqa: A002 - the name in the query
    force: bool = False,
) -> CloudAccount:
    """Delete a cloud account's credentials; the answer is where new clusters run from now on.

    Refused while it owns resources or clusters. With `force` they are abandoned: nobody can look after them any more.
    """
    return await forgetting.forget(context, caller, id, force=force)


@router.post("/accounts/{account}/cloud-account/check")
async def check_cloud_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_CHECK)],
    id: Id = None,  # noqa: A002 - the name in the query
) -> CheckReport:
    """Find out whether clusters can run there; changes nothing in the cloud."""
    return await service.check_cloud_account(context, caller, id)


@router.get("/accounts/{account}/cloud-account/prepare")
async def plan_prepare(context: ContextDep, caller: ReadCaller, id: Id = None) -> PreparePlan:  # noqa: A002 - the name in the query
    """Show what `prepare` makes, and what that costs while no cluster runs."""
    return await work.plan(context, caller, id)


@router.post("/accounts/{account}/cloud-account/prepare")
async def prepare_cloud_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_PREPARE)],
    wish: PrepareRequest,
    id: Id = None,  # noqa: A002 - the name in the query
) -> CloudAccount:
    """Make what clusters need, or complete it. Returns at once; follow its events from `last_event` on."""
    return await work.prepare(context, caller, wish.accept_monthly_cost, id)


@router.post("/accounts/{account}/cloud-account/teardown")
async def teardown_cloud_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_TEARDOWN)],
    id: Id = None,  # noqa: A002 - the name in the query
) -> CloudAccount:
    """Remove all that `prepare` made. Returns at once; follow its events from `last_event` on."""
    return await work.teardown(context, caller, id)


@router.get("/accounts/{account}/cloud-account/events", response_model=list[Event])
async def get_cloud_account_events(
    context: ContextDep,
    caller: ReadCaller,
    *,
    id: Id = None,  # noqa: A002 - the name in the query
    after: Annotated[int, Query(ge=0)] = 0,
    limit: Annotated[int, Query(ge=1, le=work.MAX_EVENTS)] = work.MAX_EVENTS,
    follow: bool = False,
) -> Response | list[Event]:
    """List a cloud account's events in order.

    With `follow`, the answer is a stream of server-sent events that ends when no work is under way or the server stops;
    its `id` is what to pass as `after` to go on from there.
    """
    found, cloud_account_id, more = await work.events(context, caller, id, after=after, limit=limit)
    if not follow:
        return found

    async def look(after: int) -> streams.Seen:
        # The one that was asked for, also when the account uses another one meanwhile.
        later, _, under_way = await work.events(context, caller, cloud_account_id, after=after)
        return later, under_way

    topic = f"events:{cloud_account_id}"
    feed = streams.Feed(context=context, caller=caller, topic=topic, look=look, first=(found, more), after=after)
    return feed.response()


@router.get("/hosted")
async def get_hosted(
    context: ContextDep, _caller: Annotated[Caller, require(Permission.INSTALLATION_HOSTED_READ)]
) -> HostedSettings:
    """Show how hosted clusters run; for operators."""
    return await service.hosted_settings(context)


@router.put("/hosted")
async def set_hosted(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.INSTALLATION_HOSTED_UPDATE)],
    wish: HostedSettings,
) -> HostedSettings:
    """Replace how hosted clusters run; for operators. What is left out gets its default."""
    return await service.set_hosted(context, caller, wish)
