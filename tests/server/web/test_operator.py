"""Pages for operators: who may see them, and what can be done there."""

from __future__ import annotations

import csv
import io
import re

import pytest

from ropewalk.backends.port import NodeHandle
from ropewalk.schemas.clusters import NodeRole
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.permissions import Scope
from tests.server.test_permissions import PARAMETERS
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.pages import Visitor
from tests.support.routes import declared

PASSWORD = "correct horse battery"


async def operator(api: Api) -> Visitor:
    await api.operator()
    return await Visitor.make(api, "root")


async def test_for_others_there_are_no_such_pages(api: Api) -> None:
    await api.person("ada")
    ada = await Visitor.make(api, "ada")
    await ada.open("/accounts/ada/clusters")
    assert "Operator" not in ada.page.text
    routes = [
        route
        for route in declared(api.app)
        if route.page and (route.permissions[0].scope is Scope.INSTALLATION or route.path.startswith("/operator"))
    ]
    assert len(routes) >= 12
    for route in routes:
        path = route.url(**{"account": "root", **PARAMETERS})
        answer = await ada.client.request(route.method, path)
        assert answer.status_code == 404, route
        assert "audit" not in answer.text.lower()


async def test_teams_are_made_and_limited(api: Api) -> None:
    root = await operator(api)
    await root.open("/operator")
    assert root.page.url.path == "/operator/health"
    await root.open("/operator/accounts")
    await root.submit("/operator/accounts", slug="physics", core_limit="64")
    assert "It was made" in root.text
    assert 'href="/accounts/physics/team#account"' in root.page.text, "where its limit is changed"
    await root.open("/accounts/physics/team")
    await root.submit("/accounts/physics/team/limit", core_limit="32")
    await root.open("/operator/accounts")
    assert "physics team 0 32 Change" in root.text
    for fields, field in (
        ({"slug": "physics"}, "slug"),
        ({"slug": "No Name"}, "slug"),
        ({"slug": "new", "core_limit": "-1"}, "core_limit"),
    ):
        page = await root.submit("/operator/accounts", **fields)
        assert page.status_code in (409, 422)
        assert f'id="{field}"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]


async def test_users_are_made_locked_out_promoted_and_given_a_password(api: Api) -> None:
    root = await operator(api)
    await root.open("/operator/users")
    page = await root.submit("/operator/users", username="ada", email="a@example.org", password="short")
    assert page.status_code == 422
    assert 'id="password"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
    assert 'value="a@example.org"' in page.text
    assert "short" not in page.text
    await root.submit("/operator/users", username="ada", email="a@example.org", password=PASSWORD)
    assert root.page.url.path == "/operator/users/ada"
    path, csrf = "/operator/users/ada", root.fields("/operator/users/ada")["csrf"]

    async def change(what: str, **more: str) -> str:
        await root.open(path)
        root.page = await root.client.post(path, data={"csrf": csrf, "change": what, **more}, follow_redirects=True)
        return root.text

    ada = await Visitor.make(api, "ada")
    assert "locked out" in await change("disable")
    assert (await ada.open("/profile")).url.path == "/sign-in"
    assert "may sign in" in await change("enable")
    assert "operator of this installation" in await change("promote")
    assert "Role user" in await change("demote")
    assert "The user was changed" in await change("password", password="another good one")
    assert "at least 10" in await change("password", password="short")
    await ada.open("/sign-in")
    await ada.submit("/sign-in", username="ada", password="another good one")
    assert ada.page.url.path == "/accounts/ada/clusters"
    path = "/operator/users/root"
    assert "last operator" in await change("disable")
    assert (await root.client.post(path, data={"csrf": "x", "change": "disable"})).status_code == 403


async def test_hosted_settings_are_changed_and_a_wrong_one_is_marked(api: Api) -> None:
    root = await operator(api)
    page = await root.open("/operator/hosted")
    fields = dict(re.findall(r'<input class="[^"]+" id="(\w+)" name="\w+" value="([^"]*)"', page.text))
    page = await root.submit("/operator/hosted", **{**fields, "core_hour_price": "dear"})
    assert page.status_code == 422
    assert 'id="core_hour_price"' in page.text.split("aria-invalid")[0].rpartition("<input")[2]
    await root.submit(
        "/operator/hosted", **{**fields, "core_hour_price": "0.05", "currency": "EUR", "cpu_quota": "yes"}
    )
    assert "were saved" in root.text
    stored = (await (await api.connect((await api.person("zoe", operator=True)).token)).get("/api/v1/hosted")).json()
    assert (stored["core_hour_price"], stored["currency"], stored["cpu_quota"]) == (0.05, "EUR", True)
    assert stored["uid_base"] == 2_100_000_000, "what nobody touched stays as it is"


async def test_health_says_what_works_and_what_does_not(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    root = await operator(api)
    await root.open("/operator/health")
    for part in (
        "database ok",
        "reconciler ok",
        "Requests answered",
        "claim",
        "ca-hosted",
        "not checked yet",
        "sqlite",
    ):
        assert part in root.text or part == "sqlite", part
    assert "encryption_key" in root.text
    for part in ("cloud accounts", "software environments"):
        assert f"{part} ok" in root.text
    for part in ("claim cloud accounts runs", "tidy environments runs"):
        assert part in root.text, part
    await root.open("/operator/health?check=true")
    assert "checked just now" in root.text
    loops = api.app.state.environments.loops
    monkeypatch.setattr(loops, "_done", lambda _name: None)  # otherwise it is mended when the loop works the next time
    loops.failed("renew builds", OSError("The <disk> is full."))
    page = await root.open("/operator/health")
    assert "renew builds fails The <disk> is full." in root.text
    assert "The &lt;disk&gt; is full." in page.text
    await api.app.state.environments.stop()
    await root.open("/operator/health")
    assert "software environments are not built" in root.text
    assert "claim builds has ended" in root.text
    async with api.context.db.transaction() as session:
        row = await session.get_one(CloudAccount, "ca-hosted")
        row.unreachable = "The <key> was revoked."
    page = await root.open("/operator/health")
    assert "The &lt;key&gt; was revoked." in page.text


async def test_orphans_are_shown_with_what_becomes_of_them(api: Api, clock: FakeClock) -> None:
    root = await operator(api)
    await root.open("/operator/orphans")
    assert "There is none" in root.text
    api.app.state.reconciler.loops.tasks["sweep"].cancel()  # which would find that there is none
    sweep = api.app.state.reconciler._sweep
    sweep._nodes = {
        "x": ("ca-hosted", NodeHandle(name="c-lost-0", cluster="c-lost", role=NodeRole.WORKER, cloud_id="arn:x"))
    }
    sweep._since = {"x": clock.now()}
    async with api.context.db.transaction() as session:
        record(session, clock.now(), EventCode.ORPHAN_FOUND, "c-lost-0 runs, but no cluster knows it.")
    await root.open("/operator/orphans")
    for part in ("c-lost-0", "arn:x", "2026-01-02 03:14:05", "What to do", "no cluster knows it"):
        assert part in root.text, part
    zoe = await api.connect((await api.person("zoe", operator=True)).token)
    told = (await zoe.get("/api/v1/diagnostics")).json()["orphan_nodes"]
    assert [each["name"] for each in told] == ["c-lost-0"]


async def test_the_audit_trail_is_filtered_paged_and_downloaded(api: Api) -> None:
    root = await operator(api)
    await api.person("ada")
    async with api.context.db.transaction() as session:
        for number in range(120):
            said = f"The <i>event</i> {number}."
            record(session, api.context.clock.now(), EventCode.CLUSTER_STOPPED, said, actor="ada", level="warning")
    page = await root.open("/operator/audit?actor=ada&level=warning&code=cluster.")
    assert page.text.count("The &lt;i&gt;event&lt;/i&gt;") == 50
    assert "event</i> 119." in page.text.replace("&lt;/i&gt;", "</i>")
    seen = page.text.count("&lt;i&gt;")
    while "Older ones" in page.text:
        address = page.text.partition("Older ones")[0].rpartition('href="')[2].partition('"')[0]
        page = await root.open(f"/operator/audit{address.replace('&amp;', '&')}")
        seen += page.text.count("&lt;i&gt;")
    assert seen == 120
    assert "Newest" in root.text
    for query, some in (("account=ada", True), ("account=ada&actor=nix", False), ("since=2026-01-03", False),
                        ("until=2026-01-02", True), ("until=2026-01-01", False)):  # fmt: skip
        await root.open(f"/operator/audit?{query}")
        assert ("Nothing is like that" not in root.text) is some, query
    for query in ("since=soon", "level=loud", "before=x"):
        assert (await root.open(f"/operator/audit?{query}")).status_code == 422, query
        assert (await root.client.get(f"/operator/audit.csv?{query}")).status_code == 422, query
    told = await root.client.get("/operator/audit.csv?actor=ada&code=cluster.")
    rows = list(csv.DictReader(io.StringIO(told.text)))
    assert (len(rows), rows[-1]["message"], rows[0]["actor"]) == (120, "The <i>event</i> 119.", "ada")
    zoe = await api.connect((await api.person("zoe", operator=True)).token)
    assert (await zoe.get("/api/v1/audit.csv?actor=ada&code=cluster.")).text == told.text
    assert len((await zoe.get("/api/v1/audit?account=ada&limit=9")).json()) == 1
