"""``ropewalk invitation``: links that let people into an account; ``ropewalk member invite`` makes them."""

from __future__ import annotations

from typing import Annotated

import typer

from ropewalk.cli import ask, options, output

app = typer.Typer(no_args_is_help=True, help="Invitations to an account.")

LINK = "ROPEWALK_INVITATION"


@app.command("list")
def list_(account: options.Account = None, as_json: options.Json = False) -> None:
    """List the invitations that can still be used (admins only). Their links are not kept."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        found = api(calls.list_invitations(api.account(account)))
    if as_json:
        output.dump(found)
        return
    output.table(
        ["ID", "FOR", "ROLE", "CORE LIMIT", "MADE BY", "EXPIRES"],
        [[i.id, i.note, i.role, i.core_limit, i.invited_by, i.expires_at] for i in found],
        right=["CORE LIMIT"],
        empty="No invitation waits.",
    )


@app.command()
def revoke(
    invitation: Annotated[str, typer.Argument(metavar="ID", show_default=False)],
    account: options.Account = None,
    yes: options.Yes = False,
) -> None:
    """Make an invitation worthless (admins only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    ask.confirm(f"Revoke the invitation {invitation}?", yes=yes)
    with connect() as api:
        api(calls.revoke_invitation(api.account(account), invitation))
    output.say(f"The invitation {invitation} is revoked.")


@app.command()
def accept(
    link_stdin: Annotated[bool, typer.Option("--link-stdin", help="Read the link from standard input.")] = False,
) -> None:
    """Join an account as who you are logged in as.

    The link is asked for, read from standard input, or from ROPEWALK_INVITATION. Who has no user yet opens it in a
    browser.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import InvitationAccept

    link = ask.secret("The invitation's link", env=LINK, stdin=link_stdin)
    request = ask.build(InvitationAccept, token=link.strip().rpartition("/")[2])
    with connect() as api:
        joined = api(calls.accept_invitation(request))
    output.say(f"You are a member of {joined.account} now. Use it with: ropewalk account use {joined.account}")
