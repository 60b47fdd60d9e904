"""Making software environments and new versions of them, by a form or an uploaded file."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from fastapi import APIRouter, Request, Response
from fastapi.responses import RedirectResponse
from starlette.datastructures import FormData, UploadFile

from ropewalk.errors import ConflictError, InputError, NotFoundError
from ropewalk.schemas.environments import BuildState, EnvironmentDetail, EnvironmentSpec
from ropewalk.server.context import Context
from ropewalk.server.environments import credentials, service
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import environment_form
from ropewalk.server.web.deps import AccountVisit, ContextDep, check_form, done, require_session, show
from ropewalk.server.web.drafts import KEPT, DraftRoute
from ropewalk.server.web.environment_form import TEXTS, Typed
from ropewalk.server.web.environments import home

router = APIRouter(prefix="/accounts/{account}", route_class=DraftRoute, include_in_schema=False)

Maker = Annotated[AccountVisit, require_session(Permission.ACCOUNT_ENVIRONMENTS_CREATE)]


@router.get("/new-environment")
async def ask_new(context: ContextDep, visit: Maker, request: Request) -> Response:
    """Show an empty form, or what was typed before the session ended."""
    return await _form(context, visit, _draft(request.query_params, Typed()))


@router.post("/new-environment")
async def make(context: ContextDep, visit: Maker, request: Request) -> Response:
    """Make an environment and lead to the log of its build; or read a file into the form."""
    async with request.form() as form:
        return await _take(context, visit, form)


@router.get("/environments/{name}/new-version")
async def ask_version(context: ContextDep, visit: Maker, request: Request, name: str) -> Response:
    """Show the form with what the newest version is made of; if that could not be built, with what was wrong."""
    found = await service.get(context, visit.caller, name)
    newest = found.versions[0]
    filled = environment_form.shown(newest.spec, found.name, private=found.private)
    wrong: dict[str, Any] = {}
    if newest.state is BuildState.FAILED:
        errors = [build.error for build in newest.builds if build.error is not None]
        field = environment_form.marked(errors[0].field if errors else None)
        wrong = {"error": f"Version {newest.number} could not be built. {newest.reason}", "field": field}
    return await _form(context, visit, _draft(request.query_params, filled), found, **wrong)


@router.post("/environments/{name}/new-version")
async def make_version(context: ContextDep, visit: Maker, request: Request, name: str) -> Response:
    """Make a new version and lead to the log of its build."""
    found = await service.get(context, visit.caller, name)
    async with request.form() as form:
        return await _take(context, visit, form, found)


async def _take(
    context: Context, visit: AccountVisit, form: FormData, environment: EnvironmentDetail | None = None
) -> Response:
    check_form(str(form.get("csrf", "")), visit.csrf)
    typed = _typed(form, environment)
    try:
        filename, content = await _file(form)
        if filename or form.get("do") == "read":
            typed = environment_form.with_file(typed, filename, content)
        if form.get("do") == "read":
            return await _form(context, visit, typed, environment, read=filename)
        stored = None if environment is None else environment.versions[0].spec
        return await _made(context, visit, typed, stored, environment)
    except (InputError, ConflictError, NotFoundError) as exc:
        field = environment_form.marked(exc.field)
        error = environment_form.sentence(exc)
        return await _form(context, visit, typed, environment, status=exc.http_status, error=error, field=field)


async def _file(form: FormData) -> tuple[str, bytes]:
    file = form.get("file")
    return (file.filename or "", await file.read()) if isinstance(file, UploadFile) else ("", b"")


async def _made(
    context: Context,
    visit: AccountVisit,
    typed: Typed,
    stored: EnvironmentSpec | None,
    environment: EnvironmentDetail | None,
) -> Response:
    wish = environment_form.wish_of(typed, stored)
    made = await service.create(context, visit.caller, wish, only_new=environment is None)
    if environment is not None and made.latest == environment.latest:
        return done(home(visit, made.name), "environment-same")
    return RedirectResponse(f"/accounts/{visit.caller.account}/builds/{made.build}", status_code=303)


def _typed(form: FormData, environment: EnvironmentDetail | None) -> Typed:
    texts = {name: text for name in TEXTS if isinstance(text := form.get(name, ""), str)}
    if environment is not None:
        texts["name"] = environment.name
    chosen = {
        name: [each for each in form.getlist(name) if isinstance(each, str)] for name in ("credentials", "wheels")
    }
    return Typed(texts, chosen["credentials"], chosen["wheels"], bool(form.get("private")))


def _draft(query: Mapping[str, str], typed: Typed) -> Typed:
    """Return *typed* with what an address brings back from before a session's end."""
    texts = {name: query[name] for name in TEXTS if name in query and name in KEPT}
    private = typed.private or bool(query.get("private"))
    return replace(typed, texts={**typed.texts, **texts}, private=private)


async def _form(
    context: Context, visit: AccountVisit, typed: Typed, environment: EnvironmentDetail | None = None, **values: Any
) -> Response:
    known = []
    if visit.caller.may(Permission.ACCOUNT_INDEXES_READ):
        known = await credentials.list_all(context, visit.caller)
    values = {"error": "", "field": None, "read": "", **values}
    return await show(
        context,
        visit,
        "environments/form.html",
        here="environments",
        typed=typed,
        environment=environment,
        labels=environment_form.LABELS,
        credentials=known,
        **values,
    )
