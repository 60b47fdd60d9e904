"""The table of clusters."""

from __future__ import annotations

import asyncio
import re
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert, select

from ropewalk.server.db.models import Cluster, new_id
from ropewalk.server.identity import access, sessions
from ropewalk.server.identity.permissions import AccountCaller
from ropewalk.server.web import live
from ropewalk.server.web.clusters import PAGE
from tests.support.api import Api, Person
from tests.support.pages import Visitor
from tests.support.waiting import PATIENCE


async def create(person: Person, name: str, account: str | None = None, **fields: Any) -> str:
    wish = {"name": name, "n_workers": 1, **fields}
    answer = await person.client.post(f"/api/v1/accounts/{account or person.username}/clusters", json=wish)
    assert answer.status_code == 201, answer.text
    return str(answer.json()["id"])


async def copies(api: Api, cluster_id: str, count: int) -> None:
    """Add *count* ended clusters that are like the one of that id, each a second older than the one before."""
    async with api.context.db.transaction() as session:
        row = (await session.scalars(select(Cluster).where(Cluster.id == cluster_id))).one()
        like = {column.key: getattr(row, column.key) for column in Cluster.__table__.columns}
        ended = {"state": "stopped", "stopped_at": row.created_at, "lease_owner": None, "lease_expires_at": None}
        rows = [
            {
                **like,
                **ended,
                "id": new_id("c"),
                "name": f"old-{n}",
                "created_at": row.created_at - timedelta(seconds=n),
            }
            for n in range(1, count + 1)
        ]
        await session.execute(insert(Cluster), rows)


async def test_an_empty_account_shows_how_to_start_a_cluster(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/")
    assert ada.page.url.path == "/accounts/ada/clusters"
    assert f"ropewalk login --server {api.context.settings.public_url}" in ada.text
    assert 'Cluster(n_workers=4, account="ada")' in ada.text
    assert 'data-copy="start"' in ada.page.text


async def test_the_table_says_what_runs_whose_it_is_and_what_it_costs(api: Api) -> None:
    person = await api.person("ada")
    await create(person, "etl", n_workers=[2, 8], worker_cpu=2)
    ada = await Visitor.make(api, "ada")
    await ada.open("/accounts/ada/clusters")
    row = ada.text.partition("etl")[2]
    assert re.search("[012] of 2\u20138", row), "it is starting at this moment"
    for part in ("ada", "hosted", "$", "0 s", "Stop"):
        assert part in row
    assert "17 cores reserved by live clusters of ada" in ada.text
    assert "17 cores reserved by yours; you have no limit here" in ada.text


async def test_filters_are_in_the_address_and_in_the_form(api: Api) -> None:
    boss, mia = await api.person("boss"), await api.person("mia")
    await api.team("team", boss="admin", mia="member")
    await create(boss, "train-1", "team")
    await create(mia, "train-2", "team")
    await create(mia, "other", "team")
    visitor = await Visitor.make(api, "mia")
    for query, shown in (
        ("", {"train-1", "train-2", "other"}),
        ("?name=train", {"train-1", "train-2"}),
        ("?name=%25", set()),
        ("?creator=mia", {"train-2", "other"}),
        ("?creator=mia&name=TRAIN", {"train-2"}),
    ):
        page = await visitor.open(f"/accounts/team/clusters{query}")
        found = {name for name in ("train-1", "train-2", "other") if f">{name}</a></th>" in page.text}
        assert found == shown, query
    assert "<option selected>mia</option>" in page.text
    assert 'value="TRAIN"' in page.text


async def test_a_thousand_clusters_are_looked_through_page_by_page(api: Api) -> None:
    cluster_id = await create(await api.person("ada"), "newest")
    await copies(api, cluster_id, 1000)
    ada = await Visitor.make(api, "ada")
    await ada.open("/accounts/ada/clusters?state=all")
    seen: list[str] = []
    for _ in range(20):
        rows = ada.page.text.split('<th scope="row">')[1:]
        assert len(rows) <= PAGE
        seen += [row.partition("</a>")[0].rpartition(">")[2] for row in rows]
        if "Older ones" not in ada.page.text:
            break
        older = ada.page.text.partition("Older ones")[0].rpartition('href="')[2].partition('"')[0]
        await ada.open(f"/accounts/ada/clusters{older.replace('&amp;', '&')}")
    assert seen == ["newest", *(f"old-{n}" for n in range(1, 1001))]


async def test_stopping_is_asked_first_and_done_once(api: Api) -> None:
    cluster_id = await create(await api.person("ada"), "etl")
    ada = await Visitor.make(api, "ada")
    path = f"/accounts/ada/clusters/{cluster_id}/stop"
    await ada.open(path)
    assert "Stop etl?" in ada.text
    await ada.submit(path)
    assert "The cluster was asked to stop" in ada.text
    await ada.open(path)
    await ada.submit(path)
    assert ada.page.status_code == 200, "again: nothing more happens"
    async with api.context.db.read() as session:
        assert (await session.get_one(Cluster, cluster_id)).stop_requested_at is not None


async def test_members_may_not_stop_what_others_made(api: Api) -> None:
    boss = await api.person("boss")
    await api.person("mia")
    await api.team("team", boss="admin", mia="member")
    cluster_id = await create(boss, "etl", "team")
    mia = await Visitor.make(api, "mia")
    path = f"/accounts/team/clusters/{cluster_id}/stop"
    await mia.open(path)
    page = await mia.submit(path)
    assert page.status_code == 403
    assert "You did not create the cluster" in mia.text


async def test_a_forged_stop_changes_nothing(api: Api) -> None:
    cluster_id = await create(await api.person("ada"), "etl")
    ada = await Visitor.make(api, "ada")
    answer = await ada.client.post(f"/accounts/ada/clusters/{cluster_id}/stop", data={"csrf": "x"})
    assert answer.status_code == 403
    async with api.context.db.read() as session:
        assert (await session.get_one(Cluster, cluster_id)).stop_requested_at is None


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "KEEP_ALIVE_SECONDS", 0.05)
    monkeypatch.setattr(live, "LEAST_SECONDS", 0.0)


async def caller_of(api: Api, ada: Visitor) -> tuple[AccountCaller, str]:
    cookie = ada.client.cookies["ropewalk_session"]
    found = await sessions.find(api.context, cookie)
    assert found is not None
    return await access.to_account(api.context, found.caller, "ada"), cookie


async def test_an_open_page_is_told_of_changes_until_its_session_ends(api: Api, quick: None) -> None:
    person = await api.person("ada")
    ada = await Visitor.make(api, "ada")
    caller, cookie = await caller_of(api, ada)
    told = live.respond(api.context, caller, cookie, f"account:{caller.account_id}").body_iterator
    assert "changed" in str(await anext(aiter(told))), "it may have missed something before it came"
    await create(person, "etl")
    async with asyncio.timeout(PATIENCE):
        async for part in told:
            if "changed" in str(part):
                break
        await ada.open("/profile")
        await ada.submit("/sign-out")
        async for _ in told:
            pass  # it ends by itself: otherwise the time is up


async def test_a_stream_ends_with_the_server(api: Api, quick: None) -> None:
    await api.person("ada")
    caller, cookie = await caller_of(api, await Visitor.make(api, "ada"))
    told = live.respond(api.context, caller, cookie, "account:x").body_iterator
    api.context.stopping.set()
    async with asyncio.timeout(PATIENCE):
        assert len([part async for part in told]) == 1
