"""``ropewalk user``: the people of the installation; mostly for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.schemas.identity import User

app = typer.Typer(no_args_is_help=True, help="Users of this installation (operators only, except yourself).")

NEW_PASSWORD = "ROPEWALK_NEW_PASSWORD"  # noqa: S105 - the name of a variable
PASSWORD = "ROPEWALK_PASSWORD"  # noqa: S105 - the name of a variable

Username = Annotated[str, typer.Argument(metavar="USERNAME", show_default=False)]
Email = Annotated[str | None, typer.Option("--email", help="Address for notices.")]


@app.command("list")
def list_(as_json: options.Json = False) -> None:
    """List the users."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        users = api(calls.list_users())
    if as_json:
        output.dump(users)
    else:
        output.table(
            ["USERNAME", "OPERATOR", "DISABLED", "CREATED", "EMAIL"],
            [[u.username, u.operator, u.disabled, u.created_at, u.email] for u in users],
            empty="There are no users.",
        )


@app.command()
def create(
    username: Username,
    email: Email = None,
    operator: Annotated[bool, typer.Option("--operator", help="May do everything in this installation.")] = False,
    password_stdin: options.PasswordStdin = False,
    as_json: options.Json = False,
) -> None:
    """Create a user and their personal account.

    The password is asked for, read from standard input, or from ROPEWALK_NEW_PASSWORD.
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import UserCreate

    password = ask.secret(f"Password of {username}", env=NEW_PASSWORD, stdin=password_stdin, repeat=True)
    request = ask.build(UserCreate, username=username, email=email, operator=operator, password=password)
    with connect() as api:
        _show(api(calls.create_user(request)), "created", as_json)


@app.command()
def update(
    username: Username,
    email: Email = None,
    operator: Annotated[bool | None, typer.Option("--operator/--no-operator", help="Operator's rights.")] = None,
    enable: Annotated[bool, typer.Option("--enable", help="Let a disabled user in again.")] = False,
    password: Annotated[bool, typer.Option("--password", help="Set a new password; it is asked for.")] = False,
    password_stdin: options.PasswordStdin = False,
    as_json: options.Json = False,
) -> None:
    """Change a user; what is left out stays as it is.

    A new password is asked for, read from standard input, or from ROPEWALK_NEW_PASSWORD; to change your own, your
    present one is needed too (asked for, or from ROPEWALK_PASSWORD).
    """
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import UserUpdate

    given = {"email": email, "operator": operator, "disabled": False if enable else None}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    with connect() as api:
        if password or password_stdin:
            if api(calls.me()).user.username == username:
                changes["current_password"] = ask.secret("Your present password", env=PASSWORD, stdin=False)
            changes["password"] = ask.secret(
                f"New password of {username}", env=NEW_PASSWORD, stdin=password_stdin, repeat=True
            )
        if not changes:
            raise InputError("Nothing was given to change.", advice="See ropewalk user update --help.")
        _show(api(calls.update_user(username, ask.build(UserUpdate, **changes))), "updated", as_json)


@app.command()
def disable(username: Username, yes: options.Yes = False, as_json: options.Json = False) -> None:
    """Lock a user out: their tokens stop working at once. Their clusters go on."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.identity import UserUpdate

    ask.confirm(f"Lock out {username}?", yes=yes)
    with connect() as api:
        _show(api(calls.update_user(username, UserUpdate(disabled=True))), "disabled", as_json)


def _show(user: User, done: str, as_json: bool) -> None:
    if as_json:
        output.dump(user)
    else:
        output.say(f"User {user.username} {done}.")
