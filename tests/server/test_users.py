"""Users, their passwords, logins, the first operator."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pwdlib import PasswordHash
from pwdlib.hashers.argon2 import Argon2Hasher
from sqlalchemy import func, select

from ropewalk.server.db.models import Event, LoginAttempts, Token, User, WebSession
from ropewalk.server.identity import passwords, sessions
from tests.support.api import Api, Person
from tests.support.clock import FakeClock

PASSWORD = "correct horse battery"


async def create(operator: Person, username: str, **wish: object) -> Any:
    return await operator.client.post("/api/v1/users", json={"username": username, "password": PASSWORD} | wish)


async def log_in(api: Api, username: str, password: str = PASSWORD, **wish: object) -> Any:
    return await api.client.post("/api/v1/login", json={"username": username, "password": password} | wish)


async def rows(api: Api, query: Any) -> list[Any]:
    async with api.context.db.read() as session:
        return list(await session.scalars(query))


# Making users


async def test_a_new_user_has_a_personal_account_and_can_log_in(api: Api) -> None:
    root = await api.operator()
    response = await create(root, "ada", email="ada@example.org")
    assert response.status_code == 201
    assert response.json()["email"] == "ada@example.org"
    token = (await log_in(api, "ada")).json()["token"]
    client = await api.connect(token)
    me = (await client.get("/api/v1/me")).json()
    assert me["default_account"] == "ada"
    assert [(a["slug"], a["kind"], a["role"]) for a in me["accounts"]] == [("ada", "personal", "admin")]


async def test_a_user_name_that_is_taken_is_refused_by_whom_it_is_taken(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    await api.team("physics", root="admin")
    again, team = await create(root, "ada"), await create(root, "physics")
    assert (again.status_code, team.status_code) == (409, 409)
    assert "the name of another user" in again.json()["error"]["message"]
    assert "the name of a team account" in team.json()["error"]["message"]
    assert again.json()["error"]["field"] == "username"
    assert await rows(api, select(User.username).order_by(User.username)) == ["ada", "root"]


async def test_of_many_at_once_with_one_name_one_is_made(api: Api) -> None:
    root = await api.operator()
    answers = await asyncio.gather(*(create(root, "ada") for _ in range(6)))
    assert sorted(response.status_code for response in answers) == [201] + [409] * 5


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"username": "Ada"}, "username"),
        ({"username": "-ada"}, "username"),
        ({"username": "a" * 41}, "username"),
        ({"username": "a\0"}, "username"),
        ({"username": None}, "username"),
        ({"password": "too short"}, "password"),
        ({"password": "x" * 1025}, "password"),
        ({"password": 12345678901}, "password"),
        ({"email": "x" * 255}, "email"),
        ({"email": "a\nb"}, "email"),
        ({"admin": True}, "admin"),
    ],
)
async def test_wrong_wishes_are_refused_and_passwords_not_repeated(
    api: Api, wish: dict[str, object], field: str
) -> None:
    root = await api.operator()
    response = await create(root, **({"username": "ada"} | wish))  # type: ignore[arg-type] # wrong types are the point
    assert response.status_code == 422
    assert response.json()["error"]["field"] == field
    assert "too short" not in response.text.replace("is too short", "")
    assert "xxxxx" not in response.text


async def test_operators_list_users_and_others_see_only_themselves(api: Api) -> None:
    root, ada, _eve = await api.operator(), await api.person("ada"), await api.person("eve")
    listed = (await root.client.get("/api/v1/users")).json()
    assert [(user["username"], user["operator"]) for user in listed] == [("ada", False), ("eve", False), ("root", True)]
    assert (await ada.client.get("/api/v1/users/ada")).status_code == 200
    hidden, missing = await ada.client.get("/api/v1/users/eve"), await ada.client.get("/api/v1/users/nix")
    assert hidden.status_code == missing.status_code == 404
    assert hidden.json()["error"]["message"].replace("eve", "nix") == missing.json()["error"]["message"]
    assert (await root.client.get("/api/v1/users/%00")).status_code == 404


# Changing users


async def test_people_change_their_own_password_with_the_current_one(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    client = await api.connect((await log_in(api, "ada")).json()["token"])
    new = "another horse battery"
    without = await client.patch("/api/v1/users/ada", json={"password": new})
    wrong = await client.patch("/api/v1/users/ada", json={"password": new, "current_password": "wrong wrong"})
    assert without.status_code == wrong.status_code == 422
    assert without.json()["error"]["field"] == wrong.json()["error"]["field"] == "current_password"
    assert (await log_in(api, "ada")).status_code == 200
    right = await client.patch("/api/v1/users/ada", json={"password": new, "current_password": PASSWORD})
    assert right.status_code == 200
    assert (await log_in(api, "ada")).status_code == 401
    assert (await log_in(api, "ada", new)).status_code == 200


async def test_guessing_the_current_password_is_slowed_down(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    client = await api.connect((await log_in(api, "ada")).json()["token"])
    wish = {"password": PASSWORD, "current_password": "wrong wrong"}
    answers = [(await client.patch("/api/v1/users/ada", json=wish)).status_code for _ in range(7)]
    assert answers == [422] * 5 + [429] * 2


async def test_an_operator_sets_a_password_without_knowing_the_old_one(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    new = "another horse battery"
    assert (await root.client.patch("/api/v1/users/ada", json={"password": new})).status_code == 200
    assert (await log_in(api, "ada", new)).status_code == 200


async def test_a_new_password_ends_sessions_in_browsers(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    user = (await rows(api, select(User).where(User.username == "ada")))[0]
    cookie = await sessions.begin(api.context, user.id)
    assert await sessions.find(api.context, cookie) is not None
    await root.client.patch("/api/v1/users/ada", json={"password": "another horse battery"})
    assert await sessions.find(api.context, cookie) is None


async def test_an_email_address_can_be_set_and_cleared(api: Api) -> None:
    ada = await api.person("ada")
    assert (await ada.client.patch("/api/v1/users/ada", json={"email": "a@b.c"})).json()["email"] == "a@b.c"
    assert (await ada.client.patch("/api/v1/users/ada", json={})).json()["email"] == "a@b.c"
    assert (await ada.client.patch("/api/v1/users/ada", json={"email": None})).json()["email"] is None


@pytest.mark.parametrize("wish", [{"operator": True}, {"disabled": True}, {"disabled": False}])
async def test_nobody_makes_themselves_an_operator(api: Api, wish: dict[str, bool]) -> None:
    ada, _eve = await api.person("ada"), await api.person("eve")
    assert (await ada.client.patch("/api/v1/users/ada", json=wish)).status_code == 403
    assert (await ada.client.patch("/api/v1/users/eve", json=wish)).status_code == 404
    assert not (await ada.client.get("/api/v1/users/ada")).json()["operator"]


async def test_disabling_a_user_takes_tokens_sessions_and_login_at_once(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    client = await api.connect((await log_in(api, "ada")).json()["token"])
    user = (await rows(api, select(User).where(User.username == "ada")))[0]
    cookie = await sessions.begin(api.context, user.id)
    assert (await root.client.patch("/api/v1/users/ada", json={"disabled": True})).json()["disabled"]
    assert (await client.get("/api/v1/me")).status_code == 401
    assert await sessions.find(api.context, cookie) is None
    refused = await log_in(api, "ada")
    assert refused.status_code == 401
    assert await rows(api, select(Token.id).where(Token.user_id == user.id)) == []
    assert await rows(api, select(WebSession.hash)) == []
    # Enabled again, the old token stays dead.
    await root.client.patch("/api/v1/users/ada", json={"disabled": False})
    assert (await client.get("/api/v1/me")).status_code == 401
    assert (await log_in(api, "ada")).status_code == 200


@pytest.mark.parametrize("wish", [{"operator": False}, {"disabled": True}])
async def test_the_last_operator_stays(api: Api, wish: dict[str, bool]) -> None:
    root = await api.operator()
    response = await root.client.patch("/api/v1/users/root", json=wish)
    assert response.status_code == 409
    assert "last operator" in response.json()["error"]["message"]
    await api.operator("second")
    assert (await root.client.patch("/api/v1/users/root", json=wish)).status_code == 200


async def test_a_disabled_operator_does_not_count(api: Api) -> None:
    root = await api.operator()
    await api.operator("second")
    assert (await root.client.patch("/api/v1/users/second", json={"disabled": True})).status_code == 200
    assert (await root.client.patch("/api/v1/users/root", json={"operator": False})).status_code == 409


async def test_two_operators_cannot_demote_each_other_at_the_same_time(api: Api) -> None:
    first, second = await api.operator("first"), await api.operator("second")
    wish = {"operator": False}
    answers = await asyncio.gather(
        first.client.patch("/api/v1/users/second", json=wish), second.client.patch("/api/v1/users/first", json=wish)
    )
    assert 200 in {response.status_code for response in answers}
    count = await rows(api, select(func.count()).select_from(User).where(User.operator))
    assert count == [1]


# Logging in


async def test_logging_in_again_and_again_numbers_the_tokens(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    answers = [await log_in(api, "ada", token_name="laptop") for _ in range(3)]
    assert [response.json()["name"] for response in answers] == ["laptop", "laptop (2)", "laptop (3)"]
    assert answers[0].headers["Cache-Control"] == "no-store"
    longest = [(await log_in(api, "ada", token_name="x" * 80)).json()["name"] for _ in range(2)]
    assert longest == ["x" * 80, "x" * 76 + " (2)"]


async def test_logins_at_the_same_time_all_succeed(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    answers = await asyncio.gather(*(log_in(api, "ada") for _ in range(5)))
    assert {response.status_code for response in answers} == {200}
    assert len({response.json()["name"] for response in answers}) == 5


async def test_a_login_says_how_long_its_token_lasts(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    assert (await log_in(api, "ada")).json()["expires_at"] == "2026-04-02T03:04:05Z"
    assert (await log_in(api, "ada", expires_in_days=1)).json()["expires_at"] == "2026-01-03T03:04:05Z"
    assert (await log_in(api, "ada", expires_in_days=None)).json()["expires_at"] is None


async def test_a_failed_login_does_not_tell_what_was_wrong(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    await create(root, "off")
    await root.client.patch("/api/v1/users/off", json={"disabled": True})
    answers = [
        await log_in(api, "ada", "wrong wrong"),
        await log_in(api, "nobody"),
        await log_in(api, "off"),
        await log_in(api, "Not A Name\0"),
    ]
    assert {response.status_code for response in answers} == {401}
    assert len({response.json()["error"]["message"] for response in answers}) == 1


@pytest.mark.parametrize("username", ["ada", "nobody", "no name at all"])
async def test_every_login_hashes_once_whether_or_not_the_user_exists(
    api: Api, monkeypatch: pytest.MonkeyPatch, username: str
) -> None:
    """The same work, so the same time."""
    root = await api.operator()
    await create(root, "ada")
    await log_in(api, "nobody")  # makes the hash that stands in for a missing one
    calls: list[str] = []
    verify = passwords.HASHER.verify_and_update

    def counting(password: str, stored: str) -> tuple[bool, str | None]:
        calls.append(stored.split("$")[3])  # argon2's parameters
        return verify(password, stored)

    monkeypatch.setattr(passwords.HASHER, "verify_and_update", counting)
    assert (await log_in(api, username, "wrong wrong")).status_code == 401
    assert calls == ["m=8,t=1,p=1"]


async def test_a_password_is_hashed_anew_when_the_parameters_change(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    root = await api.operator()
    await create(root, "ada")
    stronger = PasswordHash((Argon2Hasher(time_cost=2, memory_cost=16, parallelism=1),))
    monkeypatch.setattr(passwords, "HASHER", stronger)
    assert (await log_in(api, "ada")).status_code == 200
    stored = (await rows(api, select(User.password_hash).where(User.username == "ada")))[0]
    assert "m=16,t=2,p=1" in stored
    assert (await log_in(api, "ada")).status_code == 200


async def test_a_hash_of_no_known_kind_lets_nobody_in(api: Api) -> None:
    await api.person("ada")
    assert (await log_in(api, "ada", "!")).status_code == 401


async def test_hashing_leaves_the_event_loop_free() -> None:
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            await asyncio.sleep(0)
            ticks += 1

    ticking = asyncio.create_task(tick())
    await passwords.hash_password(PASSWORD)
    ticking.cancel()
    assert ticks > 0


# Guessing


async def test_guessing_is_slowed_down_more_and_more(api: Api, clock: FakeClock) -> None:
    root = await api.operator()
    await create(root, "ada")
    for _ in range(5):
        assert (await log_in(api, "ada", "wrong wrong")).status_code == 401
    waits = []
    for _ in range(12):
        refused = await log_in(api, "ada")
        assert refused.status_code == 429, "even the right password has to wait"
        waits.append(int(refused.headers["Retry-After"]))
        clock.advance(waits[-1])
        assert (await log_in(api, "ada", "wrong wrong")).status_code == 401
    assert waits == [1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 900, 900]
    clock.advance(900)
    assert (await log_in(api, "ada")).status_code == 200
    assert (await log_in(api, "ada", "wrong wrong")).status_code == 401, "and then all is forgotten"


async def test_tries_at_the_same_time_gain_nothing(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    answers = await asyncio.gather(*(log_in(api, "ada", f"wrong wrong {i}") for i in range(20)))
    assert sorted(response.status_code for response in answers) == [401] * 5 + [429] * 15


async def test_nobody_can_lock_a_user_out_at_another_address(api: Api) -> None:
    root = await api.operator()
    await create(root, "ada")
    attacker = await api.connect(address="203.0.113.9")
    for _ in range(8):
        await attacker.post("/api/v1/login", json={"username": "ada", "password": "wrong wrong"})
    assert (await log_in(api, "ada")).status_code == 200


@pytest.mark.parametrize(
    "addresses", [["2001:db8::1", "2001:db8::2", "2001:db8::3"], ["not an address"], ["198.51.100.7"]]
)
async def test_an_address_is_slowed_down_whichever_users_it_tries(api: Api, addresses: list[str]) -> None:
    clients = [await api.connect(address=address) for address in addresses]
    answers = []
    for i in range(54):
        client = clients[i % len(clients)]
        wish = {"username": f"user-{i}", "password": PASSWORD}
        answers.append((await client.post("/api/v1/login", json=wish)).status_code)
    assert answers == [401] * 50 + [429] * 4


async def test_what_is_counted_is_forgotten_and_removed_after_an_hour(api: Api, clock: FakeClock) -> None:
    await log_in(api, "nobody")
    assert len(await rows(api, select(LoginAttempts.key))) == 2
    clock.advance(hours=1, seconds=1)
    await log_in(api, "other")
    assert len(await rows(api, select(LoginAttempts.key))) == 2


async def test_failed_logins_are_in_the_audit_trail_but_not_what_was_entered_as_a_name(api: Api) -> None:
    await api.person("ada")
    await log_in(api, "ada", "wrong wrong")
    await log_in(api, "my-password-typed-as-a-name")
    found = await rows(api, select(Event).where(Event.code == "user.login_failed"))
    assert [event.details for event in found] == [{"username": "ada", "address": "127.0.0.1"}, {"address": "127.0.0.1"}]
    assert [event.message for event in found] == ["A login as 'ada' failed.", "A login with an unknown name failed."]


# The first operator


async def set_up(api: Api, code: str | None = None, **wish: object) -> Any:
    if code is None:
        code = (api.context.settings.data_dir / "setup-code").read_text()
    body = {"code": code, "username": "root", "password": PASSWORD} | wish
    return await api.client.post("/api/v1/setup", json=body)


async def test_the_set_up_code_makes_the_first_operator_once(api: Api) -> None:
    file = api.context.settings.data_dir / "setup-code"
    code = file.read_text()
    assert file.stat().st_mode & 0o777 == 0o600
    made = await set_up(api)
    assert made.status_code == 201
    assert made.headers["Cache-Control"] == "no-store"
    me = (await (await api.connect(made.json()["token"])).get("/api/v1/me")).json()
    assert me["user"]["operator"]
    assert not file.exists()
    again = await set_up(api, code, username="second")
    assert again.status_code == 409
    assert "set up already" in again.json()["error"]["message"]


async def test_a_wrong_set_up_code_is_refused_and_slowed_down(api: Api) -> None:
    answers = [await set_up(api, f"wrong-{i}") for i in range(12)]
    assert [response.status_code for response in answers] == [401] * 10 + [429] * 2
    assert "setup-code" in answers[0].json()["error"]["advice"]
    assert str(api.context.settings.data_dir) not in answers[0].text


async def test_a_set_up_that_fails_leaves_the_code_usable(api: Api) -> None:
    await api.person("root")
    assert (await set_up(api)).status_code == 409
    assert (await set_up(api, username="boss")).status_code == 201


async def test_two_set_ups_at_the_same_time_make_one_operator(api: Api) -> None:
    code = (api.context.settings.data_dir / "setup-code").read_text()
    answers = await asyncio.gather(*(set_up(api, code, username=f"root-{i}") for i in range(4)))
    assert sorted(response.status_code for response in answers) == [201, 409, 409, 409]
    assert await rows(api, select(func.count()).select_from(User)) == [1]
