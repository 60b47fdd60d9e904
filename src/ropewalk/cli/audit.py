"""``ropewalk audit``: who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from ropewalk.cli import options, output


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 100,
    after: Annotated[int | None, typer.Option("--after", help="Only events after this id.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show the events of the whole installation: the audit trail (operators only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls

    with connect() as api:
        events = api(calls.audit(after=after, limit=limit))
    if as_json:
        output.dump(events)
    else:
        output.events(events, empty="There are no events.", who=True)
