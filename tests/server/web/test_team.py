"""The team page, and the page that an invitation leads to."""

from __future__ import annotations

import html
import re

import pytest

from tests.server.web.test_sign_in import PASSWORD
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.pages import Visitor

TEAM = "/accounts/physics/team"

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Nothing here depends on the database that others do not try on both."""


async def admin(api: Api) -> Visitor:
    """Return ada in front of the page of her team, in which mia is a member."""
    await api.person("ada")
    await api.person("mia")
    await api.team("physics", ada="admin", mia="member")
    ada = await Visitor.make(api, "ada")
    await ada.open(TEAM)
    return ada


async def invitation(ada: Visitor, **fields: str) -> str:
    """Make an invitation and return the path of its link."""
    await ada.open(TEAM)
    await ada.submit(f"{TEAM}/invitations", **{"note": "Marie <b>", "days": "7", "role": "member"} | fields)
    assert ada.page.status_code == 201, ada.text
    link = re.findall(r'id="link">([^<]+)<', ada.page.text)[0]
    assert link.startswith(ada.api.context.settings.public_url)
    return html.unescape(link).removeprefix(ada.api.context.settings.public_url)


async def test_admins_change_roles_and_limits_and_members_only_look(api: Api) -> None:
    ada = await admin(api)
    await ada.submit(f"{TEAM}/members", username="mia", role="member", core_limit="8")
    assert "The member was changed" in ada.text
    assert 'value="8"' in ada.page.text
    mia = await Visitor.make(api, "mia")
    page = await mia.open(TEAM)
    assert "8 cores" in mia.text
    assert "<form" not in page.text.partition("<main")[2]
    await ada.submit(f"{TEAM}/members", username="mia", role="admin", core_limit="")
    assert "<form" in (await mia.open(TEAM)).text.partition("<main")[2]


@pytest.mark.parametrize(
    ("fields", "status", "said"),
    [
        ({"username": "mia", "role": "king"}, 422, "Role"),
        ({"username": "mia", "role": "member", "core_limit": "many"}, 422, "Core limit"),
        ({"username": "nobody", "role": "member", "new": "yes"}, 404, "There is no user 'nobody'"),
        ({"username": "ada", "role": "member"}, 409, "is the last administrator"),
    ],
)
async def test_what_cannot_be_is_told_beside_its_form(api: Api, fields: dict[str, str], status: int, said: str) -> None:
    ada = await admin(api)
    page = await ada.client.post(f"{TEAM}/members", data=ada.fields(f"{TEAM}/members") | fields)
    assert page.status_code == status
    assert said in html.unescape(page.text)


async def test_somebody_is_added_by_name_and_removed_after_a_question(api: Api) -> None:
    ada = await admin(api)
    await api.person("grace")
    data = ada.fields(f"{TEAM}/members") | {"username": "grace", "role": "member", "new": "yes"}
    ada.page = await ada.client.post(f"{TEAM}/members", data=data, follow_redirects=True)
    assert "The member was added" in ada.text
    await ada.open(f"{TEAM}/members/grace/remove")
    assert "Remove grace from physics?" in ada.text
    await ada.submit(f"{TEAM}/members/grace/remove")
    assert "The member was removed" in ada.text
    await ada.open(f"{TEAM}/members/ada/remove")
    await ada.submit(f"{TEAM}/members/ada/remove")
    assert "is the last administrator" in ada.text
    grace = await Visitor.make(api, "grace")
    assert (await grace.open(TEAM)).status_code == 404


async def test_only_operators_set_the_accounts_limit(api: Api) -> None:
    ada = await admin(api)
    assert "/limit" not in ada.page.text
    assert (await ada.client.post(f"{TEAM}/limit", data={"core_limit": "1"})).status_code == 403
    await api.operator()
    root = await Visitor.make(api, "root")
    await root.open(TEAM)
    await root.submit(f"{TEAM}/limit", core_limit="64")
    assert "64 cores" in root.text
    await root.submit(f"{TEAM}/limit", core_limit="x")
    assert root.page.status_code == 422


async def test_a_personal_account_says_that_it_is_for_one(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/accounts/ada/team")
    assert "A personal account is for one person" in ada.text
    assert "Invite somebody" not in ada.text


async def test_whoever_has_the_link_makes_a_user_and_is_in_once(api: Api) -> None:
    ada = await admin(api)
    path = await invitation(ada, core_limit="4")
    assert "Marie &lt;b&gt;" in ada.page.text
    assert path not in (await ada.open(TEAM)).text, "it is shown once"
    assert "Marie <b>" in ada.text
    marie = await Visitor.make(api)
    page = await marie.open(path)
    assert "ada invites you to the account physics" in marie.text
    assert page.headers["Referrer-Policy"] == "same-origin"
    for fields, field in (
        ({"username": "mia", "password": PASSWORD}, "username"),
        ({"username": "Not A Name", "password": PASSWORD}, "username"),
        ({"username": "marie", "password": "short"}, "password"),
    ):
        page = await marie.submit(path, **fields)
        assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
    await marie.submit(path, username="marie", password=PASSWORD)
    assert marie.page.url.path == "/accounts/physics/clusters"
    assert "Welcome" in marie.text
    await marie.open(TEAM)
    assert "marie (you) member 0 4 cores" in marie.text
    late = await Visitor.make(api)
    assert (await late.open(path)).status_code == 404
    assert "used already, was revoked, or has expired" in late.text


async def test_who_has_a_user_joins_with_it(api: Api) -> None:
    ada = await admin(api)
    path = await invitation(ada, role="admin")
    await api.person("grace")
    grace = await Visitor.make(api, "grace")
    await grace.open(path)
    assert "You are signed in as grace" in grace.text
    forged = await grace.client.post(f"{path}/accept", data={"csrf": "x"})
    assert forged.status_code == 403
    await grace.submit(f"{path}/accept")
    assert grace.page.url.path == "/accounts/physics/clusters"
    await grace.open(TEAM)
    assert "Invite somebody" in grace.text, "she is an admin"
    lower = await invitation(ada, role="member")
    await grace.open(lower)
    await grace.submit(f"{lower}/accept")
    assert (grace.page.status_code, "is a member of 'physics' already" in grace.text) == (409, True)
    assert "Invite somebody" in (await grace.open(TEAM)).text, "an invitation takes nothing away"
    assert (await (await Visitor.make(api)).open(lower)).status_code == 200, "and is there for somebody else"


async def test_a_link_that_was_revoked_or_has_expired_is_worth_nothing(api: Api, clock: FakeClock) -> None:
    ada = await admin(api)
    revoked = await invitation(ada)
    await ada.open(TEAM)
    action = re.findall(r'action="([^"]+/revoke)"', ada.page.text)[0]
    await ada.submit(action)
    assert "The invitation was revoked" in ada.text
    expired = await invitation(ada, days="1")
    clock.advance(days=1)
    anyone = await Visitor.make(api)
    for path in (revoked, expired, "/join/rwi_made-up", "/join/%00"):
        page = await anyone.open(path)
        assert page.status_code == 404
        assert "cannot be used" in anyone.text
    await ada.enter("ada")
    assert "Marie" not in (await ada.open(TEAM)).text


async def test_an_invitation_that_is_wrong_says_which_field(api: Api) -> None:
    ada = await admin(api)
    for fields, field in (({"days": "31"}, "days"), ({"core_limit": "x"}, "invite-limit")):
        page = await ada.submit(f"{TEAM}/invitations", **{"days": "7", "role": "member"} | fields)
        assert page.status_code == 422
        assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
