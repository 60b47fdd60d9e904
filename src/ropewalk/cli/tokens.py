"""``ropewalk token``: what programs log in with."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from ropewalk.cli import ask, options, output

app = typer.Typer(no_args_is_help=True, help="Your tokens.")


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """List your tokens; what they are is stored nowhere."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        tokens = api(calls.list_tokens())
    if as_json:
        output.dump(tokens)
        return
    output.table(
        ["ID", "NAME", "LAST USED", "EXPIRES", "CREATED"],
        [[t.id, t.name, t.last_used_at or "never", t.expires_at or "never", t.created_at] for t in tokens],
        empty="You have no tokens.",
    )


@app.command()
def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="What it is for.", show_default=False)],
    days: Annotated[
        float | None, typer.Option("--days", help="Days until it expires; default: the server's, 90.")
    ] = None,
    never_expires: Annotated[bool, typer.Option("--never-expires", help="Valid until it is revoked.")] = False,
    as_json: options.Json = False,
) -> None:
    """Make a token and print it, this once, on standard output."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import TokenCreate

    given: dict[str, Any] = {"name": name}
    if never_expires or days is not None:
        given["expires_in_days"] = None if never_expires else days
    request = ask.build(TokenCreate, **given)
    with connect() as api:
        made = api(calls.create_token(request))
    if as_json:
        output.dump(made)
        return
    print(made.token, flush=True)
    until = f"until {output.when(made.expires_at)}" if made.expires_at else "until it is revoked"
    output.note(f"Token {made.name!r} is valid {until}. It is not shown again.")


@app.command()
def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its name or id.", show_default=False)],
    yes: options.Yes = False,
) -> None:
    """Revoke a token: what uses it is locked out at once."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    ask.confirm(f"Revoke the token {token}?", yes=yes)
    with connect() as api:
        api(calls.delete_token(token))
    output.say(f"Token {token} is revoked.")
