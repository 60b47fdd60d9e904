"""Usage and cost of an account: sums, charts and CSV for the days and clusters that the address names."""

from dataclasses import dataclass
from datetime import date, timedelta
from typing import Annotated, Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

from fastapi import APIRouter, Depends, Query, Response
from pydantic import ValidationError

from ropewalk.errors import InputError
from ropewalk.schemas.usage import Dimension, Usage, UsageQuery, usage_csv
from ropewalk.server.clusters import usage
from ropewalk.server.context import Context
from ropewalk.server.identity import members
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.web.charts import charts, shares
from ropewalk.server.web.deps import AccountVisit, ContextDep, PageRoute, require_session, show

router = APIRouter(prefix="/accounts/{account}", route_class=PageRoute, include_in_schema=False)

Reader = Annotated[AccountVisit, require_session(Permission.ACCOUNT_COSTS_READ)]
Text = Annotated[str, Query(max_length=130)]

SPLITS: tuple[Dimension, ...] = ("member", "cluster", "tag")
CLUSTERS = 15
"""Rows of the table of clusters: the most expensive ones; CSV has all."""


@dataclass(frozen=True)
class Filters:
    """What the form says, as it was typed."""

    first: Text = ""
    last: Text = ""
    zone: Text = ""
    member: Text = ""
    cluster: Text = ""
    tag: Text = ""
    split: Text = "member"

    def query(self, by: list[Dimension]) -> UsageQuery:
        """Return the question; InputError names the field that is wrong."""
        given = {"first": self.first, "last": self.last, "zone": self.zone, "member": self.member, "tag": self.tag}
        wish = {name: text.strip() for name, text in {**given, "cluster": self.cluster}.items() if text.strip()}
        try:
            return UsageQuery.model_validate({**wish, "by": by})
        except ValidationError as exc:
            field = str(exc.errors()[0]["loc"][0])
            what = "a day, such as 2026-03-01" if field in ("first", "last") else "usable"
            raise InputError(f"{wish[field][:40]!r} is not {what}.", field=field) from None

    def address(self, **changes: str) -> str:
        """Return the query of an address with these filters."""
        return urlencode({name: text for name, text in {**vars(self), **changes}.items() if text})


Asked = Annotated[Filters, Depends()]


@router.get("/usage")
async def show_usage(context: ContextDep, visit: Reader, asked: Asked) -> Response:
    """Show the sums, or what is wrong with the filters."""
    names = [member.username for member in await members.list_members(context, visit.caller)]
    values: dict[str, Any] = {"asked": asked, "members": names, "error": "", "field": None, "found": None}
    status = 200
    try:
        values |= await _measured(context, visit, asked)
    except InputError as exc:
        status, values = 422, {**values, "error": str(exc), "field": exc.field}
    return await show(context, visit, "usage.html", here="usage", status=status, **values)


async def _measured(context: Context, visit: AccountVisit, asked: Filters) -> dict[str, Any]:
    split: Dimension = next((name for name in SPLITS if name == asked.split), "member")
    tag = bool(asked.tag.strip())
    split = "member" if split == "tag" and not tag else split
    groupings: list[list[Dimension]] = [["day", split], ["member"], ["cluster"]]
    if tag:
        groupings.append(["tag"])
    days, by_member, by_cluster, *by_tag = await usage.measure(
        context, visit.caller, asked.query(["day"]), [*groupings]
    )
    return {
        "found": days,
        "split": split,
        "charts": charts(days, split),
        "by_member": shares(by_member, "member"),
        "by_cluster": shares(by_cluster, "cluster")[:CLUSTERS],
        "cluster_count": len({row.cluster for row in by_cluster.rows}),
        "by_tag": shares(by_tag[0], "tag") if by_tag else None,
        "presets": _presets(context, asked, days),
    }


def _presets(context: Context, asked: Filters, found: Usage) -> list[tuple[str, str, bool]]:
    """Return name and address of spans that people ask for, and whether it is the one that is shown."""
    today = context.clock.now().astimezone(ZoneInfo(found.zone)).date()
    month = today.replace(day=1)
    before = (month - timedelta(days=1)).replace(day=1)
    spans: list[tuple[str, date, date]] = [
        ("7 days", today - timedelta(days=6), today),
        ("30 days", today - timedelta(days=29), today),
        ("This month", month, today),
        ("Last month", before, month - timedelta(days=1)),
        ("This year", today.replace(month=1, day=1), today),
    ]
    return [
        (name, asked.address(first=str(first), last=str(last)), (first, last) == (found.first, found.last))
        for name, first, last in spans
    ]


@router.get("/usage.csv")
async def download(context: ContextDep, visit: Reader, asked: Asked) -> Response:
    """Give the sums by day and cluster, with its maker and, if one is asked for, its tag."""
    by: list[Dimension] = ["day", "member", "cluster"]
    if asked.tag.strip():
        by.append("tag")
    found = await usage.usage(context, visit.caller, asked.query(by))
    name = f"usage-{visit.caller.account}-{found.first}-{found.last}.csv"
    headers = {"Content-Disposition": f'attachment; filename="{name}"'}
    return Response(usage_csv(found), media_type="text/csv; charset=utf-8", headers=headers)
