"""Invitations by the API: single use, hashed, throttled, in the audit trail."""

from __future__ import annotations

import asyncio
from typing import Any

from sqlalchemy import select, text

from ropewalk.server.db.models import Event, Invitation, User
from ropewalk.server.identity import invitations
from tests.support.api import Api, Person
from tests.support.clock import FakeClock

PASSWORD = "correct horse battery"
PATH = "/api/v1/accounts/physics/invitations"


async def team(api: Api) -> Person:
    ada = await api.person("ada")
    await api.team("physics", ada="admin")
    return ada


async def invited(ada: Person, **wish: Any) -> str:
    """Make an invitation and return its secret."""
    answer = await ada.client.post(PATH, json=wish)
    assert answer.status_code == 201, answer.text
    assert answer.headers["Cache-Control"] == "no-store"
    return str(answer.json()["url"]).rpartition("/")[2]


async def join(api: Api, secret: str, username: str) -> Any:
    return await api.client.post(
        "/api/v1/invitations/join", json={"token": secret, "username": username, "password": PASSWORD}
    )


async def test_a_secret_is_stored_nowhere_and_listed_never(api: Api) -> None:
    ada = await team(api)
    secret = await invited(ada, note="Marie", role="admin", core_limit=4)
    (listed,) = (await ada.client.get(PATH)).json()
    assert (listed["note"], listed["role"], listed["core_limit"], listed["invited_by"]) == ("Marie", "admin", 4, "ada")
    async with api.context.db.read() as session:
        rows = [(await session.execute(text(f"SELECT * FROM {table}"))).all() for table in ("invitations", "events")]
    assert secret not in f"{listed} {rows}"
    assert secret[4:] not in f"{listed} {rows}"


async def test_of_many_who_come_at_once_one_gets_in(api: Api) -> None:
    ada = await team(api)
    secret = await invited(ada)
    people = [await api.person(name) for name in ("a1", "a2", "a3")]
    answers = await asyncio.gather(
        *(person.client.post("/api/v1/invitations/accept", json={"token": secret}) for person in people),
        *(join(api, secret, f"b{number}") for number in range(2)),
    )
    assert sorted(answer.status_code for answer in answers)[1:] == [404] * 4
    assert {answer.json().get("account") for answer in answers if answer.status_code == 200} <= {"physics"}
    members = (await ada.client.get("/api/v1/accounts/physics/members")).json()
    assert len(members) == 2
    async with api.context.db.read() as session:
        made = set(await session.scalars(select(User.username).where(User.username.like("b%"))))
        codes = list(
            await session.scalars(select(Event.code).where(Event.code.like("invitation.%")).order_by(Event.id))
        )
        assert await session.scalar(select(Invitation.id)) is None
    assert made <= {member["username"] for member in members}, "who did not get in was not made"
    assert codes == ["invitation.created", "invitation.accepted"]


async def test_a_new_user_gets_a_token(api: Api) -> None:
    ada = await team(api)
    answer = await join(api, await invited(ada), "marie")
    assert answer.status_code == 201
    marie = await api.connect(answer.json()["token"])
    me = (await marie.get("/api/v1/me")).json()
    assert [account["slug"] for account in me["accounts"]] == ["marie", "physics"]


async def test_where_operators_make_all_users_an_invitation_makes_none(api: Api) -> None:
    ada = await team(api)
    secret = await invited(ada)
    api.context.settings = api.context.settings.model_copy(update={"invite_new_users": False})
    refused = await join(api, secret, "marie")
    assert refused.status_code == 403
    grace = await api.person("grace")
    answer = await grace.client.post("/api/v1/invitations/accept", json={"token": secret})
    assert answer.json() == {"account": "physics"}


async def test_guessing_is_slowed_down_and_tells_nothing(api: Api, clock: FakeClock) -> None:
    ada = await team(api)
    secret = await invited(ada, days=1)
    clock.advance(days=2)
    answers = [await join(api, guess, "eve") for guess in (secret, *["rwi_guess"] * 20)]
    assert [answer.status_code for answer in answers[:20]] == [404] * 20
    assert answers[-1].status_code == 429
    bodies = {str(answer.json()["error"] | {"request_id": ""}) for answer in answers[:20]}
    assert len(bodies) == 1, "an expired one looks like one that never was"


async def test_personal_accounts_invite_nobody_and_there_is_a_most(api: Api, monkeypatch: Any) -> None:
    ada = await team(api)
    refused = await ada.client.post("/api/v1/accounts/ada/invitations", json={})
    assert refused.status_code == 409
    assert "personal account" in refused.json()["error"]["message"]
    monkeypatch.setattr(invitations, "MAX_PENDING", 1)
    await invited(ada)
    assert (await ada.client.post(PATH, json={})).status_code == 409
    (listed,) = (await ada.client.get(PATH)).json()
    assert (await ada.client.delete(f"{PATH}/{listed['id']}")).status_code == 204
    assert (await ada.client.delete(f"{PATH}/{listed['id']}")).status_code == 404
