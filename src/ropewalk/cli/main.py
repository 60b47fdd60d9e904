"""The program ``ropewalk``: its commands, and what becomes of errors, Ctrl-C and broken pipes.

Exit statuses: 0 done; 1 failed; 2 wrong input; 3 not logged in or not allowed; 4 not found; 5 conflict or limit;
6 server unreachable, unavailable or rate limited (:mod:`ropewalk.errors`); 130 interrupted; 141 broken pipe.
"""

from __future__ import annotations

import os
import sys
import traceback
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ropewalk._version import __version__
from ropewalk.cli import (
    accounts,
    audit,
    cloud_accounts,
    clusters,
    config,
    configurations,
    diagnostics,
    environments,
    images,
    invitations,
    kubernetes,
    login,
    members,
    output,
    state,
    tokens,
    usage,
    users,
    version,
)
from ropewalk.errors import InternalError, RopewalkError, UnavailableError

if TYPE_CHECKING:
    from typer._click.core import Command, Context

INTERRUPTED = 130
"""128 + SIGINT, as shells say it."""
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells say it."""


class Program(TyperGroup):
    """The whole program: every exception becomes a message and an exit status."""

    def invoke(self, ctx: Context) -> Any:
        try:
            return super().invoke(ctx)
        except (KeyboardInterrupt, typer.Abort):
            output.note("Interrupted.")
            raise typer.Exit(INTERRUPTED) from None
        except BrokenPipeError:
            _forget_stdout()
            raise typer.Exit(BROKEN_PIPE) from None
        except RopewalkError as exc:
            raise _ended(exc, exc) from None
        except Exception as exc:
            if hasattr(exc, "exit_code"):  # typer's own: usage errors and exits
                raise
            raise _ended(exc, _unexpected(exc)) from None


def _ended(exc: BaseException, shown: RopewalkError) -> typer.Exit:
    if state.current.debug:
        traceback.print_exception(exc)
    output.error(shown)
    return typer.Exit(shown.exit_code)


def _unexpected(exc: Exception) -> RopewalkError:
    if isinstance(exc, OSError):
        return RopewalkError(f"{exc.strerror or exc}{f': {exc.filename}' if exc.filename else ''}.")
    return InternalError(
        f"A defect of ropewalk {__version__}: {type(exc).__name__}: {exc}",
        advice="Run it again as `ropewalk --debug …` and report what that shows.",
    )


def _forget_stdout() -> None:
    # The interpreter flushes at its end; without this it would complain about the closed pipe.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class ServerCommands(TyperGroup):
    """The commands of ``ropewalk server``, imported when one of them is wanted."""

    def list_commands(self, ctx: Context) -> list[str]:
        self._load()
        return super().list_commands(ctx)

    def get_command(self, ctx: Context, cmd_name: str) -> Command | None:
        self._load()
        return super().get_command(ctx, cmd_name)

    def _load(self) -> None:
        if self.commands:
            return
        try:
            from ropewalk.cli import server
        except ModuleNotFoundError as exc:
            if (exc.name or "").startswith("ropewalk"):
                raise
            raise UnavailableError(
                f"The server is not installed here: no module {exc.name!r}.",
                advice="Install it, in a checkout of Ropewalk, with: pip install '.[server]'.",
            ) from None
        self.commands.update(typer.main.get_group(server.app).commands)


app = typer.Typer(
    name="ropewalk",
    cls=Program,
    no_args_is_help=True,
    help="Ask for a Dask cluster and get one, in infrastructure you own.",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _version(value: bool) -> None:
    if value:
        output.say(__version__)
        raise typer.Exit


@app.callback()
def program(
    debug: Annotated[
        bool, typer.Option("--debug", envvar="ROPEWALK_DEBUG", help="Show the traceback of an error.")
    ] = False,
    version: Annotated[  # noqa: ARG001 - its callback does the work
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    state.current = state.State(debug=debug)


login.register(app)
version.register(app)
diagnostics.register(app)
audit.register(app)
usage.register(app)
app.add_typer(clusters.app, name="cluster")
app.add_typer(configurations.app, name="configuration")
app.add_typer(accounts.app, name="account")
app.add_typer(members.app, name="member")
app.add_typer(invitations.app, name="invitation")
app.add_typer(users.app, name="user")
app.add_typer(tokens.app, name="token")
app.add_typer(cloud_accounts.app, name="cloud-account")
app.add_typer(images.app, name="image")
app.add_typer(environments.app, name="env")
app.command("install")(environments.install)
app.add_typer(kubernetes.app, name="kubernetes")
app.add_typer(config.app, name="config")
app.add_typer(typer.Typer(cls=ServerCommands, no_args_is_help=True), name="server", help="Run and maintain the server.")


def main() -> None:
    """Run the program; the entry point of ``ropewalk``."""
    try:
        app(prog_name="ropewalk")
    finally:
        try:
            sys.stdout.flush()
        except BrokenPipeError:
            _forget_stdout()
