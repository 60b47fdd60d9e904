"""Password, sessions and tokens in the browser."""

from __future__ import annotations

import re

import pytest

from tests.server.web.test_sign_in import PASSWORD, visitor
from tests.support.api import Api
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
