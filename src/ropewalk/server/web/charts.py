"""From sums to what a page draws: a table of days, which a script turns into a chart, and bars of shares."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import date, timedelta

from ropewalk.schemas.usage import Dimension, Usage, UsageRow

__all__ = ["MAX_SERIES", "Chart", "Share", "charts", "shares"]

MAX_SERIES = 6
"""Colours that can be told apart beside each other, also by people who do not see all of them."""


@dataclass(frozen=True)
class Chart:
    """One chart, and the table under it."""

    id: str
    title: str
    currency: str | None
    """None: it shows core hours."""
    series: list[str]
    days: list[tuple[date, list[float]]]


@dataclass(frozen=True)
class Share:
    """One row of a table, with its part of the whole."""

    row: UsageRow
    name: str
    percent: float


def charts(found: Usage, split: Dimension) -> list[Chart]:
    """Return a chart of cost for each currency in which something cost something, and one of core hours."""
    made = []
    for currency in sorted({row.currency for row in found.totals if row.cost}):
        rows = [row for row in found.rows if row.currency == currency]
        title = "Cost per day" if currency == "USD" else f"Cost per day, in {currency}"
        made.append(_chart(found, split, rows, f"cost-{currency}", title, currency))
    if found.rows:
        made.append(_chart(found, split, found.rows, "cores", "Core hours per day", None))
    return made


def _chart(found: Usage, split: Dimension, rows: list[UsageRow], name: str, title: str, currency: str | None) -> Chart:
    totals: dict[str, float] = defaultdict(float)
    cells: dict[tuple[date, str], float] = defaultdict(float)
    for row in rows:
        assert row.day is not None  # noqa: S101 - it was added up by day
        value = row.core_hours if currency is None else row.cost
        totals[name_of(row, split)] += value
        cells[row.day, name_of(row, split)] += value
    largest = sorted(totals, key=lambda key: (-totals[key], key))
    shown = largest if len(largest) <= MAX_SERIES else largest[: MAX_SERIES - 1]
    rest = largest[len(shown) :]
    days = []
    for number in range((found.last - found.first).days + 1):
        day = found.first + timedelta(days=number)
        values = [cells.get((day, key), 0.0) for key in shown]
        days.append((day, [*values, sum(cells.get((day, key), 0.0) for key in rest)] if rest else values))
    series = [*shown, f"{len(rest)} others"] if rest else shown
    return Chart(name, title, currency, series, days)


def name_of(row: UsageRow, dimension: Dimension) -> str:
    """Return what a row is called where rows are by *dimension*."""
    if dimension == "tag":
        return row.tag or "(without)"
    return str(row.member if dimension == "member" else row.cluster_name)


def shares(found: Usage, dimension: Dimension) -> list[Share]:
    """Return the rows, the largest first, each with its part of what cost as much currency, or else of core hours."""
    whole = {row.currency: row for row in found.totals}
    made = []
    for row in found.rows:
        total = whole[row.currency]
        part = row.cost / total.cost if total.cost else row.core_hours / total.core_hours if total.core_hours else 0.0
        made.append(Share(row, name_of(row, dimension), round(100 * part, 2)))
    return sorted(made, key=lambda share: (-share.percent, share.name))
