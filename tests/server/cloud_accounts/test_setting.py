"""Choosing where an account's clusters run: what is accepted, what is refused, what is shown."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from sqlalchemy import select

from ropewalk.backends.memory import MemoryCloud
from ropewalk.errors import TryAgainError
from ropewalk.server.blueprint import Blueprint
from ropewalk.server.cloud_accounts import setting
from ropewalk.server.cloud_accounts.stored import credentials
from ropewalk.server.db.models import CloudAccount
from tests.server.cloud_accounts.conftest import KEY, ROOT, ROTATED, STRANGER, World, key


async def rows(world: World) -> list[CloudAccount]:
    async with world.api.context.db.read() as session:
        mine = select(CloudAccount).where(CloudAccount.account_id.is_not(None)).order_by(CloudAccount.created_at)
        return list(await session.scalars(mine))


async def test_a_key_is_tried_stored_encrypted_and_never_shown(world: World, blueprints: list[Blueprint]) -> None:
    ada = await world.admin()
    answer = await world.set(ada, credentials=KEY, settings={"region": "eu-central-1"})
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    assert (shown["kind"], shown["state"], shown["has_credentials"]) == ("aws", "new", True)
    assert shown["identity"] == {"owner": "111", "name": "arn:aws:iam::111:user/one", "warning": None}
    assert shown["settings"]["region"] == "eu-central-1"
    assert "canary" not in answer.text
    assert shown == await world.show(ada)
    (row,) = await rows(world)
    assert credentials(world.api.context.vault, row) == KEY
    assert row.credentials is not None
    assert b"canary" not in row.credentials
    assert (blueprints[0].place.account, blueprints[0].place.cloud_account) == ("ada", row.id)


async def test_a_key_that_the_cloud_refuses_is_not_stored(world: World) -> None:
    ada = await world.admin()
    answer = await world.set(ada, credentials=key("wrong"))
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (422, "access_key_id")
    assert "AKIAWRONG00000000000 is not valid" in error["message"]
    assert await rows(world) == []
    assert (await world.show(ada))["kind"] == "hosted"


@pytest.mark.parametrize("outage", [TryAgainError("AWS is away."), None])
async def test_nothing_is_stored_while_the_cloud_cannot_be_asked(
    world: World, aws: MemoryCloud, outage: TryAgainError | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada = await world.admin()
    if outage is None:
        monkeypatch.setattr(setting, "IDENTITY_SECONDS", 0.05)
        aws.call_latency = 3600
    else:
        aws.inject("identity", outage)
    answer = await world.set(ada, credentials=KEY)
    assert answer.status_code == 503
    assert "nothing was stored" in answer.json()["error"]["message"]
    assert await rows(world) == []


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"credentials": KEY, "session_token": "canary-token"}, "session_token"),
        ({"session_token": "canary-token"}, "session_token"),
        ({"credentials": KEY | {"access_key_id": "ASIATEMPORARY0000000"}}, "access_key_id"),
        ({"credentials": KEY | {"secret_access_key": "canary"}}, "secret_access_key"),
        ({}, "credentials"),
        ({"credentials": KEY, "settings": {"external_id": "mine"}}, "settings.external_id"),
        ({"credentials": KEY, "settings": {"endpoint_url": "http://169.254.169.254"}}, "settings.endpoint_url"),
        ({"credentials": KEY, "settings": {"region": 7}}, "settings.region"),
    ],
)
async def test_what_cannot_work_is_refused_with_its_field(world: World, wish: dict[str, Any], field: str) -> None:
    ada = await world.admin()
    answer = await world.set(ada, **wish)
    assert answer.status_code == 422
    assert answer.json()["error"]["field"] == field
    assert "canary" not in answer.text
    assert await rows(world) == []


async def test_temporary_credentials_are_refused_with_the_reason_and_the_alternative(world: World) -> None:
    ada = await world.admin()
    error = (await world.set(ada, credentials=KEY, session_token="canary-token")).json()["error"]
    assert "temporary credentials" in error["message"]
    assert "long-lived access key" in error["advice"]
    assert "role_arn" in error["advice"]


async def test_the_root_users_key_is_accepted_with_a_warning(world: World) -> None:
    ada = await world.admin()
    shown = (await world.set(ada, credentials=ROOT)).json()
    assert shown["identity"]["warning"] == "This is the root user's key."


async def test_settings_change_without_the_credentials_and_the_other_way_round(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY, settings={"region": "eu-west-1", "log_retention_days": 7})
    shown = (await world.set(ada, settings={"log_retention_days": 90})).json()
    assert (shown["settings"]["region"], shown["settings"]["log_retention_days"]) == ("eu-west-1", 90)
    shown = (await world.set(ada, credentials=ROTATED)).json()
    assert (shown["settings"]["region"], shown["identity"]["name"]) == ("eu-west-1", "arn:aws:iam::111:user/two")
    (row,) = await rows(world)
    assert credentials(world.api.context.vault, row) == ROTATED


async def test_the_external_id_is_shown_before_there_is_a_role_and_never_changes(world: World) -> None:
    ada, bob = await world.admin(), await world.admin("bob")
    before = (await world.show(ada))["external_id"]
    assert before
    shown = (await world.set(ada, credentials=KEY, settings={"external_id": before})).json()
    assert shown["external_id"] == shown["settings"]["external_id"] == before
    assert (await world.show(bob))["external_id"] != before


@pytest.mark.parametrize(
    ("address", "expected", "notes"),
    [
        ("5.6.7.8", ["5.6.7.8/32"], 0),
        ("2a00:1450::1", ["2a00:1450::1/128"], 0),
        ("127.0.0.1", [], 1),
        ("10.1.2.3", [], 1),
        ("testclient", [], 1),
    ],
)
async def test_whoever_sets_it_may_reach_schedulers_if_the_server_saw_a_public_address(
    world: World, address: str, expected: list[str], notes: int
) -> None:
    ada = await world.admin(address=address)
    shown = (await world.set(ada, credentials=KEY)).json()
    assert shown["settings"]["allow_ingress_from"] == expected
    assert len(shown["notes"]) == notes
    chosen = (await world.set(ada, settings={"allow_ingress_from": ["9.9.9.0/24"]})).json()
    assert (chosen["settings"]["allow_ingress_from"], chosen["notes"]) == (["9.9.9.0/24"], [])
    assert (await world.set(ada, credentials=ROTATED)).json()["settings"]["allow_ingress_from"] == ["9.9.9.0/24"]


async def test_a_key_of_another_aws_account_is_refused_while_resources_of_the_old_one_exist(world: World) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    answer = await world.set(ada, credentials=STRANGER)
    error = answer.json()["error"]
    assert (answer.status_code, error["field"]) == (409, "credentials")
    assert "of 222, not of 111" in error["message"]
    assert error["details"]["held"] == ["network memory-network", "role memory-role", "nat memory-nat"]
    assert (await world.show(ada))["identity"]["owner"] == "111"
    await world.ask(ada, "POST", "/teardown")
    await world.until(ada, "removed")
    assert (await world.set(ada, credentials=STRANGER)).json()["identity"]["owner"] == "222"


async def test_another_region_is_refused_while_resources_exist(world: World) -> None:
    ada = await world.admin()
    await world.prepared(ada)
    answer = await world.set(ada, settings={"region": "eu-west-3"})
    assert (answer.status_code, answer.json()["error"]["field"]) == (409, "settings.region")
    assert (await world.set(ada, settings={"region": "us-east-1", "log_retention_days": 90})).status_code == 200


async def test_two_who_set_it_at_once_cannot_mix_their_wishes(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    aws.inject("identity", delay=0.0)

    original = setting._try

    async def overtaken(*arguments: Any) -> Any:
        identity = await original(*arguments)
        monkey.undo()
        assert (await world.set(ada, settings={"log_retention_days": 90})).status_code == 200
        return identity

    with pytest.MonkeyPatch.context() as monkey:
        monkey.setattr(setting, "_try", overtaken)
        answer = await world.set(ada, settings={"log_retention_days": 14})
    assert answer.status_code == 409
    assert (await world.show(ada))["settings"]["log_retention_days"] == 90


async def test_the_same_first_wish_twice_at_once_makes_one_cloud_account(world: World, aws: MemoryCloud) -> None:
    ada = await world.admin()
    # Each has looked at what is stored, and asked the cloud, before any of them stores something.
    together = asyncio.Barrier(3)

    async def wait(_seconds: float) -> None:
        await together.wait()

    aws.sleep = wait
    aws.inject("identity", delay=0.1, times=3)
    same: dict[str, Any] = {"credentials": KEY, "settings": {"region": "eu-west-1"}}
    answers = await asyncio.gather(*(world.set(ada, **same) for _ in range(2)), world.set(ada, credentials=ROTATED))
    statuses = [answer.status_code for answer in answers]
    assert statuses in ([200, 200, 409], [409, 409, 200]), "the other one may be first"
    (row,) = await rows(world)
    shown = await world.show(ada)
    assert (row.id, shown["set_by"], shown["work"]) == (shown["id"], "ada", None)
    assert [event["code"] for event in await world.ask(ada, "GET", "/events")] == ["cloud_account.updated"]


async def test_setting_it_is_an_event_without_secrets(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY)
    await world.set(ada, settings={"log_retention_days": 90}, credentials=ROTATED)
    events = await world.ask(ada, "GET", "/events")
    assert [(event["code"], event["actor"]) for event in events] == [("cloud_account.updated", "ada")] * 2
    assert "new credentials; changed log_retention_days" in events[1]["message"]
    assert "canary" not in str(events)


# Kubernetes


KUBECONFIG = """
apiVersion: v1
kind: Config
current-context: one
contexts:
- {name: one, context: {cluster: c, user: u, namespace: team}}
- {name: two, context: {cluster: c, user: u, namespace: other}}
clusters:
- {name: c, cluster: {server: "https://k8s.example.org:6443"}}
users:
- {name: u, user: {token: canary-kube-token}}
"""


async def test_of_a_kubeconfig_one_context_is_kept_and_its_token_never_shown(
    world: World, blueprints: list[Blueprint]
) -> None:
    ada = await world.admin()
    answer = await world.set(ada, kind="kubernetes", kubeconfig=KUBECONFIG)
    assert answer.status_code == 200, answer.text
    shown = answer.json()
    facts = ("namespace", "context", "server")
    assert [shown["settings"][name] for name in facts] == ["team", "one", "https://k8s.example.org:6443"]
    assert (shown["kind"], shown["state"], shown["has_credentials"]) == ("kubernetes", "ready", True)
    assert "canary" not in answer.text
    assert (blueprints[-1].credentials or {})["token"] == "canary-kube-token"


async def test_another_context_can_be_chosen_but_only_with_the_kubeconfig(world: World) -> None:
    ada = await world.admin()
    answer = await world.set(ada, kind="kubernetes", kubeconfig=KUBECONFIG, settings={"context": "two"})
    assert answer.json()["settings"]["namespace"] == "other"
    refused = await world.set(ada, kind="kubernetes", settings={"context": "one"})
    assert (refused.status_code, refused.json()["error"]["field"]) == (422, "settings.context")
    unknown = await world.set(ada, kind="kubernetes", settings={"image_registry_credentials": "nobody-stored"})
    assert unknown.json()["error"]["field"] == "settings.image_registry_credentials"
    changed = await world.set(ada, kind="kubernetes", settings={"reach": "gateway"})
    assert (changed.json()["settings"]["reach"], changed.json()["settings"]["context"]) == ("gateway", "two")


async def test_a_kubeconfig_that_would_run_a_program_is_refused(world: World) -> None:
    ada = await world.admin()
    bad = KUBECONFIG.replace("token: canary-kube-token", "exec: {command: canary-command}")
    answer = await world.set(ada, kind="kubernetes", kubeconfig=bad)
    assert (answer.status_code, answer.json()["error"]["field"]) == (422, "users[u].user.exec")
    assert await rows(world) == []


async def test_insecure_tls_needs_the_operators_consent(world: World) -> None:
    ada = await world.admin()
    bad = KUBECONFIG.replace('6443"}', '6443", insecure-skip-tls-verify: true}')
    assert (await world.set(ada, kind="kubernetes", kubeconfig=bad)).status_code == 422
    context = world.api.context
    context.settings = context.settings.model_copy(update={"kubernetes_allow_insecure": True})
    assert (await world.set(ada, kind="kubernetes", kubeconfig=bad)).status_code == 200


# From one kind to another


async def test_back_to_hosted_nothing_is_forgotten(world: World) -> None:
    ada = await world.admin()
    first = await world.prepared(ada)
    hosted = (await world.set(ada, kind="hosted")).json()
    assert hosted["kind"] == "hosted"
    assert [(other["id"], other["owner"], other["resources"]) for other in hosted["others"]] == [
        (first["id"], "111", 3)
    ]
    again = (await world.set(ada)).json()
    assert (again["id"], again["state"], len(again["resources"])) == (first["id"], "ready", 3)


async def test_each_kind_keeps_its_own_settings_and_credentials(world: World) -> None:
    ada = await world.admin()
    await world.set(ada, credentials=KEY, settings={"region": "eu-west-1"})
    kubernetes = (await world.set(ada, kind="kubernetes", kubeconfig=KUBECONFIG)).json()
    assert [other["kind"] for other in kubernetes["others"]] == ["aws"]
    back = (await world.set(ada)).json()
    assert (back["settings"]["region"], back["others"][0]["kind"]) == ("eu-west-1", "kubernetes")


# Who may


async def test_members_look_and_check_but_only_administrators_change(world: World) -> None:
    await world.admin("boss")
    mia = await world.admin("mia")
    await world.api.team("team", boss="admin", mia="member")
    path = "/api/v1/accounts/team/cloud-account"
    assert (await mia.client.get(path)).status_code == 200
    assert (await mia.client.get(f"{path}/events")).status_code == 200
    assert (await mia.client.get(f"{path}/prepare")).status_code == 200
    assert (await mia.client.post(f"{path}/check")).status_code == 200
    assert (await world.set(mia, "team", credentials=KEY)).status_code == 403
    assert (await mia.client.delete(path)).status_code == 403
    assert (await mia.client.post(f"{path}/prepare", json={})).status_code == 403
    assert (await mia.client.post(f"{path}/teardown")).status_code == 403


async def test_the_cloud_account_of_another_account_cannot_be_named(world: World) -> None:
    ada, eve = await world.admin(), await world.admin("eve")
    shown = (await world.set(ada, credentials=KEY)).json()
    for method, path in (("GET", ""), ("DELETE", ""), ("POST", "/check"), ("POST", "/teardown"), ("GET", "/events")):
        answer = await eve.client.request(method, f"/api/v1/accounts/eve/cloud-account{path}?id={shown['id']}")
        assert answer.status_code == 404, (method, path)
