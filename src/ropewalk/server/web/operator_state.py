"""For operators: health of the server, orphans, how hosted clusters run, and the audit trail."""

from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, Depends, Query, Request, Response
from fastapi.responses import StreamingResponse
from pydantic import ValidationError

from ropewalk.errors import InputError
from ropewalk.schemas.audit import AuditQuery
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.server.cloud_accounts import service as cloud_accounts
from ropewalk.server.clusters.diagnostics import diagnose
from ropewalk.server.context import Context
from ropewalk.server.events import EventCode
from ropewalk.server.identity import accounts, audit
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.readiness import readiness
from ropewalk.server.web.deps import ContextDep, PageRoute, Visit, check_form, done, require_session, show
from ropewalk.server.web.hosted_form import FIELDS, typed, wish_of
from ropewalk.server.web.operator import problem

router = APIRouter(prefix="/operator", route_class=PageRoute, include_in_schema=False)

Watcher = Annotated[Visit, require_session(Permission.INSTALLATION_DIAGNOSTICS_READ)]
Auditor = Annotated[Visit, require_session(Permission.INSTALLATION_AUDIT_READ)]
Text = Annotated[str, Query(max_length=60)]

PAGE = 50
"""Events of one page of the audit trail."""


@router.get("/health")
async def health(context: ContextDep, visit: Watcher, request: Request, *, check: bool = False) -> Response:
    """Show whether everything works; *check* asks each cloud account now."""
    state = request.app.state
    loops = {
        "clusters": state.reconciler.loops,
        "cloud_accounts": state.cloud_accounts.loops,
        "environments": state.environments.loops,
    }
    return await show(
        context,
        visit,
        "operator-health.html",
        here="operator",
        tab="health",
        parts_of=await readiness(context, **loops),
        found=await diagnose(context, state.reconciler, loops.values(), check=check),
        numbers=context.metrics.glance(),
        checked=check,
        now=context.clock.now(),
    )


@router.get("/orphans")
async def orphans(context: ContextDep, visit: Watcher, request: Request) -> Response:
    """Show what runs in clouds that no cluster knows, and what was removed."""
    history = await audit.read_audit(context, AuditQuery(code="orphan.", limit=PAGE))
    return await show(
        context,
        visit,
        "operator-orphans.html",
        here="operator",
        tab="orphans",
        found=request.app.state.reconciler.orphan_nodes(),
        history=history[::-1],
        swept=request.app.state.reconciler.loops.last_success.get("sweep"),
        minutes=context.settings.sweep_seconds / 60,
    )


@router.get("/hosted")
async def hosted(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.INSTALLATION_HOSTED_READ)],
    done: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Show how hosted clusters run."""
    values = typed(await cloud_accounts.hosted_settings(context))
    return await _hosted(context, visit, values, done=done)


@router.post("/hosted")
async def set_hosted(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.INSTALLATION_HOSTED_UPDATE)],
    request: Request,
) -> Response:
    """Change how hosted clusters run."""
    form = {name: value for name, value in (await request.form()).items() if isinstance(value, str)}
    check_form(form.get("csrf", ""), visit.csrf)
    values = {field.name: form.get(field.name, "") for field in FIELDS}
    try:
        wish = HostedSettings.model_validate(wish_of(values))
    except ValidationError as exc:
        field, text = problem(exc)
        return await _hosted(context, visit, values, status=422, error=text, field=field)
    await cloud_accounts.set_hosted(context, visit.caller, wish)
    return done("/operator/hosted", "hosted")


async def _hosted(context: Context, visit: Visit, values: dict[str, str], **more: Any) -> Response:
    more = {"error": "", "field": None, **more}
    return await show(
        context, visit, "operator-hosted.html", here="operator", tab="hosted", fields=FIELDS, values=values, **more
    )


@dataclass(frozen=True)
class Filters:
    """What the form of the audit trail says, as it was typed."""

    actor: Text = ""
    code: Text = ""
    account: Text = ""
    level: Text = ""
    since: Text = ""
    until: Text = ""
    before: Text = ""

    def query(self, limit: int) -> AuditQuery:
        """Return what is asked for; a day is one of UTC, and the last one is counted. InputError names the field."""
        given: dict[str, Any] = {name: text.strip() for name, text in vars(self).items() if text.strip()}
        for name, days in (("since", 0), ("until", 1)):
            if name in given:
                given[name] = _moment(given[name], days)
        try:
            return AuditQuery.model_validate({**given, "limit": limit})
        except ValidationError as exc:
            field, text = problem(exc)
            raise InputError(f"{field}: {text}", field=field) from None

    def address(self, **changes: object) -> str:
        """Return the query of an address with these filters."""
        return urlencode({name: value for name, value in {**vars(self), **changes}.items() if value})


def _moment(day: str, days: int) -> datetime | str:
    try:
        return datetime.combine(date.fromisoformat(day) + timedelta(days=days), time.min, tzinfo=UTC)
    except (ValueError, OverflowError):
        return "not a day"  # which the schema refuses, with the field's name


Asked = Annotated[Filters, Depends()]


@router.get("/audit")
async def show_audit(context: ContextDep, visit: Auditor, asked: Asked) -> Response:
    """Show what happened and who did it, newest first; the filters are in the address."""
    values: dict[str, Any] = {"found": [], "older": None, "error": "", "field": None}
    status = 200
    try:
        found = (await audit.read_audit(context, asked.query(PAGE + 1)))[::-1]
        older = asked.address(before=found[PAGE - 1].id) if len(found) > PAGE else None
        values |= {"found": found[:PAGE], "older": older}
    except InputError as exc:
        status, values = 422, {**values, "error": str(exc), "field": exc.field}
    return await show(
        context,
        visit,
        "operator-audit.html",
        here="operator",
        tab="audit",
        status=status,
        asked=asked,
        codes=sorted({f"{code.partition('.')[0]}." for code in EventCode} | set(EventCode)),
        everyone=[each.slug for each in await accounts.list_accounts(context, visit.caller, everyone=True)],
        **values,
    )


@router.get("/audit.csv")
async def download_audit(context: ContextDep, visit: Auditor, asked: Asked) -> Response:  # noqa: ARG001 - the visit is the permission
    """Give everything that the filters let through, as CSV."""
    headers = {"Content-Disposition": 'attachment; filename="audit.csv"'}
    rows = audit.audit_csv(context, asked.query(PAGE))
    return StreamingResponse(rows, media_type="text/csv; charset=utf-8", headers=headers)
