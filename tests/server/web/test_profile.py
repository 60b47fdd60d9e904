"""Password, sessions and tokens in the browser."""

from __future__ import annotations

import re

import pytest

from ropewalk.server.identity.browsers import name_of
from tests.server.web.test_sign_in import PASSWORD, visitor
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.pages import Visitor


async def signed_in(api: Api) -> Visitor:
    """Return ada, by the form: she has a password."""
    ada = await visitor(api)
    await ada.open("/sign-in?next=/profile")
    await ada.submit("/sign-in", username="ada", password=PASSWORD)
    return ada


async def test_a_new_password_ends_other_sessions_and_keeps_this_one(api: Api) -> None:
    ada = await signed_in(api)
    other = await Visitor.make(api, "ada")
    await ada.submit("/profile/password", current=PASSWORD, password="another good one")
    assert "Your password was changed" in ada.text
    assert (await other.open("/profile")).url.path == "/sign-in"
    await other.submit("/sign-in", username="ada", password="another good one")
    assert other.page.url.path == "/profile"


@pytest.mark.parametrize(
    ("current", "new", "said", "field"),
    [
        ("guess", "another good one", "The current password is wrong", "current"),
        (PASSWORD, "x", "at least", "password"),
    ],
)
async def test_a_refused_password_says_which_field(api: Api, current: str, new: str, said: str, field: str) -> None:
    ada = await signed_in(api)
    page = await ada.submit("/profile/password", current=current, password=new)
    assert page.status_code == 422
    assert said in ada.text
    assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]


async def test_one_sees_ones_sessions_and_ends_them_but_nobody_elses(api: Api) -> None:
    await api.person("ada")
    await api.person("eve")
    ada, phone, eve = [await Visitor.make(api, name) for name in ("ada", "ada", "eve")]
    page = await ada.open("/profile")
    assert page.text.count('action="/profile/sessions/end"') == 1, "this one is ended by signing out"
    fields = ada.fields("/profile/sessions/end")
    await eve.open("/profile/tokens")
    stolen = {**eve.fields("/profile/tokens"), "session": fields["session"]}
    await eve.client.post("/profile/sessions/end", data=stolen)
    assert (await phone.open("/profile")).url.path == "/profile"
    await ada.open("/profile")
    await ada.submit("/profile/sessions/end")
    assert (await phone.open("/profile")).url.path == "/sign-in"
    assert (await ada.open("/profile")).url.path == "/profile"


FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


async def test_sessions_say_which_browser_they_are_of_and_all_others_end_at_once(api: Api, clock: FakeClock) -> None:
    ada = await visitor(api)
    ada.client.headers["User-Agent"] = FIREFOX
    await ada.open("/sign-in?next=/profile")
    await ada.submit("/sign-in", username="ada", password=PASSWORD)
    others = [await Visitor.make(api, "ada") for _ in range(2)]
    clock.advance(minutes=90)
    await ada.open("/profile")
    assert "Firefox on Linux (this one) 2026-01-02 04:34:05 UTC 2026-01-02 03:04:05 UTC" in ada.text
    assert ada.text.count("unknown") == 4, "two rows, each with its button's name"
    assert FIREFOX not in ada.page.text
    await ada.submit("/profile/sessions/end-others")
    assert "All your other sessions were ended" in ada.text
    assert (await ada.open("/profile")).url.path == "/profile"
    for other in others:
        assert (await other.open("/profile")).url.path == "/sign-in"


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (FIREFOX, "Firefox on Linux"),
        ("Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 Chrome/141.0 Safari/537.36 Edg/141.0",
         "Edge on Windows"),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 19_0 like Mac OS X) AppleWebKit/605 Version/19.0 Mobile Safari/604.1",
         "Safari on iPhone"),
        ("Mozilla/5.0 (Linux; Android 16) AppleWebKit/537.36 Chrome/141.0 Mobile Safari/537.36", "Chrome on Android"),
        ("Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/537.36 Chrome/141.0 Safari/537.36",
         "Chrome on macOS"),
        ("<script>", None),
        (None, None),
    ],
)  # fmt: skip
def test_browsers_are_named_as_people_know_them(agent: str | None, name: str | None) -> None:
    assert name_of(agent) == name


async def test_a_token_is_shown_once_works_and_stops_when_it_is_revoked(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/profile/tokens")
    page = await ada.submit("/profile/tokens", name="ci <b>", days="7")
    token = re.findall(r"rwt_[\w-]+", page.text)[0]
    assert "ci <b>" not in page.text
    assert page.headers["Cache-Control"] == "no-store"
    client = await api.connect(token)
    assert (await client.get("/api/v1/me")).status_code == 200
    assert token not in (await ada.open("/profile/tokens")).text
    made = re.findall(r'>ci &lt;b&gt;<.*?name="token" value="([^"]+)"', ada.page.text, re.DOTALL)
    await ada.submit("/profile/tokens/revoke", token=made[0])
    assert "The token was revoked" in ada.text
    assert (await client.get("/api/v1/me")).status_code == 401


@pytest.mark.parametrize(("name", "days", "field"), [("", "7", "name"), ("x", "soon", "days"), ("tests", "7", "name")])
async def test_a_token_that_cannot_be_made_says_why_beside_the_field(
    api: Api, name: str, days: str, field: str
) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/profile/tokens")
    page = await ada.submit("/profile/tokens", name=name, days=days)
    assert page.status_code in (409, 422)
    assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
    assert f'value="{days}"' in page.text, "what was typed is kept"
