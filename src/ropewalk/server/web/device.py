"""The page that approves the login of a terminal: sign in, see who asks, approve or deny.

It works without scripts. A link from the terminal fills in the code, and never more than that: the person always sees
the client's name and address and decides with a button (RFC 8628, sections 3.3.1 and 5.4).
"""

from typing import Annotated, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse

from ropewalk.errors import AuthenticationError, NotFoundError, RateLimitedError
from ropewalk.server.context import Context
from ropewalk.server.identity import devices, sessions, users
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    ContextDep,
    PageRoute,
    address_of,
    check_form,
    cookie_name,
    is_secure,
    page,
    public,
    require_session,
    set_cookie,
)

router = APIRouter(prefix="/device", route_class=PageRoute, include_in_schema=False)

FORM = "form"
"""Purpose of the cookie that binds the sign-in form to the browser, before there is a session."""

Code = Annotated[str, Form(max_length=64)]
Csrf = Annotated[str, Form(max_length=128)]


@router.get("", dependencies=[public(Permission.PUBLIC_PAGES_READ)])
async def show(context: ContextDep, request: Request, user_code: Annotated[str, Query(max_length=64)] = "") -> Response:
    """Show what comes next: sign in, enter the code, or decide."""
    signed_in = await sessions.find(context, request.cookies.get(cookie_name(context)))
    if signed_in is None:
        return _sign_in_page(context, request, user_code)
    if not user_code:
        return _code_page(signed_in, "")
    try:
        waiting = await devices.find(context, signed_in.caller, user_code, address=address_of(request))
    except (NotFoundError, RateLimitedError) as exc:
        return _code_page(signed_in, user_code, error=str(exc), status=exc.http_status)
    return page("approve.html", login=waiting, username=signed_in.caller.username, csrf=signed_in.csrf)


@router.post("/sign-in", dependencies=[public(Permission.PUBLIC_LOGIN_CREATE)])
async def sign_in(
    context: ContextDep,
    request: Request,
    *,
    username: Annotated[str, Form(max_length=80)] = "",
    password: Annotated[str, Form(max_length=1024)] = "",
    user_code: Code = "",
    csrf: Csrf = "",
) -> Response:
    """Begin a session with name and password."""
    check_form(csrf, sessions.csrf_token(request.cookies.get(cookie_name(context, FORM), sessions.new_secret())))
    try:
        user = await users.check_password(context, username, password, address=address_of(request))
    except (AuthenticationError, RateLimitedError) as exc:
        return _sign_in_page(context, request, user_code, error=str(exc), status=exc.http_status)
    response = _back(user_code)
    set_cookie(context, response, cookie_name(context), await sessions.begin(context, user))
    _forget_cookie(context, response, FORM)
    return response


@router.post("")
async def decide(
    context: ContextDep,
    signed_in: Annotated[sessions.SignedIn, require_session(Permission.SELF_DEVICES_APPROVE)],
    decision: Annotated[Literal["approve", "deny"], Form()],
    user_code: Code = "",
    csrf: Csrf = "",
) -> Response:
    """Approve or deny a login."""
    check_form(csrf, signed_in.csrf)
    login = await devices.decide(context, signed_in.caller, user_code, approve=decision == "approve")
    if decision == "deny":
        return page("message.html", title="Denied", text=f"{login.client_name} gets no access.")
    text = f"{login.client_name} is logged in as {signed_in.caller.username}. Go back to the terminal."
    return page("message.html", title="Approved", text=text)


@router.post("/sign-out")
async def sign_out(
    context: ContextDep,
    request: Request,
    signed_in: Annotated[sessions.SignedIn, require_session(Permission.SELF_SESSION_END)],
    csrf: Csrf = "",
) -> Response:
    """End the session."""
    check_form(csrf, signed_in.csrf)
    await sessions.end(context, request.cookies[cookie_name(context)])
    response = _back("")
    _forget_cookie(context, response, "session")
    return response


def _forget_cookie(context: Context, response: Response, purpose: str) -> None:
    response.delete_cookie(cookie_name(context, purpose), secure=is_secure(context), httponly=True, samesite="lax")


def _back(user_code: str) -> RedirectResponse:
    query = f"?{urlencode({'user_code': user_code})}" if user_code else ""
    return RedirectResponse(f"/device{query}", status_code=303)


def _sign_in_page(
    context: Context, request: Request, user_code: str, *, error: str = "", status: int = 200
) -> Response:
    cookie = request.cookies.get(cookie_name(context, FORM)) or sessions.new_secret()
    csrf = sessions.csrf_token(cookie)
    response = page("sign-in.html", status=status, user_code=user_code, csrf=csrf, error=error)
    set_cookie(context, response, cookie_name(context, FORM), cookie)
    return response


def _code_page(signed_in: sessions.SignedIn, user_code: str, *, error: str = "", status: int = 200) -> Response:
    name = signed_in.caller.username
    return page("code.html", status=status, user_code=user_code, username=name, csrf=signed_in.csrf, error=error)
