"""What belongs to a person: password, sessions, tokens."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response
from pydantic import ValidationError

from ropewalk.errors import RopewalkError
from ropewalk.schemas.identity import TokenCreate, UserUpdate
from ropewalk.server.context import Context
from ropewalk.server.identity import sessions, sign_on, tokens, users
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    ContextDep,
    PageRoute,
    Visit,
    address_of,
    check_form,
    cookie_name,
    done,
    require_session,
    set_cookie,
    show,
)

router = APIRouter(prefix="/profile", route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]
Done = Annotated[str, Query(max_length=20)]


@router.get("")
async def profile(
    context: ContextDep,
    request: Request,
    visit: Annotated[Visit, require_session(Permission.SELF_PROFILE_READ)],
    done: Done = "",
) -> Response:
    """Show who one is, and where one is signed in."""
    return await _profile(context, request, visit, done=done)


@router.post("/password")
async def change_password(
    context: ContextDep,
    request: Request,
    visit: Annotated[Visit, require_session(Permission.SELF_PROFILE_UPDATE)],
    *,
    current: Annotated[str, Form(max_length=1024)] = "",
    password: Annotated[str, Form(max_length=2000)] = "",
    csrf: Csrf = "",
) -> Response:
    """Change one's password. It ends all one's sessions, so this browser gets a new one."""
    check_form(csrf, visit.csrf)
    name = visit.caller.username
    try:
        wish = UserUpdate.model_validate({"password": password, "current_password": current})
        await users.update_user(context, visit.caller, name, wish, address=address_of(request))
    except ValidationError as exc:
        problem = f"The new password is not accepted: {exc.errors()[0]['msg']}."
        return await _profile(context, request, visit, status=422, error=problem, field="password")
    except RopewalkError as exc:
        return await _profile(context, request, visit, status=exc.http_status, error=str(exc), field=exc.field)
    response = done("/profile", "password")
    set_cookie(context, response, cookie_name(context), await _begin(context, request, visit))
    return response


async def _begin(context: Context, request: Request, visit: Visit) -> str:
    return await sessions.begin(context, visit.caller.user_id, request.headers.get("user-agent"))


@router.post("/sessions/end")
async def end_session(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.SELF_SESSION_END)],
    session: Annotated[str, Form(max_length=64)],
    csrf: Csrf = "",
) -> Response:
    """End one of one's sessions."""
    check_form(csrf, visit.csrf)
    await sessions.end_own(context, visit.caller, session)
    return done("/profile", "session")


@router.post("/sessions/end-others")
async def end_other_sessions(
    context: ContextDep,
    request: Request,
    visit: Annotated[Visit, require_session(Permission.SELF_SESSION_END)],
    csrf: Csrf = "",
) -> Response:
    """End all of one's sessions but this one."""
    check_form(csrf, visit.csrf)
    await sessions.end_others(context, visit.caller, request.cookies[cookie_name(context)])
    return done("/profile", "sessions")


@router.get("/tokens")
async def list_tokens(
    context: ContextDep, visit: Annotated[Visit, require_session(Permission.SELF_TOKENS_READ)], done: Done = ""
) -> Response:
    """Show one's tokens, and the form for a new one."""
    return await _tokens(context, visit, done=done)


@router.post("/tokens")
async def create_token(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.SELF_TOKENS_CREATE)],
    name: Annotated[str, Form(max_length=200)] = "",
    days: Annotated[str, Form(max_length=20)] = "",
    csrf: Csrf = "",
) -> Response:
    """Make a token, and show it this once: the answer is the page itself, and no address leads to it again."""
    check_form(csrf, visit.csrf)
    values = {"name": name, "days": days}
    try:
        wish = TokenCreate.model_validate({"name": name, "expires_in_days": days or None})
        made = await tokens.create_token(context, visit.caller, wish)
    except ValidationError as exc:
        first = exc.errors()[0]
        field = "name" if "name" in first["loc"] else "days"
        text = f"{first['msg'].removeprefix('Value error, ')}."
        return await _tokens(context, visit, status=422, error=text, field=field, **values)
    except RopewalkError as exc:
        return await _tokens(context, visit, status=exc.http_status, error=str(exc), field=exc.field, **values)
    return await _tokens(context, visit, status=201, made=made)


@router.post("/tokens/revoke")
async def revoke_token(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.SELF_TOKENS_REVOKE)],
    token: Annotated[str, Form(max_length=200)],
    csrf: Csrf = "",
) -> Response:
    """Revoke a token."""
    check_form(csrf, visit.csrf)
    await tokens.revoke_token(context, visit.caller, token)
    return done("/profile/tokens", "revoked")


async def _profile(context: Context, request: Request, visit: Visit, **values: Any) -> Response:
    values = {"error": "", "field": None, "here": "profile", **values}
    user = await users.get_user(context, visit.caller, visit.caller.username)
    mine = await sessions.list_own(context, visit.caller, request.cookies[cookie_name(context)])
    sso = None if context.provider is None else context.provider.client.name
    known = await sign_on.ways(context, visit.caller)
    return await show(context, visit, "profile.html", user=user, sessions=mine, sso=sso, ways=known, **values)


async def _tokens(context: Context, visit: Visit, **values: Any) -> Response:
    days = context.settings.token_days
    defaults = {"error": "", "field": None, "made": None, "name": "", "days": "" if days is None else f"{days:g}"}
    mine = await tokens.list_tokens(context, visit.caller)
    now = context.clock.now()
    values = {"tokens": mine, "now": now, "here": "profile", **defaults, **values}
    return await show(context, visit, "tokens.html", **values)
