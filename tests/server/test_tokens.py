"""Tokens are shown once, stored hashed, named, expire, and can be revoked."""

from __future__ import annotations

import asyncio

import pytest
from sqlalchemy import select, text

from ropewalk.server.db.models import Token
from ropewalk.server.identity import access
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.statements import counted


async def make(api: Api, client: object, **wish: object) -> dict[str, str]:
    response = await client.post("/api/v1/tokens", json=wish)  # type: ignore[attr-defined] # any httpx client
    assert response.status_code == 201, response.text
    assert response.headers["Cache-Control"] == "no-store"
    made: dict[str, str] = response.json()
    return made


async def test_a_new_token_works_and_its_secret_is_not_stored(api: Api) -> None:
    ada = await api.person()
    made = await make(api, ada.client, name="laptop")
    assert made["token"].startswith("rwt_")
    assert len(made["token"]) >= 4 + 43
    client = await api.connect(made["token"])
    assert (await client.get("/api/v1/me")).json()["user"]["username"] == "ada"
    async with api.context.db.read() as session:
        rows = (await session.execute(text("SELECT * FROM tokens"))).all()
    assert made["token"] not in repr(rows)
    assert made["token"][4:] not in repr(rows)


async def test_tokens_are_listed_without_their_secret(api: Api) -> None:
    ada = await api.person()
    await make(api, ada.client, name="laptop", expires_in_days=1)
    listed = (await ada.client.get("/api/v1/tokens")).json()
    assert {token["name"]: token["expires_at"] for token in listed} == {
        "tests": None,
        "laptop": "2026-01-03T03:04:05Z",
    }
    assert all(set(token) == {"id", "name", "created_at", "expires_at", "last_used_at"} for token in listed)


async def test_people_do_not_see_each_others_tokens(api: Api) -> None:
    ada, eve = await api.person("ada"), await api.person("eve")
    made = await make(api, ada.client, name="laptop")
    assert [token["name"] for token in (await eve.client.get("/api/v1/tokens")).json()] == ["tests"]
    for name in (made["id"], "laptop"):
        assert (await eve.client.delete(f"/api/v1/tokens/{name}")).status_code == 404
    assert (await (await api.connect(made["token"])).get("/api/v1/me")).status_code == 200


async def test_the_default_lifetime_is_the_servers(api: Api) -> None:
    ada = await api.person()
    assert (await make(api, ada.client, name="one"))["expires_at"] == "2026-04-02T03:04:05Z"
    assert (await make(api, ada.client, name="two", expires_in_days=None))["expires_at"] is None


async def test_an_expired_token_is_refused_with_the_way_out(api: Api, clock: FakeClock) -> None:
    ada = await api.person()
    client = await api.connect((await make(api, ada.client, name="short", expires_in_days=1))["token"])
    clock.advance(days=1, seconds=-1)
    assert (await client.get("/api/v1/me")).status_code == 200
    clock.advance(seconds=1)
    response = await client.get("/api/v1/me")
    assert response.status_code == 401
    error = response.json()["error"]
    assert error["message"] == "The token 'short' expired on 2026-01-03 at 03:04 UTC."
    assert "ropewalk login" in error["advice"]


async def test_an_unknown_token_is_told_from_an_expired_one(api: Api) -> None:
    response = await (await api.connect("rwt_" + "x" * 43)).get("/api/v1/me")
    assert response.status_code == 401
    assert "is not known to this server" in response.json()["error"]["message"]
    assert "x" * 20 not in response.text


@pytest.mark.parametrize("by", ["id", "name"])
async def test_a_revoked_token_stops_working_at_once(api: Api, by: str) -> None:
    ada = await api.person()
    made = await make(api, ada.client, name="old laptop / left one")
    client = await api.connect(made["token"])
    assert (await client.get("/api/v1/me")).status_code == 200
    assert (await ada.client.delete(f"/api/v1/tokens/{made[by]}")).status_code == 204
    assert (await client.get("/api/v1/me")).status_code == 401
    assert (await ada.client.delete(f"/api/v1/tokens/{made[by]}")).status_code == 404


async def test_a_token_named_like_the_id_of_another_does_not_stand_in_its_way(api: Api) -> None:
    ada = await api.person()
    first = await make(api, ada.client, name="first")
    await make(api, ada.client, name=first["id"])
    assert (await ada.client.delete(f"/api/v1/tokens/{first['id']}")).status_code == 204
    assert (await (await api.connect(first["token"])).get("/api/v1/me")).status_code == 401
    assert (await ada.client.delete(f"/api/v1/tokens/{first['id']}")).status_code == 204


async def test_a_name_is_unique_for_each_user(api: Api) -> None:
    ada, eve = await api.person("ada"), await api.person("eve")
    await make(api, ada.client, name="laptop")
    response = await ada.client.post("/api/v1/tokens", json={"name": "laptop"})
    assert response.status_code == 409
    assert response.json()["error"]["field"] == "name"
    await make(api, eve.client, name="laptop")


async def test_of_many_tokens_of_one_name_at_once_one_is_made(api: Api) -> None:
    ada = await api.person()
    answers = await asyncio.gather(*(ada.client.post("/api/v1/tokens", json={"name": "laptop"}) for _ in range(8)))
    assert sorted(response.status_code for response in answers) == [201] + [409] * 7


async def test_the_name_of_an_expired_token_can_be_used_again(api: Api, clock: FakeClock) -> None:
    ada = await api.person()
    await make(api, ada.client, name="laptop", expires_in_days=1)
    clock.advance(days=2)
    await make(api, ada.client, name="laptop")


async def test_nobody_can_have_tokens_without_end(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ropewalk.server.identity.tokens.MAX_TOKENS", 3)
    ada = await api.person()
    await make(api, ada.client, name="two")
    await make(api, ada.client, name="three")
    response = await ada.client.post("/api/v1/tokens", json={"name": "four"})
    assert response.status_code == 409
    assert "Revoke" in response.json()["error"]["advice"]


async def last_use(api: Api, name: str = "tests") -> object:
    async with api.context.db.read() as session:
        return await session.scalar(select(Token.last_used_at).where(Token.name == name))


async def test_the_use_of_a_token_is_written_at_most_once_a_minute(api: Api, clock: FakeClock) -> None:
    ada = await api.person()
    assert await last_use(api) is None
    await ada.client.get("/api/v1/me")
    first = await last_use(api)
    assert first == clock.now()
    clock.advance(59)
    await ada.client.get("/api/v1/me")
    assert await last_use(api) == first
    clock.advance(1)
    await ada.client.get("/api/v1/accounts/nobodys")
    assert await last_use(api) == clock.now(), "a request that fails uses the token, too"


async def test_authentication_is_one_query(api: Api) -> None:
    ada = await api.person()
    await ada.client.get("/api/v1/me")
    with counted(api.context.db) as seen:
        await access.by_token(api.context, ada.token)
        assert len(seen) == 1, seen
        used = await access.by_token(api.context, ada.token, "ada")
    assert len(seen) == 2, "an account is looked for with the token"
    assert used.in_account is not None
    assert used.in_account.account == "ada"


@pytest.mark.parametrize(
    "wish",
    [
        {},
        {"name": ""},
        {"name": "x" * 81},
        {"name": "two\nlines"},
        {"name": "nul\0"},
        {"name": "right\u202eleft"},
        {"name": "x", "expires_in_days": 0},
        {"name": "x", "expires_in_days": 1e9},
        {"name": "x", "expires_in_days": "soon"},
        {"name": "x", "colour": "red"},
    ],
)
async def test_wrong_wishes_are_refused_with_the_field(api: Api, wish: dict[str, object]) -> None:
    ada = await api.person()
    response = await ada.client.post("/api/v1/tokens", json=wish)
    assert response.status_code == 422
    assert response.json()["error"]["field"] in {"name", "expires_in_days", "colour"}


@pytest.mark.parametrize(
    "header", ["", "Bearer", "Bearer ", "Basic cm9vdDpyb290", "Bearer \xff\xfe", "Bearer " + "x" * 20_000]
)
async def test_odd_authorization_headers_are_not_authenticated(api: Api, header: str) -> None:
    response = await api.client.get("/api/v1/me", headers={b"Authorization": header.encode("latin-1")})
    assert response.status_code == 401
    assert response.headers["WWW-Authenticate"] == "Bearer"
    assert "ropewalk login" in response.json()["error"]["advice"]
