"""Cluster configurations of an account: list, make, change, delete."""

from collections.abc import Mapping
from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Request, Response

from ropewalk.errors import ConflictError, InputError
from ropewalk.server.clusters import configurations
from ropewalk.server.context import Context
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.configuration_form import CHOICES, FIELDS, arguments, parse, typed
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, check_form, done, require_session, show

router = APIRouter(prefix="/accounts/{account}", route_class=PageRoute, include_in_schema=False)

Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CONFIGURATIONS_READ)]
Setter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CONFIGURATIONS_SET)]
Deleter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_CONFIGURATIONS_DELETE)]


@router.get("/configurations")
async def list_configurations(
    context: ContextDep, visit: Reader, done: Annotated[str, Query(max_length=20)] = ""
) -> Response:
    """Show the configurations, with the code that uses each."""
    found = await configurations.list_configurations(context, visit.caller)
    rows = [(each, arguments(each.spec)) for each in found]
    return await show(context, visit, "configurations.html", here="configurations", rows=rows, done=done)


@router.get("/new-configuration")
async def ask_new(context: ContextDep, visit: Setter) -> Response:
    """Show an empty form."""
    return await _form(context, visit, "", typed({}), new=True)


@router.post("/new-configuration")
async def make(context: ContextDep, visit: Setter, request: Request) -> Response:
    """Make a configuration; one that exists is not replaced by accident."""
    form = await _read(request)
    check_form(form.get("csrf", ""), visit.csrf)
    return await _set(context, visit, form.get("name", "").strip(), form, new=True)


@router.get("/configurations/{name}")
async def ask_change(context: ContextDep, visit: Setter, name: str) -> Response:
    """Show the form with what is stored."""
    found = await configurations.get_configuration(context, visit.caller, name)
    return await _form(context, visit, name, typed(found.spec), new=False)


@router.post("/configurations/{name}")
async def change(context: ContextDep, visit: Setter, request: Request, name: str) -> Response:
    """Replace a configuration."""
    form = await _read(request)
    check_form(form.get("csrf", ""), visit.csrf)
    return await _set(context, visit, name, form, new=False)


@router.get("/configurations/{name}/delete")
async def ask_delete(context: ContextDep, visit: Deleter, name: str) -> Response:
    """Ask whether it is really to be deleted."""
    found = await configurations.get_configuration(context, visit.caller, name)
    return await show(context, visit, "configuration-delete.html", here="configurations", configuration=found)


@router.post("/configurations/{name}/delete")
async def delete(
    context: ContextDep, visit: Deleter, name: str, csrf: Annotated[str, Form(max_length=128)] = ""
) -> Response:
    """Delete a configuration."""
    check_form(csrf, visit.csrf)
    await configurations.delete_configuration(context, visit.caller, name)
    return done(f"/accounts/{visit.caller.account}/configurations", "deleted")


async def _read(request: Request) -> dict[str, str]:
    """Return the form's fields; files are not taken."""
    return {name: value for name, value in (await request.form()).items() if isinstance(value, str)}


async def _set(context: Context, visit: AccountVisit, name: str, form: Mapping[str, str], *, new: bool) -> Response:
    values = {field.name: form.get(field.name, "") for field in FIELDS}
    try:
        await configurations.set_configuration(context, visit.caller, name, parse(values), only_new=new)
    except (InputError, ConflictError) as exc:
        field = (exc.field or "").removeprefix("spec.")
        # Both numbers of workers are one field of the API: what is wrong is most often the second.
        field = {"n_workers": "maximum" if values["maximum"].strip() else "minimum"}.get(field, field)
        return await _form(context, visit, name, values, new=new, status=exc.http_status, error=str(exc), field=field)
    return done(f"/accounts/{visit.caller.account}/configurations", "configured")


async def _form(
    context: Context, visit: AccountVisit, name: str, values: Mapping[str, str], *, new: bool, **more: Any
) -> Response:
    more = {"error": "", "field": None, **more}
    groups = {group: [field for field in FIELDS if field.group == group] for group in ("size", "end", "more")}
    return await show(
        context,
        visit,
        "configuration.html",
        here="configurations",
        name=name,
        values=values,
        new=new,
        groups=groups,
        choices=CHOICES,
        **more,
    )
