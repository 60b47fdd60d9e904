"""``ropewalk login`` and ``logout``: as whom this machine speaks to which server."""

from __future__ import annotations

import os
import platform
import webbrowser
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import ask, options, output
from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.client.http import Api

PASSWORD = "ROPEWALK_PASSWORD"  # noqa: S105 - the name of a variable
TOKEN = "ROPEWALK_LOGIN_TOKEN"  # noqa: S105 - the name of a variable


def register(app: typer.Typer) -> None:
    app.command()(login)
    app.command()(logout)


def login(
    server: Annotated[
        str | None, typer.Option("--server", "-s", metavar="URL", help="Its address; default: the configured one.")
    ] = None,
    token: Annotated[
        str | None,
        typer.Option("--token", metavar="-", help="With a token: - reads it from standard input or asks for it."),
    ] = None,
    user: Annotated[
        str | None, typer.Option("--user", "-u", metavar="NAME", help="With a password, which is asked for.")
    ] = None,
    password_stdin: options.PasswordStdin = False,
    account: Annotated[
        str | None, typer.Option("--account", "-a", metavar="NAME", help="Use this account by default.")
    ] = None,
    no_browser: Annotated[bool, typer.Option("--no-browser", help="Print the address, do not open it.")] = False,
    as_json: options.Json = False,
) -> None:
    """Log in, and save that in Dask's configuration, where only you can read it.

    Without --token and --user a browser is opened, in which you approve; it may run on another machine.
    A token or a password may also come from ROPEWALK_LOGIN_TOKEN (with --token -) or ROPEWALK_PASSWORD (with --user).
    """
    from ropewalk.client import calls, config
    from ropewalk.client.exchange import check_server_url
    from ropewalk.client.http import Api

    if token is not None and user is not None:
        raise InputError("Both --token and --user were given.", advice="Give one of them.")
    url = check_server_url(server or config.get("server"))
    with Api(url) as anonymous:
        if token is not None:
            secret = _token(token)
        elif user is not None:
            secret = _by_password(anonymous, user, stdin=password_stdin)
        else:
            secret = _by_browser(anonymous, open_browser=not no_browser)
    with Api(url, secret) as api:
        me = api(calls.me())
    chosen = None if account is None else config.require_account(me, account)
    path = config.save_login(url, secret, user=me.user.username, account=chosen)
    if as_json:
        output.dump({"server": url, "user": me.user.username, "account": chosen or me.default_account})
    else:
        output.say(
            f"Logged in to {url} as {me.user.username}; account {chosen or me.default_account}. Saved in {path}."
        )
    _warn_of_environment()


def _token(given: str) -> str:
    if given != "-":
        output.note("A token on a command line can be read by others on this machine; --token - reads it from a pipe.")
        return given
    return ask.secret("Token", env=TOKEN, stdin=TOKEN not in os.environ and not ask.interactive())


def _by_password(api: Api, user: str, *, stdin: bool) -> str:
    from ropewalk.client import calls
    from ropewalk.schemas.identity import PasswordLogin

    password = ask.secret(f"Password of {user}", env=PASSWORD, stdin=stdin)
    request = ask.build(PasswordLogin, username=user, password=password, token_name=_token_name())
    return str(api(calls.password_login(request)).token)


def _token_name() -> str:
    """Name the token for this machine, so that one knows later which to revoke."""
    return f"login on {platform.node() or 'an unnamed machine'}"[:80]


def _by_browser(api: Api, *, open_browser: bool) -> str:
    from ropewalk.client.login import approve_by_browser

    # Where nobody sits at a terminal a browser would open on a machine that nobody looks at.
    opens = open_browser and ask.interactive()
    return approve_by_browser(api, say=output.note, open_page=webbrowser.open if opens else _not_opened)


def _not_opened(_: str) -> None:
    """Leave it to the user to open the address that was printed."""


def logout(as_json: options.Json = False) -> None:
    """Forget the token that is saved here. It stays valid elsewhere until it is revoked or expires."""
    from ropewalk.client import config

    path = config.save({"token": None, "user": None, "account": None})
    if as_json:
        output.dump({"server": config.get("server")})
    else:
        output.say(f"Logged out; the token is gone from {path}. To make it useless: ropewalk token revoke NAME.")
    _warn_of_environment()


def _warn_of_environment() -> None:
    names = [name for name in ("DASK_ROPEWALK__SERVER", "DASK_ROPEWALK__TOKEN") if name in os.environ]
    if names:
        output.note(f"Note: {' and '.join(names)} in the environment still comes before what was saved.")
