"""The clusters of an account: a table that keeps itself up to date."""

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response

from ropewalk.server.clusters import service
from ropewalk.server.identity import accounts, members
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

router = APIRouter(prefix="/accounts/{account}/clusters", route_class=PageRoute, include_in_schema=False)

PAGE = 100
"""Rows of one page, unless somebody wants more: what a person looks through."""
MANY = service.MAX_PAGE
"""Rows of one page for those who want to see, or search, all that a large team runs."""

Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLUSTERS_READ)]
Stopper = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CLUSTERS_STOP)]


@router.get("")
async def list_clusters(
    context: ContextDep,
    visit: Reader,
    *,
    state: Literal["live", "all"] = "live",
    name: Annotated[str, Query(max_length=60)] = "",
    creator: Annotated[str, Query(max_length=60)] = "",
    before: Annotated[str, Query(max_length=60)] = "",
    rows: Annotated[int, Query(ge=1, le=MANY)] = PAGE,
    done: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Show the account's clusters, newest first; the filters are in the address."""
    caller = visit.caller
    found = await service.list_all(
        context,
        caller,
        account_id=caller.account_id,
        state=state,
        contains=name.strip().lower(),
        creator=creator,
        limit=rows + 1,
        before=before or None,
    )
    filters = {key: value for key, value in (("state", state), ("name", name), ("creator", creator)) if value}
    if rows != PAGE:
        filters["rows"] = str(rows)
    older = urlencode({**filters, "before": found[rows - 1].id}) if len(found) > rows else None
    everybody = await members.list_members(context, caller)
    return await show(
        context,
        visit,
        "clusters.html",
        here="clusters",
        done=done,
        clusters=found[:rows],
        older=older,
        filters=filters,
        first=not before,
        state=state,
        name=name,
        creator=creator,
        rows=rows,
        choices=(PAGE, MANY),
        members=[member.username for member in everybody],
        mine=next((member for member in everybody if member.username == caller.username), None),
        usage=await accounts.get_account(context, caller),
        now=context.clock.now(),
        server=context.settings.public_url,
    )


@router.get("/live")
async def follow(context: ContextDep, visit: Reader, request: Request) -> Response:
    """Say when something of the account's clusters changes."""
    cookie = request.cookies[cookie_name(context)]
    return live.respond(context, visit.caller, cookie, f"account:{visit.caller.account_id}")


@router.get("/{cluster}/stop")
async def ask_stop(context: ContextDep, visit: Stopper, cluster: str) -> Response:
    """Ask whether the cluster is really to be stopped."""
    return await show(
        context, visit, "stop.html", here="clusters", cluster=await service.get(context, visit.caller, cluster)
    )


@router.post("/{cluster}/stop")
async def stop(
    context: ContextDep, visit: Stopper, cluster: str, csrf: Annotated[str, Form(max_length=128)] = ""
) -> Response:
    """Stop a cluster."""
    check_form(csrf, visit.csrf)
    await service.stop(context, visit.caller, cluster)
    return done(f"/accounts/{visit.caller.account}/clusters", "stopping")
