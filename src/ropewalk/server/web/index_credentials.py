"""Credentials of private package indexes: which there are, storing, deleting. What is stored is never shown."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response
from pydantic import ValidationError

from ropewalk.errors import InputError, NotFoundError
from ropewalk.schemas.environments import IndexCredentialsSet
from ropewalk.server.context import Context
from ropewalk.server.environments import credentials
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, check_form, done, require_session, show

router = APIRouter(prefix="/accounts/{account}/index-credentials", route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]
Text = Annotated[str, Form(max_length=1000)]
Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_INDEXES_READ)]
Setter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_INDEXES_SET)]
Deleter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_INDEXES_DELETE)]

_LABELS = {"name": "Name", "url": "Address", "username": "User name", "password": "Password or token"}


@router.get("")
async def list_credentials(
    context: ContextDep, visit: Reader, done: Annotated[str, Query(max_length=20)] = ""
) -> Response:
    """Show for which indexes there are credentials."""
    return await _page(context, visit, done=done)


@router.post("")
async def store(
    context: ContextDep,
    visit: Setter,
    *,
    name: Text = "",
    url: Text = "",
    username: Text = "",
    password: Annotated[str, Form(max_length=20_000)] = "",
    csrf: Csrf = "",
) -> Response:
    """Store credentials, or replace those of that name."""
    check_form(csrf, visit.csrf)
    typed = {"name": name, "url": url, "username": username}
    given = {"url": url.strip(), "username": username.strip() or "__token__", "password": password.strip()}
    try:
        await credentials.store(context, visit.caller, name.strip(), IndexCredentialsSet.model_validate(given))
    except ValidationError as exc:
        first = exc.errors(include_url=False, include_input=False)[0]
        field = str(first["loc"][0])
        problem = "is missing" if first["type"] == "string_too_short" else first["msg"].removeprefix("Value error, ")
        text = f"{_LABELS[field]}: {problem}."
        # An address that is refused may have a password in it.
        kept = {**typed, "url": ""} if field == "url" and "@" in url else typed
        return await _page(context, visit, status=422, error=text, field=field, typed=kept)
    except InputError as exc:
        return await _page(context, visit, status=exc.http_status, error=str(exc), field=exc.field, typed=typed)
    return done(_home(visit), "index-stored")


@router.get("/{name}/delete")
async def ask_delete(context: ContextDep, visit: Deleter, name: str) -> Response:
    """Ask whether credentials are really to be deleted."""
    known = [each for each in await credentials.list_all(context, visit.caller) if each.name == name]
    if not known:
        raise NotFoundError("The account has no such credentials for a package index.")
    return await show(context, visit, "environments/credentials-delete.html", here="environments", found=known[0])


@router.post("/{name}/delete")
async def delete(context: ContextDep, visit: Deleter, name: str, csrf: Csrf = "") -> Response:
    """Delete credentials."""
    check_form(csrf, visit.csrf)
    await credentials.delete(context, visit.caller, name)
    return done(_home(visit), "deleted")


def _home(visit: AccountVisit) -> str:
    return f"/accounts/{visit.caller.account}/index-credentials"


async def _page(context: Context, visit: AccountVisit, **values: Any) -> Response:
    blank = {"name": "", "url": "", "username": ""}
    values = {"error": "", "field": None, "typed": blank, **values}
    found = await credentials.list_all(context, visit.caller)
    return await show(context, visit, "environments/credentials.html", here="environments", found=found, **values)
