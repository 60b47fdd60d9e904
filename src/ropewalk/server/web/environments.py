"""Software environments of an account: the list, one with its versions, a version's packages, what two differ in."""

from typing import Annotated

from fastapi import APIRouter, Form, Path, Query, Request, Response
from fastapi.responses import RedirectResponse

from ropewalk.schemas.environments import EnvironmentDetail
from ropewalk.server.clusters import configurations
from ropewalk.server.environments import service
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web import environment_packages, live
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

router = APIRouter(prefix="/accounts/{account}", route_class=PageRoute, include_in_schema=False)

Csrf = Annotated[str, Form(max_length=128)]
Done = Annotated[str, Query(max_length=20)]
MOST = 2**31 - 1
"""What PostgreSQL takes for the number of a version."""
Number = Annotated[int | None, Query(ge=1, le=MOST)]
Words = Annotated[str, Query(max_length=200)]
Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_ENVIRONMENTS_READ)]
Maker = Annotated[AccountVisit, require_session(Permission.ACCOUNT_ENVIRONMENTS_CREATE)]
Deleter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_ENVIRONMENTS_DELETE)]


def home(visit: AccountVisit, name: str = "") -> str:
    """Return the address of the list, or of one environment."""
    return f"/accounts/{visit.caller.account}/environments{f'/{name}' if name else ''}"


@router.get("/environments")
async def list_environments(
    context: ContextDep, visit: Reader, *, managed: Annotated[bool, Query()] = False, done: Done = ""
) -> Response:
    """Show the environments; with *managed* those of package sync, too."""
    found = await service.list_all(context, visit.caller, managed=managed)
    return await show(
        context, visit, "environments/list.html", here="environments", found=found, managed=managed, done=done
    )


@router.get("/environment-changes/live")
async def follow(context: ContextDep, visit: Reader, request: Request) -> Response:
    """Say when something happens to any of the account's environments."""
    cookie = request.cookies[cookie_name(context)]
    return live.respond(context, visit.caller, cookie, f"environments:{visit.caller.account_id}")


@router.get("/environments/{name}")
async def show_environment(context: ContextDep, visit: Reader, name: str, *, done: Done = "") -> Response:
    """Show an environment with its versions."""
    found = await service.get(context, visit.caller, name)
    return await show(
        context,
        visit,
        "environments/overview.html",
        here="environments",
        environment=found,
        mine=may_change(visit, found),
        removes=_may_delete(visit, found),
        now=context.clock.now(),
        done=done,
    )


@router.get("/environments/{name}/versions/{number}")
async def show_version(
    context: ContextDep,
    visit: Reader,
    name: str,
    number: Annotated[int, Path(ge=1, le=MOST)],
    *,
    search: Words = "",
    which: Annotated[str, Query(max_length=20)] = "",
) -> Response:
    """Show what a version is made of and what it was resolved to."""
    version = await service.get_version(context, visit.caller, name, number)
    rows = environment_packages.rows(version)
    return await show(
        context,
        visit,
        "environments/version.html",
        here="environments",
        this=version,
        rows=environment_packages.found(rows, search, which),
        total=len(rows),
        asked=sum(row.asked for row in rows),
        search=search,
        which=which,
    )


@router.get("/environments/{name}/diff")
async def show_difference(
    context: ContextDep, visit: Reader, name: str, *, before: Number = None, after: Number = None
) -> Response:
    """Show what two versions differ in; by default the newest that was built, and the one that was built before it."""
    found = await service.get(context, visit.caller, name)
    built = [each.number for each in found.versions if each.packages]
    after = after or next(iter(built), found.latest)
    before = before or next((number for number in built if number < after), max(1, after - 1))
    difference = await service.difference(context, visit.caller, name, before, after)
    unknown = [each.number for each in found.versions if each.number in (before, after) and not each.packages]
    return await show(
        context,
        visit,
        "environments/diff.html",
        here="environments",
        environment=found,
        difference=difference,
        unknown=sorted(unknown),
        fields=environment_packages.fields(difference),
    )


@router.post("/environments/{name}/rebuild")
async def rebuild(context: ContextDep, visit: Maker, name: str, csrf: Csrf = "") -> Response:
    """Resolve and build the newest version again, as a new version, and lead to its log."""
    check_form(csrf, visit.csrf)
    made = await service.rebuild(context, visit.caller, name)
    return RedirectResponse(f"/accounts/{visit.caller.account}/builds/{made.build}", status_code=303)


@router.get("/environments/{name}/delete")
async def ask_delete(context: ContextDep, visit: Deleter, name: str) -> Response:
    """Say what uses an environment, and ask whether it is really to be deleted."""
    found = await service.get(context, visit.caller, name)
    stored = await configurations.list_configurations(context, visit.caller)
    naming = [each.name for each in stored if str(each.spec.get("software") or "").partition(":")[0] == found.name]
    return await show(
        context, visit, "environments/delete.html", here="environments", environment=found, configurations=naming
    )


@router.post("/environments/{name}/delete")
async def delete(context: ContextDep, visit: Deleter, name: str, csrf: Csrf = "") -> Response:
    """Delete an environment."""
    check_form(csrf, visit.csrf)
    await service.delete(context, visit.caller, name)
    return done(home(visit), "deleted")


def may_change(visit: AccountVisit, environment: EnvironmentDetail) -> bool:
    """Whether the service will let somebody make versions of it: it has the last word, this spares people a refusal."""
    anybody = environment.managed or visit.caller.may(Permission.ACCOUNT_ENVIRONMENTS_UPDATE_ANY)
    return anybody or environment.creator == visit.caller.username


def _may_delete(visit: AccountVisit, environment: EnvironmentDetail) -> bool:
    mine = environment.creator == visit.caller.username
    return mine or visit.caller.may(Permission.ACCOUNT_ENVIRONMENTS_DELETE_ANY)
