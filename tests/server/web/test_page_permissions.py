"""Pages keep people out as the API does: who is not signed in must sign in, and a stranger learns nothing."""

from __future__ import annotations

from ropewalk.server.identity.permissions import ROLE_PERMISSIONS, Role
from tests.server.test_permissions import PARAMETERS
from tests.support.api import Api
from tests.support.pages import Visitor
from tests.support.routes import Declared, declared


def guarded(api: Api) -> list[Declared]:
    return [route for route in declared(api.app) if route.page and not route.open]


def account_pages(api: Api) -> list[Declared]:
    found = [route for route in guarded(api) if "{account}" in route.path]
    assert len(found) >= 4
    return found


async def test_without_a_session_every_guarded_page_leads_to_the_sign_in(api: Api) -> None:
    await api.person("ada")
    forged = await api.connect()
    forged.cookies.set("ropewalk_session", "forged", domain=forged.base_url.host)
    for route in guarded(api):
        for client in (api.client, forged):
            answer = await client.request(route.method, route.url(account="ada", **PARAMETERS))
            assert answer.status_code == 303, route
            assert answer.headers["Location"].startswith("/sign-in?next=%2F"), route


async def test_a_token_opens_no_page(api: Api) -> None:
    """So a page's change always comes from a form of ours."""
    ada = await api.person("ada")
    for route in guarded(api):
        assert (await ada.client.request(route.method, route.url(account="ada", **PARAMETERS))).status_code == 303


async def test_a_stranger_cannot_tell_an_account_from_one_that_does_not_exist(api: Api) -> None:
    await api.person("ada")
    await api.person("eve")
    eve = await Visitor.make(api, "eve")
    for route in account_pages(api):
        hidden = await eve.client.request(route.method, route.url(account="ada", **PARAMETERS))
        missing = await eve.client.request(route.method, route.url(account="nix", **PARAMETERS))
        assert (hidden.status_code, missing.status_code) == (404, 404), route
        assert hidden.text.replace("&#39;ada&#39;", "&#39;nix&#39;") == missing.text, route


async def test_members_reach_what_members_may_and_get_403_for_the_rest(api: Api) -> None:
    await api.person("boss")
    await api.person("mia")
    await api.team("team", boss="admin", mia="member")
    mia = await Visitor.make(api, "mia")
    for route in account_pages(api):
        if route.path.endswith("/live"):
            continue  # a stream that does not end
        if route.method == "POST":
            continue  # without its form, 403 as well: see test_headers.py
        answer = await mia.client.request(route.method, route.url(account="team", **PARAMETERS))
        allowed = route.permissions[0] in ROLE_PERMISSIONS[Role.MEMBER]
        assert (answer.status_code == 403) is not allowed, route
