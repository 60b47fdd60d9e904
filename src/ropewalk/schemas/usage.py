"""What the clusters of an account used and cost, added up by day, member, cluster or tag; and that as CSV."""

from __future__ import annotations

import csv
import io
from datetime import date, datetime
from typing import Annotated, Literal

from pydantic import Field

from ropewalk.schemas.common import Line, Schema

Dimension = Literal["day", "member", "cluster", "tag"]

DIMENSIONS: tuple[Dimension, ...] = ("day", "member", "cluster", "tag")
"""In the order of the columns of CSV."""


class UsageQuery(Schema):
    """Which days of which clusters, and how they are added up."""

    by: list[Dimension] = Field(["day"], max_length=4, description="Rows are made for each combination of these.")
    first: date | None = Field(None, description="First day; default: 29 days before the last one.")
    last: date | None = Field(None, description="Last day, which is counted too; default: today.")
    zone: Annotated[Line, Field(min_length=1, max_length=60)] = Field(
        "UTC", description="IANA time zone in which days begin and end."
    )
    tag: Annotated[Line, Field(min_length=1, max_length=128)] | None = Field(
        None, description="Key of the tag that `by=tag` adds up by."
    )
    member: Annotated[Line, Field(max_length=60)] | None = Field(None, description="Only clusters that they made.")
    cluster: Annotated[Line, Field(max_length=60)] | None = Field(None, description="Only this one, by id or name.")


class UsageRow(Schema):
    """One sum. Of the fields up to `tag`, only those that were asked for are set."""

    day: date | None = None
    member: str | None = None
    cluster: str | None = Field(None, description="Id.")
    cluster_name: str | None = None
    tag: str | None = Field(None, description="Value of the tag; empty: of clusters that do not have it.")
    currency: str
    cost: float = Field(description="By the prices that held when each node was launched.")
    node_hours: float
    core_hours: float
    memory_gib_hours: float
    unpriced_core_hours: float = Field(description="Those of the core hours that have no price, and count as 0.")


class Usage(Schema):
    """Sums of what the account's nodes used, from when the cloud accepted each until it was seen to be gone."""

    account: str
    first: date
    last: date
    zone: str
    until: datetime = Field(description="What still runs is counted until this moment.")
    by: list[Dimension]
    tag: str | None
    rows: list[UsageRow] = Field(description="Without those in which nothing ran.")
    totals: list[UsageRow] = Field(description="Of all rows, one for each currency.")
    tags: list[str] = Field(description="Keys of tags that clusters of these days have.")
    notes: list[str] = Field(description="What the sums do not know or leave out.")


_NUMBERS = ("node_hours", "core_hours", "memory_gib_hours", "unpriced_core_hours", "cost", "currency")


def usage_csv(usage: Usage) -> str:
    """Return the rows as CSV (RFC 4180), with a line of titles."""
    keys = [column for name in DIMENSIONS if name in usage.by for column in _columns(name)]
    out = io.StringIO(newline="")
    writer = csv.writer(out)
    writer.writerow(["tag:" + str(usage.tag) if key == "tag" else key for key in (*keys, *_NUMBERS)])
    for row in usage.rows:
        writer.writerow([csv_cell(getattr(row, key)) for key in (*keys, *_NUMBERS)])
    return out.getvalue()


def _columns(name: Dimension) -> tuple[str, ...]:
    return ("cluster", "cluster_name") if name == "cluster" else (name,)


def csv_cell(value: object) -> object:
    """Return *value* such that no spreadsheet takes text for a formula (OWASP, "CSV injection")."""
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
