"""Who is in an account: members, their roles and limits, invitations, and the account's own limit."""

from typing import Annotated, Any

from fastapi import APIRouter, Form, Query, Response
from fastapi.responses import RedirectResponse
from pydantic import ValidationError

from ropewalk.errors import RopewalkError
from ropewalk.schemas.identity import AccountUpdate, InvitationCreate, MemberSet
from ropewalk.server.context import Context
from ropewalk.server.identity import accounts, invitations, members
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.deps import (
    AccountVisit,
    ContextDep,
    PageRoute,
    check_form,
    done,
    require_session,
    show,
)

router = APIRouter(prefix="/accounts/{account}/team", route_class=PageRoute, include_in_schema=False)

BLANK = dict.fromkeys(("username", "role", "core_limit", "note", "days"), "")
"""What forms hold in which nothing was typed."""

Csrf = Annotated[str, Form(max_length=128)]
Text = Annotated[str, Form(max_length=80)]
Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_MEMBERS_READ)]
Setter = Annotated[AccountVisit, require_session(Permission.ACCOUNT_MEMBERS_SET)]
Remover = Annotated[AccountVisit, require_session(Permission.ACCOUNT_MEMBERS_REMOVE)]


@router.get("")
async def show_team(context: ContextDep, visit: Reader, done: Annotated[str, Query(max_length=20)] = "") -> Response:
    """Show the members, and to administrators what they can change."""
    return await _page(context, visit, done=done)


@router.post("/members")
async def set_member(
    context: ContextDep,
    visit: Setter,
    *,
    username: Text = "",
    role: Text = "member",
    core_limit: Text = "",
    new: Text = "",
    csrf: Csrf = "",
) -> Response:
    """Change role and limit of a member, or add one (*new*), who has a user already."""
    check_form(csrf, visit.csrf)
    form = "add" if new else f"member-{username}"
    typed = {"username": username, "role": role, "core_limit": core_limit}
    try:
        wish = MemberSet.model_validate({"role": role, "core_limit": _number(core_limit)})
        await members.set_member(context, visit.caller, username.strip(), wish)
    except ValidationError as exc:
        return await _wrong(context, visit, form, exc, typed)
    except RopewalkError as exc:
        return await _page(
            context, visit, status=exc.http_status, form=form, error=str(exc), typed=typed, field=exc.field
        )
    return done(_home(visit), "added" if new else "member")


@router.get("/members/{username}/remove")
async def ask_remove(context: ContextDep, visit: Remover, username: str) -> Response:
    """Ask whether somebody is really to be removed."""
    return await show(context, visit, "remove.html", here="team", username=username)


@router.post("/members/{username}/remove")
async def remove(context: ContextDep, visit: Remover, username: str, csrf: Csrf = "") -> Response:
    """Remove a member; who removes themselves goes to their own account."""
    check_form(csrf, visit.csrf)
    try:
        await members.remove_member(context, visit.caller, username)
    except RopewalkError as exc:
        return await _page(context, visit, status=exc.http_status, form="members", error=str(exc))
    if username == visit.caller.username and not visit.caller.operator:
        return done(f"/accounts/{username}/clusters", "left")
    return done(_home(visit), "removed")


@router.post("/limit")
async def set_limit(
    context: ContextDep,
    visit: Annotated[AccountVisit, require_session(Permission.ACCOUNT_LIMITS_SET)],
    core_limit: Text = "",
    csrf: Csrf = "",
) -> Response:
    """Set the account's own limit; empty: the installation's default."""
    check_form(csrf, visit.csrf)
    try:
        wish = AccountUpdate.model_validate({"core_limit": _number(core_limit)})
    except ValidationError as exc:
        return await _wrong(context, visit, "limit", exc, {"core_limit": core_limit})
    await accounts.update_account(context, visit.caller, wish)
    return done(_home(visit), "limit")


@router.post("/invitations")
async def invite(
    context: ContextDep,
    visit: Annotated[AccountVisit, require_session(Permission.ACCOUNT_INVITATIONS_CREATE)],
    *,
    note: Annotated[str, Form(max_length=200)] = "",
    role: Text = "member",
    core_limit: Text = "",
    days: Text = "7",
    csrf: Csrf = "",
) -> Response:
    """Make an invitation and show its link this once: the answer is the page itself."""
    check_form(csrf, visit.csrf)
    typed = {"note": note, "role": role, "core_limit": core_limit, "days": days}
    try:
        fields = {"note": note.strip() or None, "role": role, "core_limit": _number(core_limit), "days": days}
        made = await invitations.invite(context, visit.caller, InvitationCreate.model_validate(fields))
    except ValidationError as exc:
        return await _wrong(context, visit, "invite", exc, typed)
    except RopewalkError as exc:
        return await _page(context, visit, status=exc.http_status, form="invite", error=str(exc), typed=typed)
    return await _page(context, visit, status=201, made=made)


@router.post("/invitations/{invitation}/revoke")
async def revoke(
    context: ContextDep,
    visit: Annotated[AccountVisit, require_session(Permission.ACCOUNT_INVITATIONS_REVOKE)],
    invitation: str,
    csrf: Csrf = "",
) -> Response:
    """Revoke an invitation."""
    check_form(csrf, visit.csrf)
    await invitations.revoke(context, visit.caller, invitation)
    return done(_home(visit), "uninvited")


@router.get("/invitations")
async def after_reload(visit: Reader) -> Response:
    """Lead from the address that showed a link once to the page."""
    return RedirectResponse(_home(visit), status_code=303)


def _home(visit: AccountVisit) -> str:
    return f"/accounts/{visit.caller.account}/team"


def _number(text: str) -> str | None:
    return text.strip() or None


async def _wrong(
    context: Context, visit: AccountVisit, form: str, exc: ValidationError, typed: dict[str, str]
) -> Response:
    """Show the page again, with what was typed and which field is wrong."""
    first = exc.errors()[0]
    field = str(first["loc"][0]) if first["loc"] else ""
    names = {"core_limit": "Core limit", "days": "Days", "note": "For whom", "role": "Role"}
    text = f"{names.get(field, field)}: {first['msg'].removeprefix('Value error, ')}."
    return await _page(context, visit, status=422, form=form, error=text, typed=typed, field=field)


async def _page(context: Context, visit: AccountVisit, **values: Any) -> Response:
    caller = visit.caller
    waiting = []
    if caller.may(Permission.ACCOUNT_INVITATIONS_READ):
        waiting = await invitations.list_invitations(context, caller)
    defaults: dict[str, Any] = {"form": "", "error": "", "field": None, "typed": {}, "made": None}
    values = defaults | values
    values["typed"] = BLANK | values["typed"]
    return await show(
        context,
        visit,
        "team.html",
        here="team",
        team=await accounts.get_account(context, caller),
        members=await members.list_members(context, caller),
        waiting=waiting,
        default_limit=context.settings.default_member_core_limit,
        account_default=context.settings.default_account_core_limit,
        new_users=context.settings.invite_new_users,
        blank=BLANK,
        **values,
    )
