"""``ropewalk version``: of this program, and of the server if there is one."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from ropewalk._version import __version__
from ropewalk.cli import options, output
from ropewalk.errors import RopewalkError


def register(app: typer.Typer) -> None:
    app.command()(version)


def version(
    server: Annotated[bool, typer.Option("--server", help="Ask the server for its version, too.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print versions."""
    found: dict[str, str | None] = {"ropewalk": __version__, "python": sys.version.split()[0]}
    if server:
        found["server"] = _server()
    if as_json:
        output.dump(found)
    else:
        output.facts(found.items())


def _server() -> str | None:
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    try:
        with connect() as api:
            return str(api(calls.me()).server_version)
    except RopewalkError as exc:
        output.note(str(exc))
        return None
