"""Login of a terminal by a browser: the codes, the page, and that nobody else can do it."""

from __future__ import annotations

import asyncio
import re
from typing import Any

import httpx
import pytest
from sqlalchemy import func, select, text

from ropewalk.server.app import create_app
from ropewalk.server.db.models import DeviceLogin, WebSession
from ropewalk.server.identity import devices
from ropewalk.server.settings import Settings
from tests.support.api import Api, Person
from tests.support.clock import FakeClock

PASSWORD = "correct horse battery"


async def start(api: Api, name: str = "ada's laptop", address: str = "198.51.100.7") -> dict[str, Any]:
    terminal = await api.connect(address=address)
    response = await terminal.post("/api/v1/device", json={"client_name": name})
    assert response.status_code == 200, response.text
    made: dict[str, Any] = response.json()
    return made


async def poll(api: Api, login: dict[str, Any]) -> httpx.Response:
    return await api.client.post("/api/v1/device/token", json={"device_code": login["device_code"]})


async def create(api: Api, username: str = "ada") -> Person:
    root = await api.operator()
    wish = {"username": username, "password": PASSWORD}
    assert (await root.client.post("/api/v1/users", json=wish)).status_code == 201
    return root


class Browser:
    """Follows pages as a person does: fills in forms with what is hidden in them."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.page = httpx.Response(200)

    async def open(self, path: str) -> httpx.Response:
        self.page = await self.client.get(path, follow_redirects=True)
        return self.page

    async def submit(self, action: str, **fields: str) -> httpx.Response:
        form = re.search(rf'<form method="post" action="{re.escape(action)}">.*?</form>', self.page.text, re.DOTALL)
        assert form, f"no form {action} in: {self.page.text}"
        hidden = dict(re.findall(r'<input type="hidden" name="(\w+)" value="([^"]*)">', form[0]))
        self.page = await self.client.post(action, data=hidden | fields, follow_redirects=True)
        return self.page

    async def sign_in(self, username: str = "ada", password: str = PASSWORD) -> httpx.Response:
        return await self.submit("/sign-in", username=username, password=password)


async def browser(api: Api, **where: str) -> Browser:
    return Browser(await api.connect(**where))


def path(login: dict[str, Any]) -> str:
    complete: str = login["verification_uri_complete"]
    return complete[complete.index("/device") :]


# The whole way


async def test_a_terminal_is_logged_in_by_a_browser(api: Api, clock: FakeClock) -> None:
    root = await create(api)
    login = await start(api)
    assert login["verification_uri"] == f"{api.context.settings.public_url}/device"
    assert (await poll(api, login)).json() == {"status": "authorization_pending", "token": None, "username": None}
    person = await browser(api)
    assert "Sign in to Ropewalk" in (await person.open(path(login))).text
    page = (await person.sign_in()).text
    assert login["user_code"] in page
    assert "ada&#39;s laptop" in page
    assert "198.51.100.7" in page
    assert "Approved" in (await person.submit("/device", decision="approve")).text
    clock.advance(2)
    answer = (await poll(api, login)).json()
    assert (answer["status"], answer["username"], answer["token"]["name"]) == ("approved", "ada", "ada's laptop")
    me = await (await api.connect(answer["token"]["token"])).get("/api/v1/me")
    assert me.json()["user"]["username"] == "ada"
    events = (await root.client.get("/api/v1/audit")).json()
    approved = next(event for event in events if event["code"] == "device.approved")
    assert (approved["actor"], approved["details"]["client_address"]) == ("ada", "198.51.100.7")


async def test_a_person_can_type_the_code_in_any_form(api: Api) -> None:
    await create(api)
    login = await start(api)
    person = await browser(api)
    await person.open("/device")
    assert "The code that your terminal shows" in (await person.sign_in()).text
    for typed in (login["user_code"].lower(), login["user_code"].replace("-", " "), f"  {login['user_code']} "):
        page = await person.open(f"/device?{httpx.QueryParams({'user_code': typed})}")
        assert "Let this terminal act as you?" in page.text


async def test_a_denied_login_gets_no_token(api: Api) -> None:
    await create(api)
    login = await start(api)
    person = await browser(api)
    await person.open(path(login))
    await person.sign_in()
    assert "gets no access" in (await person.submit("/device", decision="deny")).text
    assert (await poll(api, login)).json() == {"status": "access_denied", "token": None, "username": None}


# Codes


async def test_user_codes_have_no_vowels_and_no_lookalikes(api: Api) -> None:
    codes = [(await start(api))["user_code"] for _ in range(20)]
    assert all(re.fullmatch(r"[B-DF-HJ-NP-TV-XZ]{4}-[B-DF-HJ-NP-TV-XZ]{4}", code) for code in codes)
    assert len(set(codes)) == 20


async def test_codes_are_not_stored(api: Api) -> None:
    login = await start(api)
    async with api.context.db.read() as session:
        rows = repr((await session.execute(text("SELECT * FROM device_logins"))).all())
    assert login["device_code"] not in rows
    assert login["user_code"] not in rows
    assert login["user_code"].replace("-", "") not in rows


async def test_a_login_expires_after_ten_minutes(api: Api, clock: FakeClock) -> None:
    await create(api)
    login = await start(api)
    assert login["expires_in"] == 600
    person = await browser(api)
    await person.open("/device")
    await person.sign_in()
    clock.advance(minutes=10)
    assert (await poll(api, login)).json()["status"] == "expired_token"
    page = await person.open(path(login))
    assert page.status_code == 404
    assert "No login waits for this code" in page.text
    await start(api)
    async with api.context.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(DeviceLogin)) == 1


@pytest.mark.parametrize("device_code", ["", "rwd_unknown", "x" * 200, "\0", "ü"])
async def test_an_unknown_device_code_is_as_an_expired_one(api: Api, device_code: str) -> None:
    response = await api.client.post("/api/v1/device/token", json={"device_code": device_code})
    assert response.json()["status"] == "expired_token"


# Polling and handing over


async def test_polling_too_often_is_slowed_down(api: Api, clock: FakeClock) -> None:
    login = await start(api)
    assert login["interval"] == 2
    assert (await poll(api, login)).status_code == 200
    clock.advance(1)
    refused = await poll(api, login)
    assert refused.status_code == 429
    assert refused.headers["Retry-After"] == "2"
    assert refused.json()["error"]["details"]["error"] == "slow_down"
    clock.advance(0.9)
    assert (await poll(api, login)).status_code == 200, "sent in time, it may arrive a little early"


async def approve(api: Api, login: dict[str, Any], username: str = "ada") -> None:
    person = await browser(api)
    await person.open(path(login))
    await person.sign_in(username)
    assert "Approved" in (await person.submit("/device", decision="approve")).text


async def test_a_token_is_handed_over_exactly_once(api: Api) -> None:
    await create(api)
    login = await start(api)
    await approve(api, login)
    answers = [response.json() for response in await asyncio.gather(*(poll(api, login) for _ in range(8)))]
    assert sorted(answer["status"] for answer in answers) == ["approved"] + ["expired_token"] * 7
    assert sum(answer["token"] is not None for answer in answers) == 1


async def test_a_decision_is_final(api: Api) -> None:
    await create(api)
    login = await start(api)
    one, two = await browser(api), await browser(api)
    for person in (one, two):
        await person.open(path(login))
        await person.sign_in()
    await asyncio.gather(one.submit("/device", decision="approve"), two.submit("/device", decision="deny"))
    assert sorted((one.page.status_code, two.page.status_code)) == [200, 404]


async def test_a_user_who_was_disabled_meanwhile_gets_no_token(api: Api) -> None:
    root = await create(api)
    login = await start(api)
    await approve(api, login)
    await root.client.patch("/api/v1/users/ada", json={"disabled": True})
    assert (await poll(api, login)).json()["token"] is None


# Abuse


async def test_starting_logins_is_bounded(api: Api, monkeypatch: pytest.MonkeyPatch, clock: FakeClock) -> None:
    monkeypatch.setattr(devices, "MAX_PENDING_PER_ADDRESS", 3)
    monkeypatch.setattr(devices, "MAX_PENDING", 5)
    for _ in range(3):
        await start(api)
    noisy, quiet = await api.connect(address="198.51.100.7"), await api.connect(address="203.0.113.1")
    assert (await noisy.post("/api/v1/device", json={})).status_code == 429
    assert [(await quiet.post("/api/v1/device", json={})).status_code for _ in range(3)] == [200, 200, 429]
    clock.advance(minutes=10)
    assert (await noisy.post("/api/v1/device", json={})).status_code == 200


async def test_guessing_user_codes_is_slowed_down(api: Api) -> None:
    await create(api)
    person = await browser(api)
    await person.open("/device")
    await person.sign_in()
    answers = [(await person.open(f"/device?user_code=BBBB-BBB{c}")).status_code for c in "BCDFGHJKLMNPQ"]
    assert answers == [404] * 10 + [429] * 3


@pytest.mark.parametrize("name", ["", "x" * 81, "two\nlines", "\u202eevil"])
async def test_odd_client_names_are_refused(api: Api, name: str) -> None:
    assert (await api.client.post("/api/v1/device", json={"client_name": name})).status_code == 422


async def test_a_client_name_cannot_put_markup_into_the_page(api: Api) -> None:
    await create(api)
    login = await start(api, "<script>alert(1)</script>")
    person = await browser(api)
    await person.open(path(login))
    page = (await person.sign_in()).text
    assert "<script>" not in page
    assert "&lt;script&gt;" in page


async def test_a_code_in_the_address_cannot_put_markup_into_the_page(api: Api) -> None:
    page = await (await browser(api)).open("/device?user_code=%22%3E%3Cscript%3E")
    assert "<script>" not in page.text


# Forms and sessions


async def test_a_form_of_another_site_approves_nothing(api: Api) -> None:
    await create(api)
    login = await start(api)
    person = await browser(api)
    await person.open(path(login))
    await person.sign_in()
    for csrf in ("", "0" * 64, "ü"):
        fields = {"user_code": login["user_code"], "decision": "approve", "csrf": csrf}
        assert (await person.client.post("/device", data=fields)).status_code == 403
    assert (await poll(api, login)).json()["status"] == "authorization_pending"


async def test_a_csrf_token_is_worth_nothing_in_another_session(api: Api) -> None:
    root = await create(api)
    await root.client.post("/api/v1/users", json={"username": "eve", "password": PASSWORD})
    login = await start(api)
    ada, eve = await browser(api), await browser(api)
    await eve.open(path(login))
    theirs = re.findall(r'name="csrf" value="([^"]*)"', (await eve.sign_in("eve")).text)
    await ada.open(path(login))
    await ada.sign_in()
    fields = {"user_code": login["user_code"], "decision": "approve", "csrf": theirs[0]}
    assert (await ada.client.post("/device", data=fields)).status_code == 403


async def test_signing_in_needs_the_page_s_own_form(api: Api) -> None:
    """Else another site could sign a person in as somebody else."""
    await create(api)
    client = await api.connect()
    fields = {"username": "ada", "password": PASSWORD, "csrf": "0" * 64}
    assert (await client.post("/sign-in", data=fields)).status_code == 403
    await client.get("/sign-in")
    assert (await client.post("/sign-in", data=fields)).status_code == 403
    assert "ropewalk_session" not in client.cookies


async def test_a_wrong_password_shows_the_form_again_with_the_code_kept(api: Api) -> None:
    await create(api)
    login = await start(api)
    person = await browser(api)
    await person.open(path(login))
    page = await person.sign_in(password="wrong wrong")
    assert page.status_code == 401
    assert "The user name or the password is wrong" in page.text
    assert login["user_code"] in page.text
    assert login["user_code"] in (await person.sign_in()).text


async def test_guessing_passwords_on_the_page_is_slowed_down_too(api: Api) -> None:
    await create(api)
    person = await browser(api)
    await person.open("/device")
    answers = [(await person.sign_in(password="wrong wrong")).status_code for _ in range(7)]
    assert answers == [401] * 5 + [429] * 2


async def test_without_a_session_a_decision_leads_to_the_sign_in(api: Api) -> None:
    login = await start(api)
    response = await api.client.post("/device", data={"decision": "approve", "user_code": login["user_code"]})
    assert (response.status_code, response.headers["Location"]) == (303, "/sign-in?next=%2F")


async def test_a_session_ends_at_sign_out_and_after_a_day_of_work(api: Api, clock: FakeClock) -> None:
    await create(api)
    person, other = await browser(api), await browser(api)
    for each in (person, other):
        await each.open("/device")
        await each.sign_in()
    stolen = person.client.cookies["ropewalk_session"]
    assert "Sign in" in (await person.submit("/sign-out")).text
    thief = await api.connect()
    thief.cookies.set("ropewalk_session", stolen, domain=api.client.base_url.host)
    assert "Sign in to Ropewalk" in (await thief.get("/device", follow_redirects=True)).text
    assert "Approve a login" in (await other.open("/device")).text
    clock.advance(hours=12)
    assert "Sign in to Ropewalk" in (await other.open("/device")).text


async def test_sessions_are_stored_hashed_and_old_ones_removed(api: Api, clock: FakeClock) -> None:
    await create(api)
    for _ in range(2):
        person = await browser(api)
        await person.open("/device")
        await person.sign_in()
        clock.advance(hours=13)
    async with api.context.db.read() as session:
        hashes = list(await session.scalars(select(WebSession.hash)))
    assert len(hashes) == 1
    assert person.client.cookies["ropewalk_session"] not in hashes[0]


async def test_a_session_cookie_opens_no_route_of_the_api(api: Api) -> None:
    """So no form of another site can reach the API."""
    await create(api)
    person = await browser(api)
    await person.open("/device")
    await person.sign_in()
    assert (await person.client.get("/api/v1/me")).status_code == 401


async def test_cookies_are_hidden_from_scripts_and_other_sites(api: Api) -> None:
    await create(api)
    client = await api.connect()
    page = await client.get("/sign-in")
    csrf = re.findall(r'name="csrf" value="([^"]*)"', page.text)[0]
    response = await client.post("/sign-in", data={"username": "ada", "password": PASSWORD, "csrf": csrf})
    cookies = [*page.headers.get_list("set-cookie"), *response.headers.get_list("set-cookie")]
    made = [cookie for cookie in cookies if "Max-Age=0" not in cookie]
    assert len(made) == 2
    assert all("HttpOnly" in cookie and "SameSite=lax" in cookie and "Secure" not in cookie for cookie in made)


async def test_over_https_the_session_cookie_is_bound_to_the_host(settings: Settings, clock: FakeClock) -> None:
    secure = settings.model_copy(update={"public_url": "https://ropewalk.example.org"})
    app = create_app(secure, clock=clock)
    async with app.router.lifespan_context(app), Api(app) as api:
        await create(api)
        client = await api.connect()
        form = await client.get("/sign-in")
        assert form.headers["set-cookie"].startswith("__Host-ropewalk_form=")
        csrf = re.findall(r'name="csrf" value="([^"]*)"', form.text)[0]
        response = await client.post("/sign-in", data={"username": "ada", "password": PASSWORD, "csrf": csrf})
        cookie = next(c for c in response.headers.get_list("set-cookie") if "session=" in c)
        assert cookie.startswith("__Host-ropewalk_session=")
        assert "Secure" in cookie
        assert "Domain" not in cookie
        assert "Approve a login" in (await client.get("/device")).text


@pytest.mark.parametrize("fields", [{"decision": "maybe"}, {}, {"decision": "approve", "user_code": "x" * 99}])
async def test_a_form_that_is_not_ours_is_refused_with_a_page(api: Api, fields: dict[str, str]) -> None:
    await create(api)
    person = await browser(api)
    await person.open("/device")
    await person.sign_in()
    page = await person.client.post("/device", data=fields)
    assert page.status_code == 422
    assert page.headers["Content-Type"].startswith("text/html")
