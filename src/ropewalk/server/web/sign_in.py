"""The ways in and out: sign in, sign out, and the first operator of a new server."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from ropewalk.errors import AuthenticationError, ConflictError, RateLimitedError
from ropewalk.schemas.identity import SetupRequest
from ropewalk.server.context import Context
from ropewalk.server.db.models import User
from ropewalk.server.identity import sessions, setup, users
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    ContextDep,
    PageRoute,
    Visit,
    address_of,
    check_form,
    cookie_name,
    done,
    forget_cookie,
    local_path,
    public,
    require_session,
    set_cookie,
)
from ropewalk.server.web.render import page

__all__ = ["check_anonymous_form", "enter", "form", "router"]

router = APIRouter(route_class=PageRoute, include_in_schema=False)

FORM = "form"
"""Purpose of the cookie that binds a form to the browser, before there is a session."""

Csrf = Annotated[str, Form(max_length=128)]
Next = Annotated[str, Form(alias="next", max_length=2000)]


@router.get("/", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def home(context: ContextDep, request: Request) -> Response:
    """Go to what one comes for: one's clusters; or to what must be done before."""
    signed_in = await sessions.find(context, request.cookies.get(cookie_name(context)))
    if signed_in is not None:
        return RedirectResponse(f"/accounts/{signed_in.caller.username}/clusters", status_code=303)
    return RedirectResponse("/sign-in" if await setup.is_done(context) else "/setup", status_code=303)


@router.get("/sign-in", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def ask(
    context: ContextDep,
    request: Request,
    wanted: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    done: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Show the form to sign in; who is signed in goes on at once."""
    if await sessions.find(context, request.cookies.get(cookie_name(context))) is not None:
        return RedirectResponse(local_path(wanted), status_code=303)
    return form(context, request, "sign-in.html", wanted=local_path(wanted), done=done)


@router.post("/sign-in", dependencies=[public(Permission.PUBLIC_LOGIN_CREATE)])
async def sign_in(
    context: ContextDep,
    request: Request,
    *,
    username: Annotated[str, Form(max_length=80)] = "",
    password: Annotated[str, Form(max_length=1024)] = "",
    wanted: Next = "/",
    csrf: Csrf = "",
) -> Response:
    """Begin a session with name and password."""
    check_anonymous_form(context, request, csrf)
    try:
        user = await users.check_password(context, username, password, address=address_of(request))
    except (AuthenticationError, RateLimitedError) as exc:
        values = {"wanted": local_path(wanted), "username": username, "error": str(exc)}
        return form(context, request, "sign-in.html", status=exc.http_status, **values)
    return await enter(context, request, user, local_path(wanted))


@router.post("/sign-out")
async def sign_out(
    context: ContextDep,
    request: Request,
    visit: Annotated[Visit, require_session(Permission.SELF_SESSION_END)],
    csrf: Csrf = "",
) -> Response:
    """End the session."""
    check_form(csrf, visit.csrf)
    await sessions.end(context, request.cookies[cookie_name(context)])
    response = done("/sign-in", "signed-out")
    forget_cookie(context, response)
    return response


@router.get("/setup", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def ask_setup(context: ContextDep, request: Request) -> Response:
    """Show the form that makes the first operator."""
    if await setup.is_done(context):
        return RedirectResponse("/sign-in", status_code=303)
    return form(context, request, "setup.html")


@router.post("/setup", dependencies=[public(Permission.PUBLIC_SETUP_CREATE)])
async def set_up(
    context: ContextDep,
    request: Request,
    *,
    code: Annotated[str, Form(max_length=200)] = "",
    username: Annotated[str, Form(max_length=80)] = "",
    password: Annotated[str, Form(max_length=2000)] = "",
    csrf: Csrf = "",
) -> Response:
    """Make the first operator, and let them sign in."""
    check_anonymous_form(context, request, csrf)
    try:
        wish = SetupRequest.model_validate({"code": code, "username": username, "password": password})
        user = await setup.create_operator_in_browser(context, wish, address=address_of(request))
    except ValidationError as exc:
        field = str(exc.errors()[0]["loc"][0])
        text = f"{field}: {exc.errors()[0]['msg'].removeprefix('Value error, ')}"
        return form(context, request, "setup.html", status=422, username=username, error=text, field=field)
    except (AuthenticationError, ConflictError, RateLimitedError) as exc:
        values = {"username": username, "error": str(exc), "field": exc.field}
        return form(context, request, "setup.html", status=exc.http_status, **values)
    return await enter(context, request, user, "/")


async def enter(context: Context, request: Request, user: User, path: str) -> Response:
    """Begin a session, and go on."""
    response = RedirectResponse(path, status_code=303)
    cookie = await sessions.begin(context, user.id, request.headers.get("user-agent"))
    set_cookie(context, response, cookie_name(context), cookie)
    forget_cookie(context, response, FORM)
    return response


def check_anonymous_form(context: Context, request: Request, csrf: str) -> None:
    """Refuse a form that was not made for this browser; there is no session yet that could say so."""
    cookie = request.cookies.get(cookie_name(context, FORM), sessions.new_secret())
    check_form(csrf, sessions.csrf_token(cookie))


def form(context: Context, request: Request, template: str, *, status: int = 200, **values: Any) -> Response:
    """Show a form to somebody who is not signed in, bound to their browser."""
    cookie = request.cookies.get(cookie_name(context, FORM)) or sessions.new_secret()
    values = {"username": "", "error": "", "field": None, "csrf": sessions.csrf_token(cookie), **values}
    values["sso"] = None if context.provider is None else context.provider.client.name
    response = page(template, status=status, **values)
    set_cookie(context, response, cookie_name(context, FORM), cookie)
    return response
