"""Where clusters run: the hosted cloud account, checks, encrypted credentials, rotation, backends."""

from __future__ import annotations

import asyncio
import json
import sys
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import LargeBinary, func, select

from ropewalk.backends.local import LocalBackend
from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.errors import FixItError, InternalError, NotFoundError, SecretsError, TryAgainError
from ropewalk.server.cloud_accounts import rotation, service
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.cloud_accounts.stored import credentials, set_credentials
from ropewalk.server.context import Context
from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import Account, Base, CloudAccount, Cluster, Installation, new_id
from ropewalk.server.secrets import Vault, generate_key
from tests.support.api import Api
from tests.support.clock import FakeClock


@pytest.fixture
def cloud() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
def backends(cloud: MemoryCloud) -> Backends:
    return Backends({"local": MemoryBackend(cloud)})


async def own_cloud_account(context: Context, slug: str | None = None, **values: Any) -> CloudAccount:
    """Put a cloud account of another kind into the table, as later kinds will."""
    now = context.clock.now()
    columns = {"kind": "aws", "backend": "aws", "settings": {}, "infrastructure": {}} | values
    row = CloudAccount(id=new_id("ca"), account_id=None, created_at=now, updated_at=now, **columns)
    async with context.db.transaction() as session:
        session.add(row)
        await session.flush()
        if slug is not None:
            account = (await session.scalars(select(Account).where(Account.slug == slug))).one()
            row.account_id, account.cloud_account_id = account.id, row.id
    return row


# Hosted


async def test_every_account_is_hosted_until_it_has_its_own(api: Api) -> None:
    ada = await api.person("ada")
    shown = (await ada.client.get("/api/v1/accounts/ada/cloud-account")).json()
    assert (shown["kind"], shown["backend"], shown["has_credentials"], shown["last_check"]) == (
        "hosted",
        "local",
        False,
        None,
    )
    assert shown["settings"]["core_hour_price"] == 0.0
    await own_cloud_account(api.context, "ada")
    assert (await ada.client.get("/api/v1/accounts/ada/cloud-account")).json()["kind"] == "aws"


async def test_the_hosted_account_is_made_once_however_often_servers_start(context: Context) -> None:
    await asyncio.gather(*(service.ensure_hosted(context) for _ in range(5)))
    await service.ensure_hosted(context)
    async with context.db.read() as session:
        assert await session.scalar(select(func.count()).select_from(CloudAccount)) == 1


async def test_a_missing_hosted_account_is_told_as_the_defect_it_is(context: Context) -> None:
    account = Account(id="a-1", slug="ada", kind="personal", created_at=context.clock.now())
    async with context.db.read() as session:
        with pytest.raises(InternalError, match="'ada' is missing"):
            await service.resolve(session, account)


async def test_the_operator_changes_hosted_settings(api: Api, clock: FakeClock) -> None:
    root, ada = await api.operator(), await api.person("ada")
    clock.advance(60)
    answer = await root.client.put("/api/v1/hosted", json={"core_hour_price": 0.05, "currency": "EUR"})
    assert answer.status_code == 200
    assert (await root.client.get("/api/v1/hosted")).json() == answer.json()
    seen = (await ada.client.get("/api/v1/accounts/ada/cloud-account")).json()
    assert (seen["settings"]["core_hour_price"], seen["settings"]["currency"]) == (0.05, "EUR")
    assert seen["updated_at"] == "2026-01-02T03:05:05Z"
    events = (await root.client.get("/api/v1/audit")).json()
    assert events[-1]["message"] == "The hosted cloud account was changed: core_hour_price, currency."


@pytest.mark.parametrize(
    ("wish", "field"),
    [
        ({"core_hour_price": -1}, "core_hour_price"),
        ({"core_hour_price": 1e9}, "core_hour_price"),
        ({"currency": "euro"}, "currency"),
        ({"log_retention_days": 0}, "log_retention_days"),
        ({"listen_port": 1}, "listen_port"),
    ],
)
async def test_wrong_hosted_settings_change_nothing(api: Api, wish: dict[str, Any], field: str) -> None:
    root = await api.operator()
    before = (await root.client.get("/api/v1/hosted")).json()
    refused = await root.client.put("/api/v1/hosted", json={"gib_hour_price": 1} | wish)
    assert refused.status_code == 422
    assert refused.json()["error"]["field"] == field
    assert (await root.client.get("/api/v1/hosted")).json() == before


# Checks


async def test_a_check_is_reported_and_kept(api: Api) -> None:
    ada, root = await api.person("ada"), await api.operator()
    before = (await ada.client.get("/api/v1/accounts/ada/cloud-account")).json()
    report = await ada.client.post("/api/v1/accounts/ada/cloud-account/check")
    assert report.status_code == 200
    assert report.json()["items"]
    after = (await ada.client.get("/api/v1/accounts/ada/cloud-account")).json()
    assert after["last_check"] == report.json()
    assert after["updated_at"] == before["updated_at"], "a check changes no setting"
    event = (await root.client.get("/api/v1/audit")).json()[-1]
    assert (event["code"], event["actor"]) == ("cloud_account.checked", "ada")


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (FixItError("No permission.", advice="Give ec2:RunInstances.", field="role"), "failed"),
        (TryAgainError("Throttled."), "unknown"),
    ],
)
async def test_a_check_that_cannot_be_made_is_a_report_too(
    api: Api, cloud: MemoryCloud, error: Exception, status: str
) -> None:
    ada = await api.person("ada")
    cloud.inject("check", error)  # type: ignore[arg-type] # both are backend errors
    report = (await ada.client.post("/api/v1/accounts/ada/cloud-account/check")).json()
    assert [(item["status"], item["message"]) for item in report["items"]] == [(status, str(error).split(".")[0] + ".")]


async def test_a_check_that_hangs_is_reported_after_its_time(
    api: Api, cloud: MemoryCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "CHECK_SECONDS", 0.05)
    cloud.call_latency = 3600
    ada = await api.person("ada")
    report = (await ada.client.post("/api/v1/accounts/ada/cloud-account/check")).json()
    assert report["items"][0]["status"] == "unknown"
    assert "did not end within 0.05 seconds" in report["items"][0]["message"]


async def test_a_kind_without_a_backend_says_so_in_its_check(api: Api) -> None:
    ada = await api.person("ada")
    await own_cloud_account(api.context, "ada", backend="abacus")
    report = (await ada.client.post("/api/v1/accounts/ada/cloud-account/check")).json()
    assert report["items"][0]["status"] == "failed"
    assert "no backend 'abacus'" in report["items"][0]["message"]


# Credentials


async def test_credentials_are_encrypted_for_their_row_and_never_shown(api: Api) -> None:
    ada = await api.person("ada")
    row = await own_cloud_account(api.context, "ada")
    secret = {"access_key_id": "AKIA", "secret_access_key": "canary/ü"}
    async with api.context.db.transaction() as session:
        stored = await session.get_one(CloudAccount, row.id)
        set_credentials(api.context.vault, stored, secret, api.context.clock.now())
    async with api.context.db.read() as session:
        stored = await session.get_one(CloudAccount, row.id)
    assert stored.credentials is not None
    assert b"canary" not in stored.credentials
    assert credentials(api.context.vault, stored) == secret
    shown = await ada.client.get("/api/v1/accounts/ada/cloud-account")
    assert shown.json()["has_credentials"]
    assert "canary" not in shown.text
    stored.id = "ca-other"
    with pytest.raises(SecretsError):
        credentials(api.context.vault, stored)


async def test_no_credentials_are_none(context: Context) -> None:
    assert credentials(context.vault, await own_cloud_account(context)) is None


async def test_credentials_that_are_no_map_are_refused(context: Context) -> None:
    row = await own_cloud_account(context)
    place = {"table": "cloud_accounts", "row": row.id, "field": "credentials"}
    row.credentials = context.vault.encrypt(json.dumps(["a"]).encode(), **place)
    with pytest.raises(SecretsError, match="not what was stored"):
        credentials(context.vault, row)


# Rotation


def ciphers(context: Context, vault: Vault) -> list[Base]:
    """Return a row of every table with ciphertext, made with *vault*."""
    now = context.clock.now()
    account = Account(id="a-1", slug="ada", kind="personal", created_at=now)
    cloud_account = CloudAccount(
        id="ca-1", kind="aws", backend="aws", settings={}, infrastructure={}, created_at=now, updated_at=now
    )
    set_credentials(vault, cloud_account, {"key": "value"}, now)
    check = vault.encrypt(b"ropewalk", table="installation", row="i-1", field="key_check")
    return [account, cloud_account, Installation(id="i-1", created_at=now, key_check=check)]


def test_rotation_knows_every_column_with_ciphertext() -> None:
    columns = {
        (table.name, column.name)
        for table in Base.metadata.tables.values()
        for column in table.columns
        if isinstance(column.type, LargeBinary)
    }
    known = rotation.encrypted_columns()
    assert {(str(model.__tablename__), name) for model, name in known} == columns
    assert {(Cluster, "secret"), (CloudAccount, "credentials"), (Installation, "key_check")} <= set(known)
    assert all([column.name for column in model.__table__.primary_key] == ["id"] for model, _ in known)


async def test_rotation_encrypts_everything_anew_and_the_old_key_can_go(context: Context) -> None:
    old, new = generate_key(), generate_key()
    async with context.db.transaction() as session:
        session.add_all(ciphers(context, Vault([old])))
        updated_at = (await session.get_one(CloudAccount, "ca-1")).updated_at
    both = Vault([new, old])
    assert await rotation.rotate(context.db, both) == 2
    assert await rotation.rotate(context.db, both) == 0
    only_new = Vault([new])
    async with context.db.read() as session:
        row = await session.get_one(CloudAccount, "ca-1")
        installation = await session.get_one(Installation, "i-1")
    assert credentials(only_new, row) == {"key": "value"}
    assert row.updated_at == updated_at, "the settings are the same"
    place = {"table": "installation", "row": "i-1", "field": "key_check"}
    assert only_new.decrypt(installation.key_check, **place) == b"ropewalk"


async def test_rotation_goes_through_many_rows_in_batches(context: Context, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rotation, "BATCH", 3)
    old, new = generate_key(), generate_key()
    for i in range(10):
        row = await own_cloud_account(context)
        async with context.db.transaction() as session:
            stored = await session.get_one(CloudAccount, row.id)
            if i % 2:
                set_credentials(Vault([old]), stored, {"n": i}, context.clock.now())
    assert await rotation.rotate(context.db, Vault([new, old])) == 5


async def test_rotation_without_the_old_key_says_which_one_is_missing(context: Context) -> None:
    old, new = generate_key(), generate_key()
    async with context.db.transaction() as session:
        session.add_all(ciphers(context, Vault([old])))
    with pytest.raises(SecretsError, match=old.id):
        await rotation.rotate(context.db, Vault([new]))


async def test_clusters_can_be_read_after_a_rotation(api: Api) -> None:
    """The convention of table, row and field is the same on both sides."""
    ada = await api.person("ada")
    made = await ada.client.post("/api/v1/accounts/ada/clusters", json={"name": "etl", "environ": {"A": "b"}})
    assert made.status_code == 201, made.text
    new = Vault([generate_key()])
    old = api.context.vault
    both = Vault([*new._keys.values(), *old._keys.values()])
    assert await rotation.rotate(api.context.db, both) >= 2
    async with api.context.db.read() as session:
        row = (await session.scalars(select(Cluster))).one()
    assert b"certificates" in new.decrypt(row.secret, table="clusters", row=row.id, field="secret")


# Backends


@pytest.fixture
def registry(database: Database, context: Context) -> Backends:
    made = Backends()
    made.bind(database, context.settings, context.vault)
    return made


async def test_a_backend_is_kept_until_its_settings_change(context: Context, registry: Backends) -> None:
    await service.ensure_hosted(context)
    first = await registry.get(service.HOSTED_ID)
    assert isinstance(first, LocalBackend)
    assert await registry.get(service.HOSTED_ID) is first
    async with context.db.transaction() as session:
        row = await session.get_one(CloudAccount, service.HOSTED_ID)
        row.settings = row.settings | {"core_hour_price": 2.0}
        row.updated_at += timedelta(microseconds=1)
    second = await registry.get(service.HOSTED_ID)
    assert second is not first
    await registry.close()


async def test_many_who_ask_at_once_get_the_same_backend(context: Context, registry: Backends) -> None:
    await service.ensure_hosted(context)
    made = await asyncio.gather(*(registry.get(service.HOSTED_ID) for _ in range(10)))
    assert len({id(backend) for backend in made}) == 1
    await registry.close()


async def test_two_changes_within_one_tick_of_the_clock_both_count(api: Api) -> None:
    root = await api.operator()
    seen = set()
    for price in (1, 2, 3):
        await root.client.put("/api/v1/hosted", json={"core_hour_price": price})
        async with api.context.db.read() as session:
            seen.add((await session.get_one(CloudAccount, service.HOSTED_ID)).updated_at)
    assert len(seen) == 3


async def test_an_unknown_cloud_account_or_backend_is_an_error_to_act_on(context: Context, registry: Backends) -> None:
    with pytest.raises(NotFoundError):
        await registry.get("ca-nix")
    row = await own_cloud_account(context, backend="abacus")
    with pytest.raises(FixItError, match="no backend 'abacus'"):
        await registry.get(row.id)


async def test_tests_can_put_a_backend_in_place_by_id_or_kind(context: Context, database: Database) -> None:
    by_id, by_kind = MemoryBackend(), MemoryBackend()
    registry = Backends({"ca-1": by_id, "local": by_kind})
    registry.bind(database, context.settings, context.vault)
    await service.ensure_hosted(context)
    assert await registry.get("ca-1") is by_id
    assert await registry.get(service.HOSTED_ID) is by_kind
    await registry.close()


async def test_a_registry_that_was_not_bound_says_so() -> None:
    with pytest.raises(RuntimeError, match="bind"):
        await Backends().get("ca-1")


@pytest.mark.parametrize(("backend", "package"), [("aws", "aiobotocore"), ("kubernetes", "kubernetes_asyncio")])
async def test_a_kind_whose_packages_are_not_installed_says_what_to_install(
    context: Context, registry: Backends, backend: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    row = await own_cloud_account(context, backend=backend, kind=backend)
    with pytest.raises(FixItError, match=package) as caught:
        await registry.get(row.id)
    assert f"pip install '.[server,{backend}]'" in (caught.value.advice or "")


async def test_backends_of_teams_are_made_from_settings_credentials_and_resources(
    context: Context, database: Database
) -> None:
    settings = context.settings.model_copy(update={"aws_endpoint_url": "http://127.0.0.1:9"})
    registry = Backends()
    registry.bind(database, settings, context.vault)
    resources = [{"kind": "vpc", "id": "vpc-1", "details": {}}]
    aws = await own_cloud_account(context, infrastructure={"resources": resources})
    kubernetes = await own_cloud_account(
        context, backend="kubernetes", kind="kubernetes", settings={"namespace": "team"}
    )
    with pytest.raises(FixItError, match="has no credentials"):
        await registry.get(aws.id)
    secrets = {
        aws.id: {"access_key_id": "AKIA0000000000000000", "secret_access_key": "x" * 40},
        kubernetes.id: {"server": "https://127.0.0.1:9", "token": "t"},
    }
    for row_id, secret in secrets.items():
        async with context.db.transaction() as session:
            set_credentials(context.vault, await session.get_one(CloudAccount, row_id), secret, context.clock.now())
    assert [(await registry.get(row.id)).kind for row in (aws, kubernetes)] == ["aws", "kubernetes"]
    await registry.close()
