"""One cluster: what happened to it, its nodes, how to connect to it, its dashboard, and its size."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from ropewalk.errors import ClusterError, ConflictError, InputError, LimitExceededError
from ropewalk.schemas.clusters import ClusterScale
from ropewalk.server.clusters import service
from ropewalk.server.context import Context
from ropewalk.server.environments.service import seen
from ropewalk.server.gateway import passes
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import live
from ropewalk.server.web.deps import (
    AccountVisit,
    ContextDep,
    PageRoute,
    check_form,
    cookie_name,
    done,
    require_session,
    show,
)

router = APIRouter(prefix="/accounts/{account}/clusters/{cluster}", route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]
Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLUSTERS_READ)]

EVENTS = 200
"""Events of one page; those that came before are a link away."""


@router.get("")
async def show_cluster(
    context: ContextDep,
    visit: Reader,
    cluster: str,
    *,
    before: Annotated[int | None, Query(ge=1, le=2**53)] = None,
    done: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Show a cluster, by its id or its name, with its newest events, or those before one."""
    return await _page(context, visit, cluster, before=before, done=done)


@router.get("/live")
async def follow(context: ContextDep, visit: Reader, request: Request, cluster: str) -> Response:
    """Say when something happens to the cluster."""
    found = await service.get(context, visit.caller, cluster)
    return live.respond(context, visit.caller, request.cookies[cookie_name(context)], f"events:{found.id}")


@router.post("/scale")
async def scale(
    context: ContextDep,
    visit: Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLUSTERS_SCALE)],
    cluster: str,
    *,
    workers: Annotated[str, Form(max_length=20)] = "",
    maximum: Annotated[str, Form(max_length=20)] = "",
    csrf: Csrf = "",
) -> Response:
    """Change the number of workers; with a maximum, it adapts between both."""
    check_form(csrf, visit.csrf)
    typed = {"workers": workers, "maximum": maximum}
    try:
        bounds = [int(each) for each in (workers, maximum) if each.strip()]
        wish = ClusterScale.model_validate({"n_workers": tuple(bounds) if maximum.strip() else bounds[0]})
        found = await service.scale(context, visit.caller, cluster, wish)
    except (ValidationError, ValueError, IndexError):
        text = "Give whole numbers: how many workers, or the least and the most."
        return await _page(context, visit, cluster, status=422, error=text, typed=typed)
    except (ClusterError, ConflictError, InputError, LimitExceededError) as exc:
        return await _page(context, visit, cluster, status=exc.http_status, error=str(exc), typed=typed)
    return done(f"/accounts/{visit.caller.account}/clusters/{found.id}", "scaled")


@router.post("/dashboard")
async def open_dashboard(
    context: ContextDep,
    visit: Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLUSTERS_DASHBOARD)],
    cluster: str,
    csrf: Csrf = "",
) -> Response:
    """Go to the cluster's dashboard, on its own origin, with a ticket that works once."""
    check_form(csrf, visit.csrf)
    ticket = await passes.issue(context, visit.caller, cluster)
    return RedirectResponse(ticket.url, status_code=303)


async def _page(
    context: Context, visit: AccountVisit, name: str, *, before: int | None = None, **values: Any
) -> Response:
    found = await service.get(context, visit.caller, name)
    # Of the newest that a name may mean now, not of another one that takes the name between two questions.
    events = await service.newest_events(context, visit.caller, found.id, before=before, limit=EVENTS + 1)
    origin = context.settings.dashboard_origin(found.id)
    values = {"error": "", "typed": {"workers": "", "maximum": ""}, **values}
    return await show(
        context,
        visit,
        "cluster.html",
        here="clusters",
        cluster=found,
        events=events[:EVENTS],
        before=before,
        earlier=events[EVENTS - 1].id if len(events) > EVENTS else None,
        now=context.clock.now(),
        links=found.software is not None and await seen(context, visit.caller, found.software),
        forms_to=[] if origin is None else [origin],
        **values,
    )
