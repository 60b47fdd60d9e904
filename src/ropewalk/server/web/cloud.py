"""An account's cloud account: where clusters run, what exists there, and what is being done to it."""

from typing import Annotated, Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response

from ropewalk.errors import ConflictError, InputError, RopewalkError, UnavailableError
from ropewalk.schemas.cloud_accounts import (
    CloudAccount,
    CloudKind,
    CloudState,
    PreparePlan,
    SetAws,
    SetHosted,
    SetKubernetes,
)
from ropewalk.schemas.common import Event
from ropewalk.server.cloud_accounts import service, setting, work
from ropewalk.server.cloud_accounts.progress import progress
from ropewalk.server.context import Context
from ropewalk.server.events import EventCode
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import aws_console, cloud_forms, live
from ropewalk.server.web.deps import (
    AccountVisit,
    ContextDep,
    PageRoute,
    address_of,
    check_form,
    cookie_name,
    done,
    require_session,
    show,
)

router = APIRouter(prefix="/accounts/{account}/cloud-account", route_class=PageRoute, include_in_schema=False)

EVENTS = 200
"""How many of the newest events are looked at: preparing and removing everything are some 40."""
FEW = 20
"""How many of them are shown at first."""

Csrf = Annotated[str, Form(max_length=128)]
Which = Annotated[str, Query(alias="id", max_length=60)]
Done = Annotated[str, Query(max_length=20)]
Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_READ)]
Setter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_SET)]


def address(visit: AccountVisit, page: str = "", which: str | None = None) -> str:
    """Return the address of a page about a cloud account; *which*: a former one."""
    query = f"?{urlencode({'id': which})}" if which else ""
    return f"/accounts/{visit.caller.account}/cloud-account{page}{query}"


@router.get("")
async def overview(
    context: ContextDep, visit: Reader, *, which: Which = "", done: Done = "", every: Annotated[bool, Query()] = False
) -> Response:
    """Show where clusters run, and what is being done there."""
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    events = await work.latest_events(context, visit.caller, cloud.id, limit=EVENTS)
    plan = await _plan(context, visit, cloud) if cloud.work == "prepare" else None
    return await show(
        context,
        visit,
        "cloud/overview.html",
        here="cloud",
        done=done,
        cloud=cloud,
        which=which,
        events=events if every else events[:FEW],
        more=len(events) > FEW and not every,
        progress=progress(cloud, plan, events),
        rows=aws_console.rows(cloud),
        spoken=aws_console.spoken,
        wrong=_wrong(cloud, events),
        step=step_of(cloud),
        now=context.clock.now(),
        kubernetes=context.settings.kubernetes_in_web,
    )


@router.get("/live")
async def follow(context: ContextDep, visit: Reader, request: Request) -> Response:
    """Say when something happens to any of the account's cloud accounts, or another one is chosen."""
    cookie = request.cookies[cookie_name(context)]
    return live.respond(context, visit.caller, cookie, f"clouds:{visit.caller.account_id}")


@router.get("/use")
async def ask_use(context: ContextDep, visit: Setter, kind: Annotated[CloudKind, Query()]) -> Response:
    """Ask whether new clusters are really to run elsewhere."""
    return await _use_page(context, visit, kind)


@router.post("/use")
async def use(
    context: ContextDep,
    visit: Setter,
    request: Request,
    *,
    kind: Annotated[Literal["hosted", "aws", "kubernetes"], Form()] = "hosted",
    csrf: Csrf = "",
) -> Response:
    """Let new clusters run on the hosted cloud account, or where settings and credentials are stored."""
    check_form(csrf, visit.csrf)
    wishes: dict[str, type[SetHosted | SetAws | SetKubernetes]]
    wishes = {"hosted": SetHosted, "aws": SetAws, "kubernetes": SetKubernetes}
    wish = wishes[kind].model_validate({"kind": kind})
    try:
        await setting.set_cloud_account(context, visit.caller, wish, address_of(request))
    except (InputError, ConflictError, UnavailableError) as exc:
        return await _use_page(context, visit, CloudKind(kind), status=exc.http_status, error=str(exc))
    return done(address(visit), "cloud-used")


async def _use_page(context: Context, visit: AccountVisit, kind: CloudKind, **values: Any) -> Response:
    cloud = await service.get_cloud_account(context, visit.caller)
    known = None if kind is CloudKind.HOSTED else await setting.stored(context, visit.caller, kind)
    values = {"error": "", "cloud": cloud, "kind": kind, "known": known, **values}
    return await show(context, visit, "cloud/use.html", here="cloud", **values)


async def _plan(context: Context, visit: AccountVisit, cloud: CloudAccount) -> PreparePlan | None:
    """Return what is planned; None: the settings or the key of now do not let it be known."""
    try:
        return await work.plan(context, visit.caller, cloud.id)
    except RopewalkError:
        return None


def step_of(cloud: CloudAccount) -> int:
    """Return at which step of the guided set-up a cloud account is: of 1 to 5."""
    if cloud.state is CloudState.READY:
        return 5
    checked = cloud.last_check is not None and cloud.last_check.ok
    return 4 if checked or cloud.work else 3


def _wrong(cloud: CloudAccount, events: list[Event]) -> str | None:
    """Return the setting that stands in the way, if the cloud named one."""
    if cloud.state is not CloudState.ATTENTION:
        return None
    last = next((event for event in events if event.code == EventCode.CLOUD_ACCOUNT_ATTENTION), None)
    return cloud_forms.marked(last.details.get("field")) if last is not None else None
