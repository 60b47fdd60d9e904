"""Streams of events end when whoever follows them may not see them any more."""

from __future__ import annotations

import asyncio

import httpx
import pytest
from sqlalchemy import select

from ropewalk.backends.memory import MemoryBackend
from ropewalk.server.api import streams
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.context import Context
from ropewalk.server.db.models import Member, Token, User
from ropewalk.server.identity import access
from ropewalk.server.identity.permissions import Caller
from tests.support.api import Api, Person
from tests.support.clock import FakeClock
from tests.support.waiting import PATIENCE, eventually

CLUSTER = "/api/v1/accounts/team/clusters/etl"


@pytest.fixture
def backends() -> Backends:
    return Backends(overrides={"local": MemoryBackend()})


class Following:
    """Two members of a team: eve follows the events of a cluster, ada is its creator."""

    def __init__(self, api: Api, ada: Person, eve: Person, team: str) -> None:
        self.api, self.ada, self.eve, self.team = api, ada, eve, team
        self.stream: asyncio.Task[httpx.Response] | None = None

    async def follow(self) -> None:
        """Let eve follow, and wait until she waits for more."""
        waiting = self.api.context.wakeups._waiting
        self.stream = asyncio.create_task(self.eve.client.get(f"{CLUSTER}/events?follow=true"))
        await eventually(lambda: any(topic.startswith("events:") for topic in waiting))

    async def text(self) -> str:
        assert self.stream is not None
        return (await asyncio.wait_for(self.stream, PATIENCE)).text

    async def take_away(self, what: str, clock: FakeClock) -> None:
        async with self.api.context.db.transaction() as session:
            user = (await session.scalars(select(User).where(User.username == "eve"))).one()
            (token,) = await session.scalars(select(Token).where(Token.user_id == user.id))
            if what == "token":
                await session.delete(token)
            elif what == "user":
                user.disabled = True
            elif what == "membership":
                await session.delete(await session.get_one(Member, (self.team, user.id)))
            else:
                token.expires_at = clock.now()


@pytest.fixture
async def following(api: Api) -> Following:
    ada, eve = await api.person("ada"), await api.person("eve")
    team = await api.team("team", ada="admin", eve="member")
    made = await ada.client.post("/api/v1/accounts/team/clusters", json={"name": "etl", "n_workers": 0})
    assert made.status_code == 201, made.text
    return Following(api, ada, eve, team)


@pytest.mark.parametrize("what", ["token", "user", "membership", "time"])
async def test_nothing_is_told_to_somebody_who_may_not_know_any_more(
    following: Following, clock: FakeClock, what: str
) -> None:
    await following.follow()
    await following.take_away(what, clock)
    assert (await following.ada.client.delete(CLUSTER)).status_code == 200
    text = await following.text()
    assert "event: cluster.created" in text
    assert "cluster.stop_requested" not in text
    after = await following.eve.client.get(f"{CLUSTER}/events")
    assert after.status_code == (404 if what == "membership" else 401)


async def test_nothing_is_told_that_happened_after_the_last_look_at_who_follows(
    following: Following, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    await following.follow()
    still, taken = access.still, False

    async def just_before(context: Context, caller: Caller) -> bool:
        nonlocal taken
        may = await still(context, caller)
        if not taken:
            taken = True
            await following.take_away("token", clock)
            assert (await following.ada.client.delete(CLUSTER)).status_code == 200
        return may

    monkeypatch.setattr(access, "still", just_before)
    following.api.context.wakeups.wake_all()
    text = await following.text()
    assert "event: cluster.created" in text
    assert "cluster.stop_requested" not in text


async def test_a_stream_without_news_ends_too(
    following: Following, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "KEEP_ALIVE_SECONDS", 0.05)
    await following.follow()
    await following.take_away("token", clock)
    assert "event: cluster.created" in await following.text()


async def test_whoever_may_still_see_them_gets_all_events(following: Following) -> None:
    await following.follow()
    assert (await following.ada.client.delete(CLUSTER)).status_code == 200
    text = await following.text()
    assert text.index("cluster.created") < text.index("cluster.stop_requested") < text.index("event: cluster.stopped")
