"""Options that many commands share, so that they are called and explained alike."""

from __future__ import annotations

from typing import Annotated

import typer

from ropewalk.cli import state


def _json(value: bool) -> bool:
    # Remembered here, so that an error is written as JSON, too.
    state.current.json = state.current.json or value
    return value


def cluster_names(incomplete: str) -> list[str]:
    """Complete the names of live clusters; a server that cannot be asked completes nothing."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    try:
        with connect(patient=False) as api:
            return [c.name for c in api(calls.list_clusters(state="live")) if c.name.startswith(incomplete)]
    except Exception:  # noqa: BLE001 - nothing may be printed into a shell's completion
        return []


Json = Annotated[bool, typer.Option("--json", callback=_json, help="Print JSON for programs.")]
Account = Annotated[
    str | None,
    typer.Option("--account", "-a", metavar="NAME", help="The account; default: the one of your configuration."),
]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask; needed where there is no terminal.")]
ClusterName = Annotated[
    str,
    typer.Argument(
        metavar="CLUSTER", help="Name or id, or account/name.", autocompletion=cluster_names, show_default=False
    ),
]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
