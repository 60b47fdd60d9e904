"""What is done to a cloud account: checking, preparing, tearing down, forgetting. Each asks first."""

import json
from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Response
from fastapi.responses import RedirectResponse

from ropewalk.errors import ConflictError, NotFoundError
from ropewalk.schemas.cloud_accounts import CloudAccount, PreparePlan
from ropewalk.server.cloud_accounts import forgetting, service, work
from ropewalk.server.context import Context
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import aws_console, cloud_report
from ropewalk.server.web.cloud import Csrf, Done, Reader, Which, address, step_of
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, check_form, done, require_session, show

router = APIRouter(prefix="/accounts/{account}/cloud-account", route_class=PageRoute, include_in_schema=False)

FormId = Annotated[str, Form(alias="id", max_length=60)]
Typed = Annotated[str, Form(max_length=80)]
Checker = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_CHECK)]
Preparer = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_PREPARE)]
Remover = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_TEARDOWN)]
Forgetter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLOUD_FORGET)]


def attachment(document: Any, name: str) -> Response:
    headers = {"Content-Disposition": f'attachment; filename="{name}"', "Cache-Control": "no-store"}
    return Response(json.dumps(document, indent=2) + "\n", media_type="application/json", headers=headers)


# Checking.


@router.get("/check")
async def report(context: ContextDep, visit: Reader, which: Which = "", done: Done = "") -> Response:
    """Show what the last check found."""
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    found = cloud.last_check
    policy = None if found is None or found.policy is None else json.dumps(found.policy, indent=2)
    return await show(
        context,
        visit,
        "cloud/check.html",
        here="cloud",
        done=done,
        cloud=cloud,
        which=which,
        report=found,
        groups=[] if found is None else cloud_report.groups(found),
        policy=policy,
        step=step_of(cloud),
    )


@router.post("/check")
async def check(context: ContextDep, visit: Checker, which: FormId = "", csrf: Csrf = "") -> Response:
    """Find out whether clusters can run there; changes nothing in the cloud."""
    check_form(csrf, visit.csrf)
    await service.check_cloud_account(context, visit.caller, which or None)
    return done(address(visit, "/check", which), "cloud-checked")


@router.get("/check/policy.json")
async def missing(context: ContextDep, visit: Reader, which: Which = "") -> Response:
    """Send a policy of just what the last check missed."""
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    if cloud.last_check is None or cloud.last_check.policy is None:
        raise NotFoundError("The last check missed nothing that a policy could give.", advice="Check again.")
    return attachment(cloud.last_check.policy, "ropewalk-missing.json")


# Preparing.


@router.get("/prepare")
async def ask_prepare(context: ContextDep, visit: Preparer, which: Which = "") -> Response:
    """Show what is made and what it costs, and ask for consent."""
    return await _prepare_page(context, visit, which)


@router.post("/prepare")
async def prepare(
    context: ContextDep,
    visit: Preparer,
    *,
    cost: Annotated[float, Form(ge=0)] = 0.0,
    which: FormId = "",
    csrf: Csrf = "",
) -> Response:
    """Make what clusters need, or complete it, at the cost that was shown."""
    check_form(csrf, visit.csrf)
    try:
        await work.prepare(context, visit.caller, cost, which or None)
    except ConflictError as exc:
        return await _prepare_page(context, visit, which, status=exc.http_status, error=str(exc))
    return RedirectResponse(address(visit, which=which), status_code=303)


async def _prepare_page(context: Context, visit: AccountVisit, which: str, **values: Any) -> Response:
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    if _nothing_to_do(cloud, values):
        return RedirectResponse(address(visit), status_code=303)
    plan: PreparePlan = await work.plan(context, visit.caller, which or None)
    values = {"error": "", "cloud": cloud, "which": which, "plan": plan, "step": step_of(cloud), **values}
    return await show(context, visit, "cloud/prepare.html", here="cloud", spoken=aws_console.spoken, **values)


# Removing.


@router.get("/teardown")
async def ask_teardown(context: ContextDep, visit: Remover, which: Which = "") -> Response:
    """Show what goes, and ask for the account's name."""
    return await _teardown_page(context, visit, which)


@router.post("/teardown")
async def teardown(
    context: ContextDep, visit: Remover, typed: Typed = "", which: FormId = "", csrf: Csrf = ""
) -> Response:
    """Remove everything that Ropewalk made there."""
    check_form(csrf, visit.csrf)
    if typed.strip() != visit.caller.account:
        return await _teardown_page(context, visit, which, status=422, error=_not_the_name(visit), field="typed")
    try:
        await work.teardown(context, visit.caller, which or None)
    except ConflictError as exc:
        clusters = exc.details.get("clusters", [])
        return await _teardown_page(
            context, visit, which, status=exc.http_status, error=exc.message, clusters=clusters, typed=typed
        )
    return RedirectResponse(address(visit, which=which), status_code=303)


async def _teardown_page(context: Context, visit: AccountVisit, which: str, **values: Any) -> Response:
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    if _nothing_to_do(cloud, values):
        return RedirectResponse(address(visit), status_code=303)
    rows = [row for row in aws_console.rows(cloud) if row.owned]
    values = {"error": "", "field": None, "typed": "", "clusters": [], "cloud": cloud, "which": which, **values}
    return await show(context, visit, "cloud/teardown.html", here="cloud", rows=rows, **values)


# Forgetting.


@router.get("/forget")
async def ask_forget(context: ContextDep, visit: Forgetter, which: Which = "") -> Response:
    """Ask whether the credentials are really to be deleted."""
    return await _forget_page(context, visit, which)


@router.post("/forget")
async def forget(
    context: ContextDep,
    visit: Forgetter,
    *,
    abandon: Annotated[bool, Form()] = False,
    typed: Typed = "",
    which: FormId = "",
    csrf: Csrf = "",
) -> Response:
    """Delete the credentials of a cloud account; with *abandon*, whatever it holds."""
    check_form(csrf, visit.csrf)
    if abandon and typed.strip() != visit.caller.account:
        return await _forget_page(context, visit, which, status=422, error=_not_the_name(visit), field="typed")
    try:
        await forgetting.forget(context, visit.caller, which or None, force=abandon)
    except ConflictError as exc:
        held = [*exc.details.get("resources", []), *(f"cluster {name}" for name in exc.details.get("clusters", []))]
        return await _forget_page(context, visit, which, status=exc.http_status, error=exc.message, held=held)
    return done(address(visit), "cloud-forgotten")


async def _forget_page(context: Context, visit: AccountVisit, which: str, **values: Any) -> Response:
    cloud = await service.get_cloud_account(context, visit.caller, which or None)
    if _nothing_to_do(cloud, values):
        return RedirectResponse(address(visit), status_code=303)
    held = [f"{row.kind} {row.id}" for row in aws_console.rows(cloud) if row.owned]
    values = {"error": "", "field": None, "held": held, "cloud": cloud, "which": which, **values}
    return await show(context, visit, "cloud/forget.html", here="cloud", **values)


def _nothing_to_do(cloud: CloudAccount, values: Mapping[str, Any]) -> bool:
    """Whether it is the operator's: whoever comes back to a page by the back button after forgetting is led on."""
    return cloud.id is None and not values


def _not_the_name(visit: AccountVisit) -> str:
    return f"That is not the account's name. Nothing was done; type {visit.caller.account} to go on."
