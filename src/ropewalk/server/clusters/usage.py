"""What an account's clusters used and cost, by day, member, cluster and tag.

It is read from the rows of nodes, each of which says when it began, when it was seen to be gone and what it cost an
hour. So clusters that run across midnight, that still run, or that changed their size need no care of their own. The
rows are streamed: three queries, and memory for a sum per cluster and day, however many nodes there were.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import astuple, dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from sqlalchemy import or_, select

from ropewalk.errors import InputError
from ropewalk.schemas.clusters import GIB
from ropewalk.schemas.usage import Dimension, Usage, UsageQuery, UsageRow
from ropewalk.server.clusters.leases import LIVE
from ropewalk.server.db.models import CloudAccount, Cluster, Node, User

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["DEFAULT_DAYS", "MAX_DAYS", "MAX_ROWS", "measure", "usage"]

DEFAULT_DAYS = 30
MAX_DAYS = 732
"""Two years, one of them a leap year: to compare a month with the one a year before."""
MAX_ROWS = 50_000
"""Of one answer, some 10 MB of JSON."""
BATCH = 1000
"""Rows that are held at once while nodes are read."""
MAX_PARAMETERS = 10_000
"""Of one statement: SQLite takes 32,766, PostgreSQL's protocol 65,535."""
FIRST_DAY, LAST_DAY = date(2000, 1, 1), date(2199, 12, 31)
"""Years in which every zone has days; outside lie typing errors."""


@dataclass(slots=True)
class Amount:
    """What was used."""

    cost: float = 0.0
    node_hours: float = 0.0
    core_hours: float = 0.0
    memory_gib_hours: float = 0.0
    unpriced_core_hours: float = 0.0

    def add(self, other: Amount) -> None:
        """Add *other* to it."""
        self.cost += other.cost
        self.node_hours += other.node_hours
        self.core_hours += other.core_hours
        self.memory_gib_hours += other.memory_gib_hours
        self.unpriced_core_hours += other.unpriced_core_hours


@dataclass(frozen=True)
class _Days:
    """The days that are asked for, and the moments at which they begin."""

    first: date
    last: date
    starts: list[datetime]
    """Of each day, and of the one after the last."""


@dataclass(frozen=True)
class _Made:
    """What is to be known of a cluster."""

    name: str
    member: str
    tags: Mapping[str, str]
    cloud_account_id: str
    live: bool


Cells = dict[tuple[str, int, str], Amount]
"""By cluster, number of the day, and currency: everything else is added up from these, so all sums agree."""


async def usage(context: Context, caller: AccountCaller, query: UsageQuery) -> Usage:
    """Return the account's usage, added up as *query* says.

    Raises:
        InputError: A day, the zone or the tag makes no sense; names the field.
    """
    return (await measure(context, caller, query, [query.by]))[0]


async def measure(
    context: Context, caller: AccountCaller, query: UsageQuery, groupings: Sequence[Sequence[Dimension]]
) -> list[Usage]:
    """As :func:`usage`, added up in several ways at once; the ``by`` of *query* is not looked at."""
    now = context.clock.now()
    days = _days(query, now)
    if query.tag is None and any("tag" in by for by in groupings):
        raise InputError("Say which tag to add up by.", advice="Give its key as tag=…", field="tag")
    async with context.db.read() as session:
        cells = await _cells(session, _asked(caller, query), days, now)
        made = await _clusters(session, {cluster for cluster, _, _ in cells})
        clouds = await _clouds(session, {each.cloud_account_id for each in made.values()})
    total = _rows(cells, made, days, [], query.tag)
    notes = _notes(total, made, clouds)
    return [
        Usage(
            account=caller.account,
            first=days.first,
            last=days.last,
            zone=query.zone,
            until=min(now, days.starts[-1]),
            by=list(by),
            tag=query.tag,
            rows=_rows(cells, made, days, by, query.tag) if by else total,
            totals=total,
            tags=sorted({key for each in made.values() for key in each.tags}),
            notes=notes,
        )
        for by in groupings
    ]


def _days(query: UsageQuery, now: datetime) -> _Days:
    try:
        zone = ZoneInfo(query.zone)
    except (KeyError, ValueError, OSError):
        raise InputError(
            f"{query.zone!r} is not a time zone.",
            advice="Use an IANA name, such as Europe/Berlin or UTC.",
            field="zone",
        ) from None
    last = query.last or now.astimezone(zone).date()
    first = query.first or max(FIRST_DAY, last - timedelta(days=DEFAULT_DAYS - 1))
    for name, day in (("first", first), ("last", last)):
        if not FIRST_DAY <= day <= LAST_DAY:
            raise InputError(f"The day {day} is not between {FIRST_DAY} and {LAST_DAY}.", field=name)
    if first > last:
        raise InputError(f"The first day, {first}, is after the last one, {last}.", field="first")
    count = (last - first).days + 1
    if count > MAX_DAYS:
        raise InputError(f"These are {count} days; at most {MAX_DAYS} are added up at once.", field="first")
    dates = (first + timedelta(days=number) for number in range(count + 1))
    return _Days(first, last, [datetime.combine(day, time.min, tzinfo=zone).astimezone(UTC) for day in dates])


def _asked(caller: AccountCaller, query: UsageQuery) -> list[ColumnElement[bool]]:
    which = [Cluster.account_id == caller.account_id]
    if query.member:
        which.append(Cluster.creator_id.in_(select(User.id).where(User.username == query.member)))
    if query.cluster:
        which.append(or_(Cluster.id == query.cluster, Cluster.name == query.cluster))
    return which


async def _cells(session: AsyncSession, which: list[ColumnElement[bool]], days: _Days, now: datetime) -> Cells:
    begin, end = days.starts[0], min(days.starts[-1], now)
    nodes = (
        select(
            Node.cluster_id,
            Node.cpu,
            Node.memory,
            Node.hourly_price,
            Node.currency,
            Node.started_at,
            Node.stopped_at,
        )
        .join(Cluster, Cluster.id == Node.cluster_id)
        .where(*which, Node.started_at < end, or_(Node.stopped_at.is_(None), Node.stopped_at > begin))
    )
    cells: Cells = defaultdict(Amount)
    found = await session.stream(nodes.execution_options(yield_per=BATCH))
    async for batch in found.partitions():
        for node in batch:
            _count(cells, node, days.starts, end)
    return cells


def _count(
    cells: Cells,
    node: Sequence[Any],
    starts: Sequence[datetime],
    end: datetime,
) -> None:
    """Add what a node used to the cells of the days on which it ran."""
    cluster, cpu, memory, price, currency, started, stopped = node
    begin, until = max(started, starts[0]), min(stopped or end, end)
    day = bisect_right(starts, begin) - 1
    while begin < until:
        midnight = min(starts[day + 1], until)
        hours = (midnight - begin).total_seconds() / 3600
        cores = cpu * hours
        cells[cluster, day, currency].add(
            Amount(price * hours, hours, cores, memory / GIB * hours, 0.0 if price else cores)
        )
        begin, day = midnight, day + 1


async def _clusters(session: AsyncSession, ids: Iterable[str]) -> dict[str, _Made]:
    """Return the clusters of these ids. Rows are never deleted, so each is there."""
    wanted = list(ids)
    columns = (Cluster.id, Cluster.name, User.username, Cluster.tags, Cluster.cloud_account_id, Cluster.state)
    found: dict[str, _Made] = {}
    for start in range(0, len(wanted), MAX_PARAMETERS):
        some = Cluster.id.in_(wanted[start : start + MAX_PARAMETERS])
        query = select(*columns).join(User, User.id == Cluster.creator_id).where(some)
        for cluster, name, member, tags, cloud, state in await session.execute(query):
            found[cluster] = _Made(name, member, tags, cloud, state in LIVE)
    return found


async def _clouds(session: AsyncSession, ids: Iterable[str]) -> list[CloudAccount]:
    query = select(CloudAccount).where(CloudAccount.id.in_(list(ids))).order_by(CloudAccount.created_at)
    return list(await session.scalars(query))


def _rows(
    cells: Cells, made: Mapping[str, _Made], days: _Days, by: Sequence[Dimension], tag: str | None
) -> list[UsageRow]:
    """Add up the cells; rows are in order of day, then the most expensive first."""
    sums: dict[tuple[int | None, str | None, str | None, str | None, str], Amount] = defaultdict(Amount)
    for (cluster, day, currency), amount in cells.items():
        facts = made[cluster]
        key = (
            day if "day" in by else None,
            facts.member if "member" in by else None,
            cluster if "cluster" in by else None,
            facts.tags.get(tag or "", "") if "tag" in by else None,
            currency,
        )
        sums[key].add(amount)
    if len(sums) > MAX_ROWS:
        raise InputError(
            f"These are {len(sums)} rows; at most {MAX_ROWS} are given at once.",
            advice="Ask for fewer days, or add up by less.",
            field="by",
        )
    order = sorted(sums, key=lambda key: (key[0] or 0, -sums[key].cost, -sums[key].core_hours, str(key)))
    return [_row(key, sums[key], made, days) for key in order]


def _row(
    key: tuple[int | None, str | None, str | None, str | None, str],
    amount: Amount,
    made: Mapping[str, _Made],
    days: _Days,
) -> UsageRow:
    day, member, cluster, tag, currency = key
    cost, nodes, cores, memory, unpriced = (round(value, 6) for value in astuple(amount))
    return UsageRow(
        day=None if day is None else days.first + timedelta(days=day),
        member=member,
        cluster=cluster,
        cluster_name=None if cluster is None else made[cluster].name,
        tag=tag,
        currency=currency,
        cost=cost,
        node_hours=nodes,
        core_hours=cores,
        memory_gib_hours=memory,
        unpriced_core_hours=unpriced,
    )


def _notes(total: Sequence[UsageRow], made: Mapping[str, _Made], clouds: Sequence[CloudAccount]) -> list[str]:
    """Return what the sums do not know, as sentences."""
    notes = []
    unpriced = sum(row.unpriced_core_hours for row in total)
    if unpriced:
        notes.append(
            f"{unpriced:,.1f} core hours have no price and count as 0: an operator sets the price of hosted clusters."
        )
    for cloud in clouds:
        running = sorted(each.name for each in made.values() if each.live and each.cloud_account_id == cloud.id)
        if cloud.unreachable and running:
            notes.append(
                f"Whether these still run is not known, so they are counted until now: {', '.join(running[:10])}"
                f"{' and others' if len(running) > 10 else ''}. {cloud.unreachable}"
            )
        monthly = cloud.infrastructure.get("monthly_cost", 0.0)
        if monthly:
            notes.append(
                f"What was prepared in the {cloud.kind} account costs about {monthly:.2f} USD a month besides, "
                "whether or not a cluster runs; it is not in these sums."
            )
    if any(cloud.kind == "aws" for cloud in clouds):
        notes.append(
            "AWS is counted at list prices of the day on which each node was launched, without data transfer, logs, "
            "storage, discounts and taxes. The bill is AWS's."
        )
    return notes
