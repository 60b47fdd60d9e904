"""``ropewalk member``: who is in an account, as what, with which limit."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

from ropewalk.cli import ask, options, output

app = typer.Typer(no_args_is_help=True, help="Members of an account.")

Username = Annotated[str, typer.Argument(metavar="USERNAME", show_default=False)]


class Role(StrEnum):
    """As :class:`ropewalk.schemas.identity.MemberRole`, which is too heavy to import for ``--help``."""

    MEMBER = "member"
    ADMIN = "admin"


@app.command("list")
def list_(account: options.Account = None, as_json: options.Json = False) -> None:
    """List the members of an account."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        members = api(calls.list_members(api.account(account)))
    if as_json:
        output.dump(members)
        return
    output.table(
        ["USERNAME", "ROLE", "CORES USED", "CORE LIMIT", "ADDED"],
        [
            [m.username, m.role, m.cores_used, "none" if m.core_limit is None else m.core_limit, m.added_at]
            for m in members
        ],
        right=["CORES USED", "CORE LIMIT"],
        empty="This account has no members.",
    )


@app.command("set")
def set_(
    username: Username,
    role: Annotated[Role, typer.Option("--role", help="Admins manage members and configurations.")] = Role.MEMBER,
    core_limit: Annotated[
        int | None, typer.Option("--core-limit", min=0, help="Cores that their clusters may use; default: no limit.")
    ] = None,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Add a member, or change one: role and limit become what is given here (admins only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import MemberSet

    request = ask.build(MemberSet, role=role.value, core_limit=core_limit)
    with connect() as api:
        slug = api.account(account)
        member = api(calls.set_member(slug, username, request))
    if as_json:
        output.dump(member)
    else:
        limit = "no limit of their own" if member.core_limit is None else f"at most {member.core_limit} cores"
        output.say(f"{member.username} is {member.role} of {slug}, {limit}.")


@app.command()
def invite(
    note: Annotated[str | None, typer.Argument(metavar="FOR", help="For whom it is, for the list.")] = None,
    role: Annotated[Role, typer.Option("--role", help="Admins manage members and configurations.")] = Role.MEMBER,
    core_limit: Annotated[
        int | None, typer.Option("--core-limit", min=0, help="Cores that their clusters may use; default: no limit.")
    ] = None,
    days: Annotated[float, typer.Option("--days", help="Until it expires; at most 30.")] = 7,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Print a link that lets one person into the account, once (admins only). Send it to them.

    Who has no user yet makes one with it.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import InvitationCreate

    request = ask.build(InvitationCreate, note=note, role=role.value, core_limit=core_limit, days=days)
    with connect() as api:
        slug = api.account(account)
        made = api(calls.invite(slug, request))
    if as_json:
        output.dump(made)
        return
    print(made.url, flush=True)
    output.note(f"Whoever opens it can join {slug}, once, until {output.when(made.expires_at)}. It is not shown again.")


@app.command()
def remove(username: Username, account: options.Account = None, yes: options.Yes = False) -> None:
    """Remove a member (admins only). Their clusters go on until somebody stops them."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        slug = api.account(account)
        ask.confirm(f"Remove {username} from {slug}?", yes=yes)
        api(calls.delete_member(slug, username))
    output.say(f"{username} is no longer a member of {slug}.")
