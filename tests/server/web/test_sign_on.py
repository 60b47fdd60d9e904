"""Single sign-on against a provider in a process of its own."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import SecretStr
from sqlalchemy import select

from ropewalk.errors import SettingsError
from ropewalk.server.app import create_app
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.db.models import Identity, User
from ropewalk.server.identity.sign_on import Attempt, make_provider
from ropewalk.server.settings import Settings
from tests.server.web.test_sign_in import PASSWORD, visitor
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.oidc_provider import CLIENT, SECRET, Provider, provider
from tests.support.pages import Visitor
from tests.support.waiting import PATIENCE

ONE_DATABASE = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Of tests in which the database does nothing that others do not try on both."""


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than a server does for a provider that takes no time unless the machine is busy."""
    monkeypatch.setattr("ropewalk.server.identity.oidc.TIMEOUT", PATIENCE)


@pytest.fixture(scope="module")
def running() -> Iterator[Provider]:
    with provider() as made:
        yield made


@pytest.fixture
def oidc(running: Provider, clock: FakeClock) -> Provider:
    """The provider, honest, and with the time of the server's clock."""
    running.control(now=int(clock.now().timestamp()))
    return running


@pytest.fixture
def wishes() -> dict[str, Any]:
    """Settings that a test changes, by parametrizing this."""
    return {}


@pytest.fixture
async def app(
    settings: Settings, clock: FakeClock, backends: Backends, running: Provider, wishes: dict[str, Any]
) -> AsyncIterator[FastAPI]:
    own = {"oidc_issuer": running.issuer, "oidc_client_id": CLIENT, "oidc_client_secret": SecretStr(SECRET)}
    given = settings.model_copy(update={**own, "oidc_name": "Example Identity", **wishes})
    made = create_app(given, clock=clock, backends=backends)
    async with made.router.lifespan_context(made):
        yield made


def told(oidc: Provider, clock: FakeClock, **wishes: Any) -> None:
    oidc.control(now=int(clock.now().timestamp()), **wishes)


async def go(browser: Visitor, path: str = "/sign-in/sso") -> str:
    """Begin to sign in; return where the browser is sent."""
    answer = await browser.client.get(path)
    assert answer.status_code == 303, answer.text
    return str(answer.headers["Location"])


async def sign_in(api: Api, oidc: Provider, person: str, wanted: str = "/profile") -> Visitor:
    """Return a browser in which *person* came back from the provider."""
    browser = await Visitor.make(api)
    back = oidc.decide(await go(browser, f"/sign-in/sso?next={wanted}"), person)
    await browser.open(back)
    return browser


async def identities(api: Api) -> list[tuple[str, str]]:
    async with api.context.db.read() as session:
        query = select(Identity.subject, User.username).join(User, User.id == Identity.user_id)
        return sorted((subject, name) for subject, name in await session.execute(query))


async def test_a_new_person_gets_a_user_and_comes_back_to_where_they_wanted_to_go(
    api: Api, oidc: Provider, clock: FakeClock
) -> None:
    people = {"mia": {"preferred_username": "Mia.M", "email": "mia@example.org", "email_verified": True}}
    told(oidc, clock, people=people)
    mia = await sign_in(api, oidc, "mia", "/device?user_code=BCDF-GHJK")
    assert mia.page.url.path == "/device", "so a terminal's login works by single sign-on, too"
    await mia.open("/profile")
    for part in ("mia-m", "mia@example.org", "You can sign in with it since", "You have no password"):
        assert part in mia.text
    assert "New password" not in mia.text
    again = await sign_in(api, oidc, "mia")
    assert "mia-m" in again.text
    assert await identities(api) == [("id-of-mia", "mia-m")]
    await again.submit("/sign-out")
    assert "You are signed out" in again.text
    assert "Continue with Example Identity" in again.text


async def test_nobody_becomes_somebody_else_by_a_name_or_an_address(api: Api, oidc: Provider, clock: FakeClock) -> None:
    await visitor(api)
    people = {"eve": {"preferred_username": "ada", "email": "ada@example.org", "email_verified": False}}
    told(oidc, clock, people=people)
    eve = await sign_in(api, oidc, "eve")
    assert "ada-2" in eve.text
    assert "not set" in eve.text, "an address that is not verified is not kept"


@ONE_DATABASE
async def test_an_answer_that_was_not_asked_for_in_this_browser_is_refused(api: Api, oidc: Provider) -> None:
    eve, victim = await Visitor.make(api), await Visitor.make(api)
    back = oidc.decide(await go(eve), "eve")
    await victim.open(back)
    assert victim.page.status_code == 401
    assert "not begun in this browser" in victim.text
    await go(victim)
    await victim.open(back)
    assert "not begun in this browser" in victim.text, "nor by one that begins one of its own"
    assert (await victim.open("/profile")).url.path == "/sign-in"
    await eve.open(back)
    again = await eve.open(back)
    assert again.status_code == 401, "an answer is good for one sign-in"
    assert await identities(api) == [("id-of-eve", "user")]


UNBELIEVABLE: tuple[tuple[dict[str, Any], str], ...] = (
    ({"claims": {"nonce": "of another request"}}, "wrong nonce"),
    ({"claims": {"exp": 1}}, "has expired"),
    ({"claims": {"iss": "https://other.example"}}, "wrong iss"),
    ({"claims": {"aud": "another-client"}}, "wrong aud"),
    ({"claims": {"sub": ""}}, "names nobody"),
    ({"forge": True}, "not signed by one of its keys"),
    ({"answer": {"iss": "https://other.example"}}, "another issuer"),
    ({"answer": {"code": "made-up"}}, "invalid_grant"),
)


@ONE_DATABASE
async def test_what_cannot_be_believed_lets_nobody_in_and_says_what_is_wrong(
    api: Api, oidc: Provider, clock: FakeClock
) -> None:
    for wish, said in UNBELIEVABLE:
        told(oidc, clock, **wish)
        eve = await sign_in(api, oidc, "eve")
        assert eve.page.status_code == 401, wish
        assert said in eve.text, wish
        assert "Password" in eve.text, "the other way in stays open"
    assert await identities(api) == []


@ONE_DATABASE
async def test_who_says_no_at_the_provider_is_told_so(api: Api, oidc: Provider) -> None:
    browser = await Visitor.make(api)
    await browser.open(oidc.decide(await go(browser), "mia", say="no"))
    assert "you or it said no" in browser.text


@ONE_DATABASE
async def test_keys_that_the_provider_changed_are_looked_for(api: Api, oidc: Provider) -> None:
    await sign_in(api, oidc, "mia")
    oidc.rotate()
    before = oidc.asked().count("/jwks")
    mia = await sign_in(api, oidc, "mia")
    assert mia.page.url.path == "/profile"
    await sign_in(api, oidc, "mia")
    assert oidc.asked().count("/jwks") == before + 1


@ONE_DATABASE
async def test_without_the_provider_a_password_still_works(
    api: Api, oidc: Provider, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("ropewalk.server.identity.oidc.RETRY_SECONDS", 600)
    ada = await visitor(api)
    for wish in (
        {"status": 503},
        {"metadata": {"issuer": "https://other.example"}},
        {"metadata": {"jwks_uri": "file:///x"}},
    ):
        told(oidc, clock, **wish)
        page = await ada.open("/sign-in/sso?next=/profile")
        assert page.status_code == 503
        assert "Sign in with a password" in ada.text
        before = len(oidc.asked())
        await ada.open("/sign-in/sso?next=/profile")
        assert len(oidc.asked()) == before, "it is not asked again at once"
        monkeypatch.setattr(api.context.provider, "_failed", None)
    await ada.submit("/sign-in", username="ada", password=PASSWORD)
    assert ada.page.url.path == "/profile"


@pytest.mark.parametrize(
    "wishes", [{"oidc_create_users": False, "oidc_domains": "example.org", "oidc_operators": "groups=ops"}]
)
async def test_the_operator_says_who_may_come_and_who_is_an_operator(
    api: Api, oidc: Provider, clock: FakeClock, wishes: dict[str, Any]
) -> None:
    good = {"email": "x@Example.org", "email_verified": True}
    ops = {"userinfo": {"groups": ["ops"]}}
    told(oidc, clock, people={"mia": {"email": "mia@evil.example", "email_verified": True}})
    assert "may not sign in here" in (await sign_in(api, oidc, "mia")).text
    told(oidc, clock, people={"mia": good | {"email_verified": False}})
    assert "is verified" in (await sign_in(api, oidc, "mia")).text
    told(oidc, clock, people={"mia": good})
    assert "single sign-on alone makes none" in (await sign_in(api, oidc, "mia")).text
    assert await identities(api) == []
    boss = await api.operator("boss")
    await api.team("physics", boss="admin")
    link = (await boss.client.post("/api/v1/accounts/physics/invitations", json={})).json()["url"]
    path = link.removeprefix(api.context.settings.public_url)
    told(oidc, clock, people={"mia": good}, **ops)
    mia = await sign_in(api, oidc, "mia", path)
    assert mia.page.url.path == "/accounts/physics/clusters"
    assert "Welcome" in mia.text
    assert "operator of this server" in (await mia.open("/profile")).text
    told(oidc, clock, people={"mia": good})
    assert "operator of this server" not in (await sign_in(api, oidc, "mia")).text


async def test_a_user_with_a_password_connects_and_disconnects(api: Api, oidc: Provider) -> None:
    ada = await visitor(api)
    await ada.open("/sign-in?next=/profile")
    await ada.submit("/sign-in", username="ada", password=PASSWORD)
    await ada.submit("/profile/single-sign-on")
    url = re.findall(r'href="(http[^"]+/authorize[^"]+)"', ada.page.text)[0].replace("&amp;", "&")
    back = oidc.decide(url, "somebody")
    eve = await Visitor.make(api)
    await eve.open(back)
    assert await identities(api) == [], "a link that ada clicks, or that is clicked for her, connects nothing elsewhere"
    await ada.open(back)
    assert "Single sign-on works for you" in ada.text
    assert "ada" in (await sign_in(api, oidc, "somebody")).text
    assert await identities(api) == [("id-of-somebody", "ada")]
    await ada.open("/profile")
    await ada.submit("/profile/single-sign-on/end")
    assert "does not work for you" in ada.text
    assert await identities(api) == []


async def test_a_person_who_is_another_user_is_not_connected_and_a_disabled_one_not_let_in(
    api: Api, oidc: Provider
) -> None:
    mia = await sign_in(api, oidc, "mia")
    root = await api.operator()
    ada = await Visitor.make(api, "root")
    await ada.open("/profile")
    await ada.submit("/profile/single-sign-on")
    url = re.findall(r'href="(http[^"]+/authorize[^"]+)"', ada.page.text)[0].replace("&amp;", "&")
    page = await ada.open(oidc.decide(url, "mia"))
    assert page.status_code == 409
    assert "another user here" in ada.text
    await root.client.patch("/api/v1/users/user", json={"disabled": True})
    assert (await mia.open("/profile")).url.path == "/sign-in"
    assert "is disabled" in (await sign_in(api, oidc, "mia")).text


def test_what_follows_from_a_secret_differs_and_a_cookie_that_is_none_is_told() -> None:
    attempt = Attempt.begin("/x")
    assert len({attempt.secret, attempt.state, attempt.nonce, attempt.verifier}) == 4
    assert Attempt.of(attempt.cookie) == attempt
    for cookie in ("", "x", "e30=", "WyJ4IiwgIi8iLCAiIl0="):
        assert Attempt.of(cookie) is None


def test_the_secret_is_read_from_a_file_that_nobody_else_can_read(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    file.write_text(f"{SECRET}\n")
    file.chmod(0o644)
    issuer = "https://id.example"
    settings = Settings(data_dir=tmp_path, oidc_issuer=issuer, oidc_client_id=CLIENT, oidc_client_secret_file=file)
    with pytest.raises(SettingsError, match="can be used by other users"):
        make_provider(settings)
    file.chmod(0o600)
    made = make_provider(settings)
    assert made is not None
    assert made.client.secret == SECRET
    assert SECRET not in repr(made.client)
    file.unlink()
    with pytest.raises(SettingsError, match="cannot be read"):
        make_provider(settings)
