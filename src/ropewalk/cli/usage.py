"""``ropewalk usage``: what clusters used and cost."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from ropewalk.cli import options, output

if TYPE_CHECKING:
    from ropewalk.schemas.usage import Usage, UsageRow


class By(StrEnum):
    """As :data:`ropewalk.schemas.usage.Dimension`, which is only imported when the command runs."""

    DAY = "day"
    MEMBER = "member"
    CLUSTER = "cluster"
    TAG = "tag"


def register(app: typer.Typer) -> None:
    app.command()(usage)


def usage(
    by: Annotated[
        list[By] | None, typer.Option("--by", help="What to add up by; may be given several times. Default: day.")
    ] = None,
    first: Annotated[
        str | None, typer.Option("--first", metavar="DAY", help="First day, as 2026-03-01; default: 30 days in all.")
    ] = None,
    last: Annotated[str | None, typer.Option("--last", metavar="DAY", help="Last day; default: today.")] = None,
    zone: Annotated[
        str | None, typer.Option("--zone", metavar="NAME", help="Time zone of days; default: this machine's.")
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="KEY", help="The tag that --by tag adds up by.")] = None,
    member: Annotated[str | None, typer.Option("--member", metavar="NAME", help="Only clusters of this user.")] = None,
    cluster: Annotated[str | None, typer.Option("--cluster", metavar="NAME", help="Only this cluster.")] = None,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print CSV for spreadsheets.")] = False,
    account: options.Account = None,
    as_json: options.Json = False,
) -> None:
    """Show what an account's clusters used and cost."""
    from ropewalk.cli.api import connect
    from ropewalk.client import calls
    from ropewalk.client.usage import local_zone, usage_query
    from ropewalk.schemas.usage import usage_csv

    names = [each.value for each in by] if by else None
    wish = usage_query(
        by=names, first=first, last=last, zone=zone or local_zone(), tag=tag, member=member, cluster=cluster
    )
    with connect() as api:
        found = api(calls.get_usage(api.account(account), wish))
    if as_json:
        output.dump(found)
    elif as_csv:
        output.raw(usage_csv(found))
    else:
        _show(found)


def _show(found: Usage) -> None:
    titles = {"day": "DAY", "member": "MEMBER", "cluster": "CLUSTER", "tag": f"TAG {found.tag}"}
    numbers = ["CORE HOURS", "GIB HOURS", "COST"]
    rows = [[*_keys(found, row), *_numbers(row)] for row in found.rows]
    if rows:
        blanks = [""] * (len(found.by) - 1)
        rows += [["total", *blanks, *_numbers(row)] if found.by else _numbers(row) for row in found.totals]
    output.table(
        [*(titles[name] for name in found.by), *numbers],
        rows,
        right=numbers,
        empty=f"Nothing ran from {found.first} to {found.last} ({found.zone}).",
    )
    for note in found.notes:
        output.note(f"Note: {note}")


def _keys(found: Usage, row: UsageRow) -> list[object]:
    values = {"day": row.day, "member": row.member, "cluster": row.cluster_name, "tag": row.tag}
    return [values[name] for name in found.by]


def _numbers(row: UsageRow) -> list[object]:
    return [f"{row.core_hours:.2f}", f"{row.memory_gib_hours:.2f}", output.money(row.cost, row.currency)]
