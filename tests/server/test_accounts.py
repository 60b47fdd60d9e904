"""Accounts and their members, limits and use, configurations, and the audit trail about them."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from sqlalchemy import select

from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.db.models import Cluster, User, new_id
from tests.support.api import Api
from tests.support.clock import FakeClock


async def cluster(api: Api, account_id: str, username: str, cores: float, state: str = "ready") -> None:
    """Put a row into the table of clusters: what counts is what it reserves."""
    async with api.context.db.transaction() as session:
        creator = (await session.scalars(select(User.id).where(User.username == username))).one()
        made = Cluster(
            id=new_id("c"),
            account_id=account_id,
            creator_id=creator,
            cloud_account_id=HOSTED_ID,
            name=new_id("n"),
            spec={},
            secret=b"",
            tags={},
            n_workers=1,
            reserved_cores=cores,
            state=state,
            desired_changed_at=api.context.clock.now(),
            # Not for the reconciler: somebody else has it.
            lease_owner="tests",
            lease_expires_at=api.context.clock.now().replace(year=2100),
            created_at=api.context.clock.now(),
        )
        session.add(made)


async def audit(client: Any) -> list[tuple[str, str | None, str]]:
    events = (await client.get("/api/v1/audit?after=0&limit=1000")).json()
    return [(event["code"], event["actor"], event["message"]) for event in events]


# Accounts


async def test_an_operator_makes_a_team_and_is_its_first_administrator(api: Api) -> None:
    root = await api.operator()
    made = await root.client.post("/api/v1/accounts", json={"slug": "physics", "core_limit": 64})
    assert made.status_code == 201
    assert made.json() == {
        "slug": "physics",
        "kind": "team",
        "role": "admin",
        "core_limit": 64,
        "cores_used": 0,
        "created_at": "2026-01-02T03:04:05Z",
    }
    assert ("account.created", "root", "The team account 'physics' was created.") in await audit(root.client)


@pytest.mark.parametrize("slug", ["physics", "ada"])
async def test_the_name_of_an_account_is_taken_once(api: Api, slug: str) -> None:
    root = await api.operator()
    await api.person("ada")
    await api.team("physics", root="admin")
    refused = await root.client.post("/api/v1/accounts", json={"slug": slug})
    assert refused.status_code == 409
    assert refused.json()["error"]["field"] == "slug"


async def test_of_many_at_once_with_one_name_one_is_made(api: Api) -> None:
    root = await api.operator()
    answers = await asyncio.gather(*(root.client.post("/api/v1/accounts", json={"slug": "p"}) for _ in range(6)))
    assert sorted(response.status_code for response in answers) == [201] + [409] * 5


@pytest.mark.parametrize("core_limit", [-1, 1_000_001, 1.5, "many", True])
async def test_wrong_limits_are_refused(api: Api, core_limit: object) -> None:
    root = await api.operator()
    refused = await root.client.post("/api/v1/accounts", json={"slug": "p", "core_limit": core_limit})
    if core_limit is True:
        assert refused.status_code in {201, 422}
    else:
        assert refused.status_code == 422
        assert refused.json()["error"]["field"] == "core_limit"


async def test_people_list_their_accounts_and_operators_all(api: Api) -> None:
    root, ada, _eve = await api.operator(), await api.person("ada"), await api.person("eve")
    await api.team("physics", ada="member")
    mine = (await ada.client.get("/api/v1/accounts")).json()
    assert [(account["slug"], account["role"]) for account in mine] == [("ada", "admin"), ("physics", "member")]
    everyone = (await root.client.get("/api/v1/accounts?all=true")).json()
    assert [(account["slug"], account["role"]) for account in everyone] == [
        ("ada", None),
        ("eve", None),
        ("physics", None),
        ("root", "admin"),
    ]
    assert (await ada.client.get("/api/v1/accounts?all=true")).status_code == 403


async def test_the_limit_is_set_by_operators_only(api: Api) -> None:
    root, ada, mia = await api.operator(), await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin", mia="member")
    for person in (ada, mia):
        assert (await person.client.patch("/api/v1/accounts/physics", json={"core_limit": 1})).status_code == 403
    assert (await root.client.patch("/api/v1/accounts/physics", json={"core_limit": 8})).json()["core_limit"] == 8
    assert (await root.client.patch("/api/v1/accounts/physics", json={})).json()["core_limit"] == 8
    assert (await root.client.patch("/api/v1/accounts/physics", json={"core_limit": None})).json()["core_limit"] is None
    said = [message for code, _, message in await audit(root.client) if code == "account.updated"]
    assert said == [
        "The limit of the account 'physics' was set to 8 cores.",
        "The limit of the account 'physics' was set to the default.",
    ]


async def test_cores_used_are_those_of_live_clusters(api: Api) -> None:
    ada, _mia = await api.person("ada"), await api.person("mia")
    team = await api.team("physics", ada="admin", mia="member")
    for cores, state in ((5, "ready"), (0.1, "stopping"), (0.2, "pending"), (99, "stopped"), (99, "failed")):
        await cluster(api, team, "ada", cores, state)
    await cluster(api, team, "mia", 2.5)
    assert (await ada.client.get("/api/v1/accounts/physics")).json()["cores_used"] == 8
    assert (await ada.client.get("/api/v1/accounts/ada")).json()["cores_used"] == 0
    members = (await ada.client.get("/api/v1/accounts/physics/members")).json()
    assert [(member["username"], member["cores_used"]) for member in members] == [("ada", 6), ("mia", 3)]


# Members


async def test_an_administrator_adds_changes_and_removes_members(api: Api) -> None:
    ada, mia = await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin")
    place = "/api/v1/accounts/physics/members/mia"
    added = await ada.client.put(place, json={"core_limit": 4})
    assert added.status_code == 200
    assert (added.json()["role"], added.json()["core_limit"]) == ("member", 4)
    assert (await mia.client.get("/api/v1/accounts/physics")).json()["role"] == "member"
    assert (await mia.client.put(place, json={"role": "admin"})).status_code == 403
    assert (await ada.client.put(place, json={"role": "admin"})).json()["core_limit"] is None
    assert (await mia.client.delete("/api/v1/accounts/physics/members/ada")).status_code == 204
    assert (await ada.client.get("/api/v1/accounts/physics")).status_code == 404
    root = await api.operator()
    said = [(code, actor) for code, actor, _ in await audit(root.client) if code.startswith("member.")]
    assert said == [("member.set", "ada"), ("member.set", "ada"), ("member.removed", "mia")]


async def test_the_last_administrator_can_be_neither_removed_nor_demoted(api: Api) -> None:
    ada, _mia = await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin", mia="member")
    place = "/api/v1/accounts/physics/members/ada"
    demoted, removed = await ada.client.put(place, json={"role": "member"}), await ada.client.delete(place)
    assert (demoted.status_code, removed.status_code) == (409, 409)
    assert "last administrator" in removed.json()["error"]["message"]
    assert (await ada.client.put(place, json={"role": "admin", "core_limit": 3})).json()["core_limit"] == 3
    await ada.client.put("/api/v1/accounts/physics/members/mia", json={"role": "admin"})
    assert (await ada.client.put(place, json={"role": "member"})).status_code == 200


async def test_two_administrators_cannot_remove_each_other_at_the_same_time(api: Api) -> None:
    ada, mia = await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin", mia="admin")
    await asyncio.gather(
        ada.client.delete("/api/v1/accounts/physics/members/mia"),
        mia.client.delete("/api/v1/accounts/physics/members/ada"),
    )
    root = await api.operator()
    left = (await root.client.get("/api/v1/accounts/physics/members")).json()
    assert [member["role"] for member in left] == ["admin"]


async def test_adding_a_member_twice_at_once_adds_one(api: Api) -> None:
    ada, _mia = await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin")
    place = "/api/v1/accounts/physics/members/mia"
    answers = await asyncio.gather(*(ada.client.put(place, json={}) for _ in range(5)))
    assert {response.status_code for response in answers} == {200}
    assert len((await ada.client.get("/api/v1/accounts/physics/members")).json()) == 2


async def test_a_personal_account_belongs_to_its_user_alone(api: Api) -> None:
    ada, _mia = await api.person("ada"), await api.person("mia")
    added = await ada.client.put("/api/v1/accounts/ada/members/mia", json={})
    assert added.status_code == 409
    assert "personal account" in added.json()["error"]["message"]
    assert (await ada.client.delete("/api/v1/accounts/ada/members/ada")).status_code == 409


@pytest.mark.parametrize("username", ["nix", "Not-A-Name", "%00"])
async def test_unknown_people_cannot_be_members(api: Api, username: str) -> None:
    ada = await api.person("ada")
    await api.team("physics", ada="admin")
    for method in ("PUT", "DELETE"):
        response = await ada.client.request(method, f"/api/v1/accounts/physics/members/{username}", json={})
        assert response.status_code == 404
        assert response.json()["error"]["field"] == "username"


async def test_removing_somebody_who_is_no_member_is_not_found(api: Api) -> None:
    ada, _mia = await api.person("ada"), await api.person("mia")
    await api.team("physics", ada="admin")
    assert (await ada.client.delete("/api/v1/accounts/physics/members/mia")).status_code == 404


async def test_a_disabled_user_cannot_become_a_member(api: Api) -> None:
    root, _mia = await api.operator(), await api.person("mia")
    await root.client.patch("/api/v1/users/mia", json={"disabled": True})
    await root.client.post("/api/v1/accounts", json={"slug": "physics"})
    response = await root.client.put("/api/v1/accounts/physics/members/mia", json={})
    assert response.status_code == 422
    assert "disabled" in response.json()["error"]["message"]


# Cluster configurations


def place(name: str, account: str = "ada") -> str:
    return f"/api/v1/accounts/{account}/configurations/{name}"


async def test_a_configuration_keeps_what_is_given_in_one_form(api: Api) -> None:
    ada = await api.person("ada")
    spec = {"n_workers": [1, 5], "worker_memory": "8 GiB", "idle_timeout": "1 hour", "no_client_timeout": None}
    made = await ada.client.put(place("big"), json={"spec": spec})
    assert made.status_code == 200
    assert made.json() == {
        "name": "big",
        "account": "ada",
        "spec": {"n_workers": [1, 5], "worker_memory": 8 * 2**30, "idle_timeout": 3600.0, "no_client_timeout": None},
        "updated_at": "2026-01-02T03:04:05Z",
    }
    assert (await ada.client.get(place("big"))).json() == made.json()


async def test_a_configuration_is_replaced_as_a_whole_listed_and_deleted(api: Api) -> None:
    ada = await api.person("ada")
    await ada.client.put(place("b"), json={"spec": {"worker_cpu": 2, "n_workers": 3}})
    await ada.client.put(place("b"), json={"spec": {"n_workers": 4}})
    await ada.client.put(place("a"), json={"spec": {}})
    listed = (await ada.client.get("/api/v1/accounts/ada/configurations")).json()
    assert [(item["name"], item["spec"]) for item in listed] == [("a", {}), ("b", {"n_workers": 4})]
    assert (await ada.client.delete(place("b"))).status_code == 204
    assert (await ada.client.delete(place("b"))).status_code == 404
    assert (await ada.client.get(place("b"))).status_code == 404


async def test_what_was_stored_can_be_stored_again(api: Api) -> None:
    ada = await api.person("ada")
    spec = {"n_workers": [0, 2], "worker_options": {"nthreads": 2, "resources": {"GPU": 1}}, "tags": {"team": "Ü"}}
    first = (await ada.client.put(place("x"), json={"spec": spec})).json()
    assert (await ada.client.put(place("x"), json={"spec": first["spec"]})).json() == first


@pytest.mark.parametrize(
    ("spec", "field", "says"),
    [
        ({"n_worker": 3}, "spec.n_worker", "Its fields are: n_workers,"),
        ({"environ": {"PASSWORD": "canary"}}, "spec.environ", "stored encrypted"),
        ({"n_workers": [5, 1]}, "spec.n_workers", "the minimum, 5, is above the maximum, 1"),
        ({"n_workers": True}, "spec.n_workers", ""),
        ({"worker_memory": "4 parsecs"}, "spec.worker_memory", "not a size"),
        ({"idle_timeout": "soon"}, "spec.idle_timeout", "not a duration"),
        ({"worker_cpu": 1.5}, "spec.worker_cpu", "whole number of cores"),
        ({"worker_class": "os; rm"}, "spec.worker_class", ""),
        ({"worker_options": {"x": "y" * 70_000}}, "spec", "bytes"),
        ({"worker_options": {"x": "\ud800"}}, "spec", "not JSON"),
    ],
)
async def test_a_wrong_configuration_names_the_field(api: Api, spec: object, field: str, says: str) -> None:
    ada = await api.person("ada")
    body = json.dumps({"spec": spec})  # not as httpx does it, which refuses half characters
    refused = await ada.client.put(place("x"), content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422
    error = refused.json()["error"]
    assert error["field"] == field
    assert says in f"{error['message']} {error['advice']}"
    assert "canary" not in refused.text
    assert (await ada.client.get("/api/v1/accounts/ada/configurations")).json() == []


async def test_not_a_number_is_refused(api: Api) -> None:
    ada = await api.person("ada")
    body = '{"spec": {"worker_options": {"x": NaN}}}'
    refused = await ada.client.put(place("x"), content=body, headers={"Content-Type": "application/json"})
    assert refused.status_code == 422


@pytest.mark.parametrize("name", ["Big", "a" * 41, "%00", "a_b"])
async def test_a_wrong_name_is_refused(api: Api, name: str) -> None:
    ada = await api.person("ada")
    assert (await ada.client.put(place(name), json={"spec": {}})).status_code == 422
    assert (await ada.client.get(place(name))).status_code == 404


async def test_a_configuration_set_many_times_at_once_is_there_once(api: Api) -> None:
    ada = await api.person("ada")
    wishes = ({"spec": {"n_workers": i}} for i in range(6))
    answers = await asyncio.gather(*(ada.client.put(place("x"), json=wish) for wish in wishes))
    assert {response.status_code for response in answers} == {200}
    assert len((await ada.client.get("/api/v1/accounts/ada/configurations")).json()) == 1


async def test_two_accounts_may_use_one_name(api: Api) -> None:
    ada, eve = await api.person("ada"), await api.person("eve")
    await ada.client.put(place("x"), json={"spec": {"n_workers": 1}})
    await eve.client.put(place("x", "eve"), json={"spec": {"n_workers": 2}})
    assert (await ada.client.get(place("x"))).json()["spec"] == {"n_workers": 1}


# The audit trail


async def test_every_change_is_recorded_with_who_made_it(api: Api, clock: FakeClock) -> None:
    root = await api.operator()
    before = (await root.client.get("/api/v1/audit")).json()[-1]["id"]
    clock.advance(60)
    password = "correct horse battery"
    await root.client.post("/api/v1/users", json={"username": "ada", "password": password})
    token = (await api.client.post("/api/v1/login", json={"username": "ada", "password": password})).json()
    ada = await api.connect(token["token"])
    await ada.patch("/api/v1/users/ada", json={"email": "a@b.c"})
    await root.client.post("/api/v1/accounts", json={"slug": "physics"})
    await root.client.put("/api/v1/accounts/physics/members/ada", json={"role": "admin"})
    await root.client.patch("/api/v1/accounts/physics", json={"core_limit": 3})
    await ada.put("/api/v1/accounts/physics/configurations/big", json={"spec": {"n_workers": 9}})
    await ada.delete("/api/v1/accounts/physics/configurations/big")
    await root.client.put("/api/v1/hosted", json={"core_hour_price": 0.5})
    await root.client.delete("/api/v1/accounts/physics/members/root")
    await ada.delete("/api/v1/tokens/login")
    events = (await root.client.get(f"/api/v1/audit?after={before}")).json()
    assert [(event["code"], event["actor"]) for event in events] == [
        ("user.created", "root"),
        ("token.created", "ada"),
        ("user.updated", "ada"),
        ("account.created", "root"),
        ("member.set", "root"),
        ("account.updated", "root"),
        ("configuration.set", "ada"),
        ("configuration.deleted", "ada"),
        ("cloud_account.updated", "root"),
        ("member.removed", "root"),
        ("token.revoked", "ada"),
    ]
    assert {event["time"] for event in events} == {"2026-01-02T03:05:05Z"}


async def test_the_audit_trail_is_read_in_pages(api: Api) -> None:
    root = await api.operator()
    for i in range(5):
        await root.client.post("/api/v1/tokens", json={"name": f"t{i}"})
    everything = (await root.client.get("/api/v1/audit?after=0&limit=1000")).json()
    ids = [event["id"] for event in everything]
    assert ids == sorted(ids)
    newest = (await root.client.get("/api/v1/audit?limit=2")).json()
    assert newest == everything[-2:]
    pages, after = [], 0
    while page := (await root.client.get(f"/api/v1/audit?after={after}&limit=3")).json():
        pages += page
        after = page[-1]["id"]
    assert pages == everything


@pytest.mark.parametrize("query", ["limit=0", "limit=1001", "limit=x", "after=-1", "after=99999999999999999999"])
async def test_wrong_pages_are_refused(api: Api, query: str) -> None:
    root = await api.operator()
    assert (await root.client.get(f"/api/v1/audit?{query}")).status_code == 422


async def test_a_change_that_changes_nothing_is_not_recorded(api: Api) -> None:
    root = await api.operator()
    settings = (await root.client.get("/api/v1/hosted")).json()
    before = await audit(root.client)
    await root.client.put("/api/v1/hosted", json=settings)
    await root.client.patch("/api/v1/users/root", json={"operator": True, "disabled": False})
    await root.client.patch("/api/v1/accounts/root", json={"core_limit": None})
    assert await audit(root.client) == before
