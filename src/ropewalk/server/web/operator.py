"""For operators: the accounts and the users of the installation."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Form, Query, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from ropewalk.errors import RopewalkError
from ropewalk.schemas.identity import AccountCreate, UserCreate, UserUpdate
from ropewalk.server.context import Context
from ropewalk.server.identity import accounts, users
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    ContextDep,
    PageRoute,
    Visit,
    address_of,
    check_form,
    done,
    require_session,
    show,
)

router = APIRouter(prefix="/operator", route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]
Text = Annotated[str, Form(max_length=254)]
Password = Annotated[str, Form(max_length=2000)]
Done = Annotated[str, Query(max_length=20)]
UserReader = Annotated[Visit, require_session(Permission.INSTALLATION_USERS_READ)]
UserChanger = Annotated[Visit, require_session(Permission.INSTALLATION_USERS_UPDATE)]


@router.get("")
async def start(_visit: Annotated[Visit, require_session(Permission.INSTALLATION_DIAGNOSTICS_READ)]) -> Response:
    """Go to what an operator looks at first."""
    return RedirectResponse("/operator/health", status_code=303)


def problem(exc: ValidationError) -> tuple[str, str]:
    """Return the field and the sentence of what is wrong first."""
    first = exc.errors(include_url=False)[0]
    return str(first["loc"][0]) if first["loc"] else "", f"{first['msg'].removeprefix('Value error, ')}."


@router.get("/accounts")
async def list_accounts(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.INSTALLATION_ACCOUNTS_READ)],
    done: Done = "",
) -> Response:
    """Show all accounts, with what their clusters use."""
    return await _accounts(context, visit, done=done)


@router.post("/accounts")
async def make_account(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.INSTALLATION_ACCOUNTS_CREATE)],
    *,
    slug: Text = "",
    core_limit: Text = "",
    csrf: Csrf = "",
) -> Response:
    """Make a team account."""
    check_form(csrf, visit.csrf)
    values = {"slug": slug, "core_limit": core_limit}
    try:
        wish = AccountCreate.model_validate({"slug": slug.strip(), "core_limit": core_limit.strip() or None})
        await accounts.create_account(context, visit.caller, wish)
    except ValidationError as exc:
        field, text = problem(exc)
        return await _accounts(context, visit, status=422, error=text, field=field, values=values)
    except RopewalkError as exc:
        return await _accounts(context, visit, status=exc.http_status, error=str(exc), field=exc.field, values=values)
    return done("/operator/accounts", "made")


async def _accounts(context: Context, visit: Visit, **values: Any) -> Response:
    found = await accounts.list_accounts(context, visit.caller, everyone=True)
    values = {"error": "", "field": None, "values": {"slug": "", "core_limit": ""}, **values}
    default = context.settings.default_account_core_limit
    return await show(
        context,
        visit,
        "operator-accounts.html",
        here="operator",
        tab="accounts",
        found=found,
        default=default,
        **values,
    )


@router.get("/users")
async def list_users(context: ContextDep, visit: UserReader, done: Done = "") -> Response:
    """Show everybody."""
    return await _users(context, visit, done=done)


@router.post("/users")
async def make_user(
    context: ContextDep,
    visit: Annotated[Visit, require_session(Permission.INSTALLATION_USERS_CREATE)],
    *,
    username: Text = "",
    email: Text = "",
    password: Password = "",
    operator: Text = "",
    csrf: Csrf = "",
) -> Response:
    """Make a user, with a personal account."""
    check_form(csrf, visit.csrf)
    values = {"username": username, "email": email, "operator": operator}
    wish = {"username": username.strip(), "email": email.strip() or None, "operator": bool(operator)}
    try:
        made = await users.create_user(context, visit.caller, UserCreate.model_validate({**wish, "password": password}))
    except ValidationError as exc:
        field, text = problem(exc)
        return await _users(context, visit, status=422, error=text, field=field, values=values)
    except RopewalkError as exc:
        return await _users(context, visit, status=exc.http_status, error=str(exc), field=exc.field, values=values)
    return done(f"/operator/users/{made.username}", "made")


async def _users(context: Context, visit: Visit, **values: Any) -> Response:
    values = {"error": "", "field": None, "values": {"username": "", "email": "", "operator": ""}, **values}
    found = await users.list_users(context)
    return await show(context, visit, "operator-users.html", here="operator", tab="users", found=found, **values)


@router.get("/users/{username}")
async def show_user(context: ContextDep, visit: UserReader, username: str, done: Done = "") -> Response:
    """Show a user, and what can be changed."""
    return await _user(context, visit, username, done=done)


@router.post("/users/{username}")
async def change_user(
    context: ContextDep,
    visit: UserChanger,
    request: Request,
    username: str,
    *,
    change: Annotated[Literal["disable", "enable", "promote", "demote", "password"], Form()],
    password: Password = "",
    csrf: Csrf = "",
) -> Response:
    """Disable or enable a user, make one an operator or not any more, or set a new password."""
    check_form(csrf, visit.csrf)
    wishes: dict[str, dict[str, Any]] = {
        "disable": {"disabled": True},
        "enable": {"disabled": False},
        "promote": {"operator": True},
        "demote": {"operator": False},
        "password": {"password": password},
    }
    try:
        wish = UserUpdate.model_validate(wishes[change])
        await users.update_user(context, visit.caller, username, wish, address=address_of(request))
    except ValidationError as exc:
        return await _user(context, visit, username, status=422, error=problem(exc)[1], field=problem(exc)[0])
    except RopewalkError as exc:
        if exc.http_status == 404:
            raise
        return await _user(context, visit, username, status=exc.http_status, error=str(exc), field=exc.field)
    # Who is no operator any more may not see these pages.
    mine = change == "demote" and username == visit.caller.username
    return done("/profile" if mine else f"/operator/users/{username}", "changed")


async def _user(context: Context, visit: Visit, username: str, **values: Any) -> Response:
    values = {"error": "", "field": None, **values}
    found = await users.get_user(context, visit.caller, username)
    return await show(context, visit, "operator-user.html", here="operator", tab="users", user=found, **values)
