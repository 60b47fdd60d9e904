"""The page that an invitation leads to: join as who one is, or make a user; and the way to a cluster by its id."""

from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from ropewalk.errors import NotFoundError, RopewalkError
from ropewalk.schemas.identity import Join
from ropewalk.server.clusters import service
from ropewalk.server.identity import invitations, sessions
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    ContextDep,
    PageRoute,
    Visit,
    address_of,
    check_form,
    cookie_name,
    done,
    failure,
    public,
    require_session,
    show,
)
from ropewalk.server.web.sign_in import check_anonymous_form, enter, form

router = APIRouter(route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]


@router.get(f"{invitations.PATH}{{token}}", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def ask(context: ContextDep, request: Request, token: str) -> Response:
    """Show what the invitation is to, and how to accept it."""
    try:
        offer = await invitations.look(context, token, address=address_of(request))
    except NotFoundError as exc:
        return failure("This invitation cannot be used", exc.message, exc.advice, exc)
    found = await sessions.find(context, request.cookies.get(cookie_name(context)))
    if found is not None:
        return await show(context, Visit(found.caller, found.csrf), "join-as.html", offer=offer, token=token)
    return form(context, request, "join.html", offer=offer, token=token)


@router.post(f"{invitations.PATH}{{token}}", dependencies=[public(Permission.PUBLIC_INVITATIONS_JOIN)])
async def join(
    context: ContextDep,
    request: Request,
    token: str,
    *,
    username: Annotated[str, Form(max_length=80)] = "",
    password: Annotated[str, Form(max_length=2000)] = "",
    csrf: Csrf = "",
) -> Response:
    """Make a user who is a member, and let them in."""
    check_anonymous_form(context, request, csrf)
    offer = await invitations.look(context, token, address=address_of(request))
    values = {"offer": offer, "token": token, "username": username}
    try:
        wish = Join.model_validate({"token": token, "username": username, "password": password})
        user, account = await invitations.join(context, wish, address=address_of(request))
    except ValidationError as exc:
        first = exc.errors()[0]
        text = f"{first['msg'].removeprefix('Value error, ')}."
        return form(context, request, "join.html", status=422, error=text, field=str(first["loc"][0]), **values)
    except RopewalkError as exc:
        return form(context, request, "join.html", status=exc.http_status, error=str(exc), field=exc.field, **values)
    return await enter(context, request, user, f"/accounts/{account}/clusters?done=joined")


@router.post(f"{invitations.PATH}{{token}}/accept")
async def accept(
    context: ContextDep,
    request: Request,
    visit: Annotated[Visit, require_session(Permission.SELF_INVITATIONS_ACCEPT)],
    token: str,
    csrf: Csrf = "",
) -> Response:
    """Join as who one is."""
    check_form(csrf, visit.csrf)
    account = await invitations.accept(context, visit.caller, token, address=address_of(request))
    return done(f"/accounts/{account}/clusters", "joined")


@router.get("/clusters/{cluster}")
async def find_cluster(
    context: ContextDep, visit: Annotated[Visit, require_session(Permission.SELF_CLUSTERS_READ)], cluster: str
) -> Response:
    """Go to the page of the cluster that has that id: a dashboard knows no more than that."""
    account = await service.account_of(context, visit.caller, cluster)
    return RedirectResponse(f"/accounts/{account}/clusters/{cluster}", status_code=303)
