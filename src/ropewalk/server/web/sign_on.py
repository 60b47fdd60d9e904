"""Single sign-on: to the provider and back, to sign in or to connect a user that one has."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any

import structlog
from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ropewalk.errors import AuthenticationError, RopewalkError
from ropewalk.server.context import Context
from ropewalk.server.identity import invitations, sessions, sign_on
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
    forget_cookie,
    local_path,
    public,
    require_session,
    set_cookie,
    show,
)
from ropewalk.server.web.sign_in import enter, form

router = APIRouter(route_class=PageRoute, include_in_schema=False)

COOKIE = "sso"
"""Purpose of the cookie that binds a sign-in to the browser that began it."""
PATIENCE = timedelta(minutes=10)
"""How long people may take at the provider."""

Csrf = Annotated[str, Form(max_length=128)]

log = structlog.get_logger(__name__)


@router.get("/sign-in/sso", dependencies=[public(Permission.PUBLIC_LOGIN_CREATE)])
async def begin(
    context: ContextDep, request: Request, wanted: Annotated[str, Query(alias="next", max_length=2000)] = "/"
) -> Response:
    """Go to the provider. A link and not a form, whose policy would have to name the provider's origin."""
    attempt = sign_on.Attempt.begin(local_path(wanted))
    try:
        url = await _url(context, attempt)
    except RopewalkError as exc:
        return _refused(context, request, exc, attempt.wanted)
    response = RedirectResponse(url, status_code=303)
    set_cookie(context, response, cookie_name(context, COOKIE), attempt.cookie, lifetime=PATIENCE)
    return response


@router.get(sign_on.CALLBACK, dependencies=[public(Permission.PUBLIC_LOGIN_CREATE)])
async def come_back(context: ContextDep, request: Request) -> Response:
    """Take the provider's answer: begin a session, or connect the user that is signed in."""
    attempt = sign_on.Attempt.of(request.cookies.get(cookie_name(context, COOKIE), ""))
    answer = {name: value[:4096] for name, value in request.query_params.items()}
    try:
        claims = await sign_on.vouched(context, attempt, answer, address=address_of(request))
        if attempt is None:
            raise AssertionError("vouched refuses that")
        if attempt.link:
            response = await _link(context, request, attempt, claims)
        else:
            user, joined = await sign_on.enter(context, claims, _invitation(attempt.wanted))
            path = f"/accounts/{joined}/clusters?done=joined" if joined else local_path(attempt.wanted)
            response = await enter(context, request, user, path)
    except RopewalkError as exc:
        log.info("sso.refused", reason=exc.message)
        if attempt is not None and attempt.link:
            response = failure("Not connected", exc.message, exc.advice, exc)
        else:
            response = _refused(context, request, exc, "/" if attempt is None else attempt.wanted)
    forget_cookie(context, response, COOKIE)
    return response


@router.post("/profile/single-sign-on")
async def connect(
    context: ContextDep, visit: Annotated[Visit, require_session(Permission.SELF_PROFILE_UPDATE)], csrf: Csrf = ""
) -> Response:
    """Go to the provider to connect one's user, by a page, since a form may not lead to another origin."""
    check_form(csrf, visit.csrf)
    attempt = sign_on.Attempt.begin("/profile", link=visit.csrf)
    url = await _url(context, attempt)
    response = await show(context, visit, "leave.html", here="profile", url=url, name=_name(context))
    set_cookie(context, response, cookie_name(context, COOKIE), attempt.cookie, lifetime=PATIENCE)
    return response


@router.post("/profile/single-sign-on/end")
async def disconnect(
    context: ContextDep, visit: Annotated[Visit, require_session(Permission.SELF_PROFILE_UPDATE)], csrf: Csrf = ""
) -> Response:
    """Disconnect one's user."""
    check_form(csrf, visit.csrf)
    await sign_on.unlink(context, visit.caller)
    return done("/profile", "disconnected")


async def _url(context: Context, attempt: sign_on.Attempt) -> str:
    provider = sign_on.provider_of(context)
    return await provider.authorization_url(state=attempt.state, nonce=attempt.nonce, verifier=attempt.verifier)


async def _link(context: Context, request: Request, attempt: sign_on.Attempt, claims: Mapping[str, Any]) -> Response:
    found = await sessions.find(context, request.cookies.get(cookie_name(context)))
    if found is None or not sessions.same(found.csrf, attempt.link):
        raise AuthenticationError("You are not signed in any more.", advice="Sign in, and connect again.")
    await sign_on.link(context, found.caller, claims)
    return done("/profile", "connected")


def _invitation(wanted: str) -> str | None:
    return invitations.secret_of(wanted) if wanted.startswith(invitations.PATH) else None


def _name(context: Context) -> str:
    return sign_on.provider_of(context).client.name


def _refused(context: Context, request: Request, exc: RopewalkError, wanted: str) -> Response:
    """Show the sign-in page, on which a password still works, with what went wrong."""
    if context.provider is None:
        return failure("There is nothing here", exc.message, exc.advice, exc)
    return form(context, request, "sign-in.html", status=exc.http_status, wanted=wanted, error=str(exc))
