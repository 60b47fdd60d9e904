"""The ways in and out of the pages."""

from __future__ import annotations

import pytest

from ropewalk.server.web.deps import local_path
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.pages import Visitor

PASSWORD = "correct horse battery"


async def visitor(api: Api) -> Visitor:
    """Somebody who is not signed in, and may be ada."""
    root = await api.operator()
    wish = {"username": "ada", "password": PASSWORD}
    assert (await root.client.post("/api/v1/users", json=wish)).status_code == 201
    return await Visitor.make(api)


def code(api: Api) -> str:
    return (api.context.settings.data_dir / "setup-code").read_text()


async def test_a_new_server_is_set_up_in_the_browser_and_its_operator_is_signed_in(api: Api) -> None:
    anyone = await Visitor.make(api)
    await anyone.open("/")
    assert "Set up this server" in anyone.text
    await anyone.submit("/setup", code=code(api), username="ada", password=PASSWORD)
    assert anyone.page.status_code == 200
    await anyone.open("/profile")
    assert "operator of this server" in anyone.text
    assert "Sign in" in (await (await Visitor.make(api)).open("/setup")).text, "it can be done once"


@pytest.mark.parametrize(
    ("wrong", "said", "field"),
    [
        ({"code": "nonsense"}, "The set-up code is wrong", "code"),
        ({"username": "No Name"}, "is not a valid name", "username"),
        ({"password": "short"}, "at least 10 characters", "password"),
    ],
)
async def test_a_wrong_set_up_says_which_field_it_is(api: Api, wrong: dict[str, str], said: str, field: str) -> None:
    anyone = await Visitor.make(api)
    await anyone.open("/setup")
    given = {"code": code(api), "username": "ada", "password": PASSWORD} | wrong
    page = await anyone.submit("/setup", **given)
    assert page.status_code in (401, 422)
    assert said in anyone.text
    assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
    assert given["password"] not in page.text


async def test_who_signs_in_comes_back_to_the_page_they_wanted(api: Api) -> None:
    ada = await visitor(api)
    await ada.open("/profile/tokens?done=revoked")
    assert ada.page.url.path == "/sign-in"
    page = await ada.submit("/sign-in", username="ada", password=PASSWORD)
    assert (page.url.path, page.status_code) == ("/profile/tokens", 200)
    assert (await ada.open("/sign-in?next=/profile")).url.path == "/profile", "once is enough"


async def test_a_wrong_password_is_told_and_never_shown(api: Api) -> None:
    ada = await visitor(api)
    await ada.open("/sign-in")
    page = await ada.submit("/sign-in", username="ada", password="wrong guess 99")
    assert page.status_code == 401
    assert "The user name or the password is wrong" in ada.text
    assert 'value="ada"' in page.text
    assert "wrong guess 99" not in page.text


async def test_a_sign_in_form_of_another_site_is_refused(api: Api) -> None:
    ada = await visitor(api)
    await ada.open("/sign-in")
    fields = {"username": "ada", "password": PASSWORD}
    assert (await ada.client.post("/sign-in", data=fields)).status_code == 403
    assert (await ada.client.post("/sign-in", data={**fields, "csrf": "0" * 64})).status_code == 403


@pytest.mark.parametrize(
    "wish", ["https://evil.example", "//evil.example", "/\\evil.example", "javascript:1", "/a\r\nb"]
)
async def test_no_link_leads_from_the_sign_in_to_another_site(api: Api, wish: str) -> None:
    assert local_path(wish) == "/"
    ada = await visitor(api)
    await ada.open("/sign-in")
    data = {**ada.fields("/sign-in"), "username": "ada", "password": PASSWORD, "next": wish}
    answer = await ada.client.post("/sign-in", data=data)
    assert (answer.status_code, answer.headers["Location"]) == (303, "/")


async def test_signing_out_ends_the_session(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/profile")
    await ada.submit("/sign-out")
    assert "You are signed out" in ada.text
    assert (await ada.open("/profile")).url.path == "/sign-in"


async def test_a_part_of_a_page_whose_session_expired_sends_the_whole_page_to_sign_in(
    api: Api, clock: FakeClock
) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    clock.advance(hours=13)
    headers = {"HX-Request": "true", "HX-Current-URL": f"{api.context.settings.public_url}/profile?x=1"}
    answer = await ada.client.get("/profile/tokens", headers=headers)
    assert (answer.status_code, answer.headers["HX-Redirect"]) == (401, "/sign-in?next=%2Fprofile%3Fx%3D1")
