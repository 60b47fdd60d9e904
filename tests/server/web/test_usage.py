"""The page of usage: sums with their filters in the address, readable without scripts."""

from __future__ import annotations

import re
from datetime import timedelta

from sqlalchemy import select, update

from ropewalk.server.db.models import Account, Cluster
from tests.server.clusters.test_usage import NOW, Team, hours, node
from tests.support.api import Api
from tests.support.pages import Visitor

PATH = "/accounts/ada/usage"


async def team_of(api: Api) -> Team:
    async with api.context.db.read() as session:
        account = (await session.scalars(select(Account.id).where(Account.slug == "ada"))).one()
    return Team(api.context, account, "ada")


async def test_days_are_shown_by_member_cluster_and_tag_with_filters_in_the_address(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open(PATH)
    assert "Nothing ran in these days" in ada.text
    team = await team_of(api)
    tags = {"project": "<script>alert(1)</script>", 'k"><b>': "x"}
    etl = await team.cluster("etl", "ada", node(hours(6), hours(4)), tags=tags)
    await team.cluster("train", "ada", node(hours(2), None, hourly_price=0.0))
    page = await ada.open(f"{PATH}?tag=project&split=cluster")
    assert page.status_code == 200
    for part in ("$2.00", "8.0", "etl", "train", "100 %", "4.0 core hours have no price", "Cost per day"):
        assert part in ada.text.replace("\N{NO-BREAK SPACE}", " "), part
    assert "<script>alert" not in page.text
    assert "&lt;script&gt;alert" in page.text
    assert 'k"><b>' not in page.text
    assert f'href="/accounts/ada/clusters/{etl}"' in page.text
    rows = re.findall(r'<th scope="row">(\d{4}-\d\d-\d\d)</th>', page.text)
    assert len(rows) == 60, "thirty days, of cost and of cores"
    assert 'data-value="2.0"' in page.text
    csv = await ada.client.get(f"{PATH}.csv?first=2026-01-01&last=2026-01-02&tag=project")
    assert csv.headers["Content-Disposition"] == 'attachment; filename="usage-ada-2026-01-01-2026-01-02.csv"'
    assert csv.text.splitlines()[0].startswith("day,member,cluster,cluster_name,tag:project,node_hours")
    await ada.open(f"{PATH}?cluster=train")
    assert "etl" not in ada.text.partition("By member")[2]
    await ada.open(f"{PATH}?first=2025-01-01&last=2025-01-02")
    assert "Nothing ran in these days" in ada.text


async def test_a_wrong_filter_is_marked_and_what_was_typed_is_kept(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    for query, field in (
        ("first=soon", "first"),
        ("last=0000-99-99", "last"),
        ("zone=Mars", "zone"),
        ("first=2026-01-02&last=2026-01-01", "first"),
        ("first=1999-01-01&last=2026-01-01", "first"),
    ):
        page = await ada.open(f"{PATH}?{query}")
        assert page.status_code == 422, query
        assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2], query
        assert f'value="{query.partition("=")[2].partition("&")[0]}"' in page.text
        assert (await ada.client.get(f"{PATH}.csv?{query}")).status_code == 422


async def test_of_many_members_the_largest_have_colours_and_of_many_clusters_the_largest_rows(api: Api) -> None:
    await api.person("ada")
    team = await team_of(api)
    for number in range(30):
        await team.cluster(f"c{number}", "ada", node(hours(number + 1), NOW))
    async with api.context.db.transaction() as session:
        await session.execute(update(Cluster).values(created_at=NOW - timedelta(days=9)))
    ada = await Visitor.make(api, "ada")
    page = await ada.open(f"{PATH}?split=cluster")
    assert "25 others" in ada.text
    assert "The 15 largest clusters of 30" in ada.text
    assert page.text.count('<th scope="col" class="number">c29</th>') == 2, "in both charts"
