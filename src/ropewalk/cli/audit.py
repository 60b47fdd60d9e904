"""``ropewalk audit``: who did what."""

from __future__ import annotations

from typing import Annotated

import typer

from ropewalk.cli import ask, options, output


def register(app: typer.Typer) -> None:
    app.command()(audit)


def audit(
    limit: Annotated[int, typer.Option("--limit", min=1, help="Show at most so many.")] = 100,
    after: Annotated[int | None, typer.Option("--after", help="Only events after this id.")] = None,
    before: Annotated[int | None, typer.Option("--before", help="Only events before this id.")] = None,
    actor: Annotated[str | None, typer.Option("--actor", metavar="USER", help="Only what this user did.")] = None,
    code: Annotated[
        str | None, typer.Option("--code", help="Only codes that begin like this: cluster.stopped, or cluster.")
    ] = None,
    account: Annotated[
        str | None, typer.Option("--account", "-a", metavar="NAME", help="Only what concerns this account.")
    ] = None,
    level: Annotated[str | None, typer.Option("--level", help="Only info, warning or error.")] = None,
    as_json: options.Json = False,
) -> None:
    """Show the events of the whole installation: the audit trail (operators only)."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.schemas.audit import AuditQuery

    given = {"after": after, "before": before, "actor": actor, "code": code, "account": account, "level": level}
    asked = ask.build(AuditQuery, limit=limit, **{name: value for name, value in given.items() if value is not None})
    with connect() as api:
        events = api(calls.audit(asked))
    if as_json:
        output.dump(events)
    else:
        output.events(events, empty="There are no events.", who=True)
