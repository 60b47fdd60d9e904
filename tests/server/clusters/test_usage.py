"""Usage and cost: sums of what nodes say, whichever way they are added up."""

from __future__ import annotations

import asyncio
import csv
import io
import math
from collections import defaultdict
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import delete, event, insert, select, update

from ropewalk.schemas.usage import DIMENSIONS, Usage, UsageQuery
from ropewalk.server.cloud_accounts.service import HOSTED_ID, ensure_hosted
from ropewalk.server.clusters import usage
from ropewalk.server.clusters.cost import cost
from ropewalk.server.context import Context
from ropewalk.server.db.models import Account, CloudAccount, Cluster, Node, User, new_id
from ropewalk.server.identity.permissions import AccountCaller
from ropewalk.server.identity.users import add_user
from tests.support.api import NO_PASSWORD, Api
from tests.support.clock import FakeClock

NOW = FakeClock().time


def hours(number: float) -> datetime:
    """Return the moment *number* hours before now."""
    return NOW - timedelta(hours=number)


class Team:
    """An account with clusters that are written down as they would have been, without running any."""

    def __init__(self, context: Context, account_id: str, slug: str = "team") -> None:
        self.context, self.account_id, self.slug = context, account_id, slug
        self.nodes: dict[str, list[dict[str, Any]]] = defaultdict(list)

    @property
    def caller(self) -> AccountCaller:
        return AccountCaller("u-x", "root", operator=True, account_id=self.account_id, account=self.slug)

    async def cluster(self, name: str, member: str, *nodes: dict[str, Any], **values: Any) -> str:
        """Write down a cluster with *nodes* (:func:`node`), which has ended if all of these have."""
        cluster_id = new_id("c")
        for number, each in enumerate(nodes):
            self.nodes[cluster_id].append({**each, "name": f"{cluster_id}-{number}", "cluster_id": cluster_id})
        ended = all(each["stopped_at"] for each in nodes)
        async with self.context.db.transaction() as session:
            creator = (await session.scalars(select(User.id).where(User.username == member))).one()
            row = {
                "id": cluster_id,
                "account_id": self.account_id,
                "creator_id": creator,
                "cloud_account_id": HOSTED_ID,
                "name": name,
                "spec": {},
                "secret": b"",
                "tags": {},
                "n_workers": len(nodes),
                "desired_changed_at": NOW,
                "reserved_cores": 0.0,
                # Held by a server that is never there, so that no reconciler of the test looks for its nodes.
                "lease_owner": "elsewhere",
                "lease_expires_at": NOW + timedelta(days=9999),
                "state": "stopped" if ended else "ready",
                "created_at": hours(9999),
                "stopped_at": NOW if ended else None,
                **values,
            }
            await session.execute(insert(Cluster), [row])
            if nodes:
                await session.execute(insert(Node), self.nodes[cluster_id])
        return cluster_id


def node(started: datetime | None, stopped: datetime | None, **values: Any) -> dict[str, Any]:
    """Return the row of a node that ran for that time: 2 cores, 4 GiB, a dollar an hour."""
    return {
        "role": "worker",
        "state": "ready" if stopped is None else "stopped",
        "cpu": 2.0,
        "memory": 4 * 2**30,
        "hourly_price": 1.0,
        "currency": "USD",
        "created_at": started or NOW,
        "started_at": started,
        "stopped_at": stopped,
        **values,
    }


@pytest.fixture
async def team(context: Context) -> Team:
    """A team of ada and mia, on a server that does nothing by itself."""
    await ensure_hosted(context)
    async with context.db.transaction() as session:
        for name in ("ada", "mia"):
            await add_user(context, session, name, NO_PASSWORD, email=None, operator=False, by="tests")
        session.add(Account(id="a-team", slug="team", kind="team", created_at=NOW))
    return Team(context, "a-team")


async def ask(team: Team, **values: Any) -> Usage:
    query = UsageQuery.model_validate({"first": "2025-12-20", "last": "2026-01-02", **values})
    return await usage.usage(team.context, team.caller, query)


def table(found: Usage) -> dict[Any, float]:
    """Return cost by whatever the rows are by."""
    return {row.day or row.member or row.cluster_name or row.tag: row.cost for row in found.rows}


async def test_a_cluster_that_ran_across_midnight_is_counted_on_both_days_of_the_reader(team: Team) -> None:
    start = datetime(2025, 12, 31, 22, tzinfo=UTC)
    await team.cluster("etl", "ada", node(start, start + timedelta(hours=3)))
    assert table(await ask(team)) == {date(2025, 12, 31): 2.0, date(2026, 1, 1): 1.0}

    assert table(await ask(team, zone="Europe/Berlin")) == {date(2025, 12, 31): 1.0, date(2026, 1, 1): 2.0}
    assert table(await ask(team, zone="Asia/Tokyo")) == {date(2026, 1, 1): 3.0}


async def test_days_of_23_and_25_hours_are_as_long_as_they_are(team: Team, clock: FakeClock) -> None:
    clock.time = datetime(2026, 11, 30, tzinfo=UTC)
    await team.cluster("etl", "ada", node(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 11, 1, tzinfo=UTC)))
    asked = {"first": "2026-03-28", "last": "2026-03-30", "zone": "Europe/Berlin"}
    assert list(table(await ask(team, **asked)).values()) == [24.0, 23.0, 24.0]
    asked = {"first": "2026-10-25", "last": "2026-10-25", "zone": "Europe/Berlin"}
    assert list(table(await ask(team, **asked)).values()) == [25.0]


async def test_what_still_runs_is_counted_until_now_and_never_beyond(team: Team) -> None:
    await team.cluster("etl", "ada", node(hours(2), None))
    found = await ask(team, last="2026-02-01")
    assert (found.totals[0].cost, found.until) == (2.0, NOW)


async def test_a_cluster_that_changed_its_size_is_counted_at_each_size(team: Team) -> None:
    nodes = [node(hours(3), None), node(hours(2), hours(1), hourly_price=5.0, cpu=8.0), node(hours(1), None)]
    await team.cluster("etl", "ada", *nodes)
    (total,) = (await ask(team)).totals
    assert (total.cost, total.core_hours, total.memory_gib_hours) == (3 + 5 + 1, 6 + 8 + 2, 20)


async def test_what_never_started_costs_nothing(team: Team) -> None:
    await team.cluster("etl", "ada", node(None, NOW, state="failed"))
    found = await ask(team)
    assert (found.rows, found.totals) == ([], [])


async def test_rows_are_by_member_cluster_and_tag_and_by_several_of_these(team: Team) -> None:
    await team.cluster("etl", "ada", node(hours(2), hours(1)), tags={"project": "apollo"})
    await team.cluster("etl", "ada", node(hours(4), hours(3)), tags={"project": "gemini"})
    await team.cluster("train", "mia", node(hours(9), hours(7)), tags={"cost-centre": "7"})
    assert table(await ask(team, by=["member"])) == {"ada": 2.0, "mia": 2.0}
    by_tag = await ask(team, by=["tag"], tag="project")
    assert {row.tag: row.cost for row in by_tag.rows} == {"": 2.0, "apollo": 1.0, "gemini": 1.0}
    assert by_tag.tags == ["cost-centre", "project"]
    assert len((await ask(team, by=["cluster"])).rows) == 3, "another cluster of the same name is another one"
    both = await ask(team, by=["tag", "member"], tag="project")
    assert {(row.member, row.tag) for row in both.rows} == {("ada", "apollo"), ("ada", "gemini"), ("mia", "")}
    assert table(await ask(team, by=["cluster"], member="mia")) == {"train": 2.0}
    assert table(await ask(team, by=["member"], cluster="etl")) == {"ada": 2.0}


async def test_amounts_of_two_currencies_are_never_added_up(team: Team) -> None:
    await team.cluster("etl", "ada", node(hours(2), hours(1)), node(hours(2), hours(1), currency="EUR"))
    assert [(row.currency, row.cost) for row in (await ask(team)).totals] == [("EUR", 1.0), ("USD", 1.0)]


async def test_what_is_not_known_is_said(team: Team) -> None:
    await team.cluster("etl", "ada", node(hours(2), None, hourly_price=0.0))
    async with team.context.db.transaction() as session:
        await session.execute(
            update(CloudAccount).values(unreachable="The key was revoked.", infrastructure={"monthly_cost": 32.85})
        )
    found = await ask(team)
    assert found.totals[0].unpriced_core_hours == 4.0
    unpriced, unreachable, monthly = found.notes
    assert "4.0 core hours have no price" in unpriced
    assert "counted until now: etl. The key was revoked." in unreachable
    assert "32.85 USD a month" in monthly


async def test_another_accounts_clusters_are_not_counted(team: Team) -> None:
    async with team.context.db.transaction() as session:
        session.add(Account(id="a-other", slug="other", kind="team", created_at=NOW))
    other = Team(team.context, "a-other", "other")
    await other.cluster("etl", "mia", node(hours(2), None))
    assert (await ask(team)).rows == []


WRONG = [
    ({"zone": "Mars/Olympus"}, "zone"),
    ({"zone": "../../etc/passwd"}, "zone"),
    ({"zone": "Europe"}, "zone"),
    ({"first": "2026-02-01"}, "first"),
    ({"first": "1000-01-01"}, "first"),
    ({"last": "9999-12-31"}, "last"),
    ({"first": "2020-01-01"}, "first"),
    ({"by": "tag"}, "tag"),
    ({"by": "moon"}, "by.0"),
    ({"first": "yesterday"}, "first"),
]


async def test_the_api_answers_in_json_and_csv_and_names_the_field_that_is_wrong(api: Api) -> None:
    ada = await api.person("ada")
    path = "/api/v1/accounts/ada/usage"
    for wrong, field in WRONG:
        answer = await ada.client.get(path, params={"first": "2025-12-20", "last": "2026-01-02", **wrong})
        assert answer.status_code == 422, wrong
        assert answer.json()["error"]["field"] in (field, f"query.{field}"), wrong
    async with api.context.db.read() as session:
        account = (await session.scalars(select(Account.id).where(Account.slug == "ada"))).one()
    team = Team(api.context, account, "ada")
    await team.cluster("etl", "ada", node(hours(2), hours(1)), tags={"project": "=cmd()"})
    found = (await ada.client.get(path, params={"by": ["member", "tag"], "tag": "project"})).json()
    assert found["first"] == "2025-12-04", "thirty days"
    assert found["rows"][0] | {"member": "ada", "tag": "=cmd()", "cost": 1.0} == found["rows"][0]
    answer = await ada.client.get(f"{path}.csv", params={"by": ["tag", "cluster"], "tag": "project"})
    assert answer.headers["Content-Type"] == "text/csv; charset=utf-8"
    (row,) = csv.DictReader(io.StringIO(answer.text))
    assert row["cluster_name"] == "etl"
    assert row["tag:project"] == "'=cmd()", "no spreadsheet takes it for a formula"
    assert (row["cost"], row["currency"], row["core_hours"]) == ("1.0", "USD", "2.0")


async def test_the_number_of_queries_does_not_grow_with_clusters_and_days(team: Team) -> None:
    statements: list[str] = []
    engine = team.context.db.engine.sync_engine

    async def count(**values: Any) -> int:
        statements.clear()
        await ask(team, **values)
        return len([text for text in statements if text.startswith("SELECT")])

    async def queries(**values: Any) -> int:
        listener = lambda *args: statements.append(args[2])  # noqa: E731 - removed below
        event.listen(engine, "before_cursor_execute", listener)
        try:
            return await count(**values)
        finally:
            event.remove(engine, "before_cursor_execute", listener)

    await team.cluster("one", "ada", node(hours(2), hours(1)))
    few = await queries()
    for number in range(20):
        await team.cluster(f"c{number}", "ada", *[node(hours(500), hours(1)) for _ in range(30)])
    assert await queries(first="2025-01-01") == few == 3


moments = st.integers(min_value=0, max_value=20 * 24 * 60).map(lambda minutes: NOW - timedelta(minutes=minutes))
made_nodes = st.builds(
    lambda one, two, live, price, cpu, currency: node(
        min(one, two), None if live else max(one, two), hourly_price=price, cpu=cpu, currency=currency
    ),
    moments,
    moments,
    st.booleans(),
    st.sampled_from([0.0, 0.04048, 1.0, 3.7]),
    st.sampled_from([0.25, 1.0, 16.0]),
    st.sampled_from(["USD", "EUR"]),
)
made_clusters = st.lists(
    st.tuples(st.sampled_from(["ada", "mia"]), st.sampled_from(["", "apollo"]), st.lists(made_nodes, max_size=4)),
    max_size=5,
)


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_all_sums_agree_with_each_other_and_with_the_clusters_own_cost(team: Team) -> None:
    """For any clusters, in any zone, over days that hold all of them."""
    loop = asyncio.get_running_loop()

    async def agree(clusters: list[tuple[str, str, list[dict[str, Any]]]], zone: str) -> None:
        async with team.context.db.transaction() as session:
            await session.execute(delete(Node))
            await session.execute(delete(Cluster))
        team.nodes.clear()
        for number, (member, tag, nodes) in enumerate(clusters):
            await team.cluster(f"c{number}", member, *nodes, tags={"project": tag} if tag else {})
        query = UsageQuery.model_validate({"first": "2025-12-01", "last": "2026-01-03", "zone": zone, "tag": "project"})
        groupings = [[], *([name] for name in DIMENSIONS), ["day", "member"], list(DIMENSIONS)]
        found = await usage.measure(team.context, team.caller, query, groupings)  # type: ignore[arg-type] # names
        for each in found:
            for total in found[0].totals:
                parts = [row for row in each.rows if row.currency == total.currency]
                for field in ("cost", "node_hours", "core_hours", "memory_gib_hours", "unpriced_core_hours"):
                    added = math.fsum(getattr(row, field) for row in parts)
                    assert math.isclose(added, getattr(total, field), abs_tol=1e-6 * (len(parts) + 1)), each.by
        own = {
            cluster: cost([Node(**row) for row in rows if row["currency"] == "USD"], NOW).so_far
            for cluster, rows in team.nodes.items()
        }
        shown = {row.cluster: row.cost for row in found[3].rows if row.currency == "USD"}
        assert found[3].by == ["cluster"]
        for cluster, value in own.items():
            assert math.isclose(value, shown.get(cluster, 0.0), abs_tol=1e-5), cluster

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(clusters=made_clusters, zone=st.sampled_from(["UTC", "Europe/Berlin", "Pacific/Apia", "America/St_Johns"]))
    def check(clusters: list[tuple[str, str, list[dict[str, Any]]]], zone: str) -> None:
        asyncio.run_coroutine_threadsafe(agree(clusters, zone), loop).result(60)

    await asyncio.to_thread(check)
