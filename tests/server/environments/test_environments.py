"""Software environments: names, versions and builds, by the API, with a builder that does as it is told."""

from __future__ import annotations

import hashlib
import json
from typing import Any, cast

import httpx
import pytest
from sqlalchemy import select

from ropewalk.backends.memory import MemoryBackend
from ropewalk.errors import FixItError, TryAgainError
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.cloud_accounts.service import HOSTED_ID
from ropewalk.server.db.models import CloudAccount, EnvironmentBuild
from ropewalk.server.environments import housekeeping
from ropewalk.server.environments.builders import files_of
from ropewalk.server.environments.reconciler import Environments
from tests.server.environments.conftest import FakeBuilder
from tests.support.api import Api
from tests.support.clock import FakeClock
from tests.support.waiting import eventually

DASK = {"pip": ["dask==1", "distributed==1"]}
ROOT = "/api/v1/accounts/ada"


@pytest.fixture
def backends() -> Backends:
    return Backends({"local": MemoryBackend()})


async def create(client: httpx.AsyncClient, name: str, spec: dict[str, Any], status: int = 200, **more: Any) -> Any:
    answer = await client.post(f"{ROOT}/environments", json={"name": name, "spec": spec, **more})
    assert answer.status_code == status, answer.text
    return answer.json()


async def over(client: httpx.AsyncClient, build: str) -> Any:
    """Wait until a build is over; return it."""

    async def look() -> Any:
        found = (await client.get(f"{ROOT}/builds/{build}")).json()
        return found if found["state"] in ("ready", "failed") else None

    return await eventually(look)


async def made(client: httpx.AsyncClient, name: str, spec: dict[str, Any], **more: Any) -> Any:
    """Create an environment and wait for its build; return it with its versions."""
    wish = await create(client, name, spec, **more)
    await over(client, wish["build"])
    return (await client.get(f"{ROOT}/environments/{name}")).json()


async def test_a_version_is_made_for_each_change_and_for_nothing_else(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    first = await made(ada, "etl", DASK)
    assert (first["version"], first["state"], len(builder.asked)) == (1, "ready", 1)
    assert builder.asked[0].spec.python, "the server says which Python is meant"
    # The same in another order and with other spaces is the same.
    again = await create(ada, "etl", {"pip": ["distributed == 1".replace(" ", ""), "dask==1"]})
    assert (again["latest"], again["state"], len(builder.asked)) == (1, "ready", 1)
    second = await made(ada, "etl", {"pip": ["dask==2", "distributed==1", "six==1"], "environ": {"A": "1"}})
    assert (second["version"], [each["number"] for each in second["versions"]]) == (2, [2, 1])
    forced = await made(ada, "etl", second["versions"][0]["spec"], force_rebuild=True)
    assert (forced["version"], len(builder.asked)) == (3, 3)
    assert builder.asked[2].lock is None, "all is resolved anew"
    diff = (await ada.get(f"{ROOT}/environments/etl/diff", params={"before": 1, "after": 2})).json()
    assert [each["name"] for each in diff["added"]] == ["six"]
    assert [(a["version"], b["version"]) for a, b in diff["changed"]] == [("1", "2")]
    assert diff["spec"]["environ"] == ["{}", '{"A": "1"}']
    rebuilt = (await ada.post(f"{ROOT}/environments/etl/rebuild")).json()
    assert rebuilt["latest"] == 4
    await over(ada, rebuilt["build"])
    assert [each["name"] for each in (await ada.get(f"{ROOT}/environments")).json()] == ["etl"]


async def test_a_build_that_fails_changes_nothing_and_says_why(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    await made(ada, "etl", DASK)
    explanation = "Because there is no version of six==99 and you require six==99, there is no solution."
    builder.answer = lambda _request: FixItError(explanation, field="pip", advice="Ask for one that exists.")
    failed = await made(ada, "etl", {"pip": ["dask==1", "distributed==1", "six==99"]})
    assert (failed["version"], failed["latest"], failed["state"]) == (1, 2, "failed")
    assert explanation in failed["reason"]
    log = (await ada.get(f"{ROOT}/builds/{failed['versions'][0]['builds'][0]['id']}/log")).json()
    assert log["complete"]
    assert explanation in log["text"]
    # Asked for once more, it is tried once more.
    builder.answer = lambda _request: None
    mended = await made(ada, "etl", failed["versions"][0]["spec"])
    assert (mended["version"], mended["latest"]) == (3, 3)


async def test_two_builds_of_one_hash_are_made_once_whatever_they_are_called(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    builder.gate.clear()
    one, two = await create(ada, "one", DASK), await create(ada, "two", DASK)
    await eventually(lambda: builder.asked)
    builder.gate.set()
    first, second = await over(ada, one["build"]), await over(ada, two["build"])
    assert (first["state"], second["state"]) == ("ready", "ready")
    assert len(builder.asked) == 1
    assert second["reused"]


async def test_a_passing_fault_is_tried_again_and_a_lasting_one_given_up(
    api: Api, builder: FakeBuilder, clock: FakeClock
) -> None:
    ada = (await api.person("ada")).client
    builder.answer = lambda _request: TryAgainError("The server's disk is full.", advice="Free space.", delay=5)
    wish = await create(ada, "etl", DASK)

    async def waits(tries: int) -> bool:
        codes = [each["code"] for each in (await ada.get(f"{ROOT}/builds/{wish['build']}/events")).json()]
        return codes.count("environment.retrying") == tries

    for tries in range(1, 8):
        await eventually(lambda tries=tries: waits(tries))  # type: ignore[misc] # bound now
        found = (await ada.get(f"{ROOT}/builds/{wish['build']}")).json()
        assert found["reason"].startswith("The server's disk is full. Free space. It is tried again in ")
        clock.advance(61)
        api.context.wakeups.wake("build")
    failed = await over(ada, wish["build"])
    assert (failed["state"], len(builder.asked)) == ("failed", 8)
    codes = [each["code"] for each in (await ada.get(f"{ROOT}/builds/{wish['build']}/events")).json()]
    assert codes[0] == "environment.created"
    assert codes.count("environment.retrying") == 7
    assert codes[-1] == "environment.failed"


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
async def test_what_the_system_refuses_a_builder_is_told_and_counted_as_a_try(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    builder.answer = lambda _request: PermissionError(1, "Operation not permitted")
    wish = await create(ada, "etl", DASK)

    async def told() -> str | None:
        found = (await ada.get(f"{ROOT}/builds/{wish['build']}")).json()
        return cast("str | None", found["reason"])

    await eventually(told)
    reason = await told()
    assert reason is not None
    assert reason.startswith("The builder could not go on: Operation not permitted.")
    assert "It is tried again in 5 seconds." in reason


async def test_a_build_outlives_the_server_that_began_it(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    builder.gate.clear()
    wish = await create(ada, "etl", DASK)
    await eventually(lambda: builder.asked)
    first: Environments = api.app.state.environments
    # As if it had been killed: nothing of it goes on, and nothing is given back.
    for task in [*first.loops.tasks.values(), *first._workers.values()]:
        task.cancel()
    async with api.context.db.transaction() as session:
        row = (await session.scalars(select(EnvironmentBuild))).one()
        assert row.lease_owner == first.owner
        # The name of a process of this machine that has ended: this one's, with another time of its beginning.
        row.lease_owner = "/".join([*row.lease_owner.split("/")[:3], "1", "0"])
    second = Environments(api.context)
    await second.start()
    try:
        await eventually(lambda: len(builder.asked) == 2)
        builder.gate.set()
        assert (await over(ada, wish["build"]))["state"] == "ready"
    finally:
        await second.stop()
    text = (await ada.get(f"{ROOT}/builds/{wish['build']}/log")).json()["text"]
    assert text.count("Looking around.") == 2, "what was said before the crash stays said"


async def test_a_cluster_waits_for_its_environment_and_runs_in_it(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    wish = {"name": "c", "n_workers": 0, "software": "etl"}
    unknown = await ada.post(f"{ROOT}/clusters", json=wish)
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "software")
    environment = await made(ada, "etl", {**DASK, "environ": {"FROM": "etl"}})
    await made(ada, "etl", {**DASK, "environ": {"FROM": "etl"}, "python": "3.10"})
    folder = builder.root / environment["versions"][0]["spec_hash"]
    folder.rmdir()
    # What was built is gone: it is built again by itself, and whoever wishes the cluster is told.
    builder.gate.clear()
    refused = (await ada.post(f"{ROOT}/clusters", json={**wish, "software": "etl:1"})).json()["error"]
    assert (refused["code"], refused["details"]["environment"]) == ("conflict", "building")
    assert "is being built again, since it was removed" in refused["message"]
    builder.gate.set()
    assert (await over(ada, refused["details"]["build"]))["state"] == "ready"
    assert builder.asked[-1].lock is not None, "the very same packages"
    cluster = await ada.post(f"{ROOT}/clusters", json={**wish, "software": "etl:1"})
    assert (cluster.status_code, cluster.json()["software"]) == (201, "etl:1")
    # While it lives, its packages are kept, however long ago they were asked for.
    assert folder.is_dir()


async def test_package_sync_is_asked_for_only_where_packages_differ(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    other = {"name": "c", "n_workers": 0, "fingerprint": "of another machine"}
    refused = (await ada.post(f"{ROOT}/clusters", json=other)).json()["error"]
    assert refused["details"] == {"environment": "needed", "platform": "linux/amd64", "target": "local", "conda": False}
    named = await made(ada, "etl", DASK)
    assert named["version"] == 1
    chosen = await ada.post(f"{ROOT}/clusters", json={**other, "software": "etl"})
    assert chosen.status_code == 201
    async with api.context.db.transaction() as session:
        hosted = await session.get_one(CloudAccount, HOSTED_ID)
        hosted.settings = {**hosted.settings, "image": "of the team's choice"}
    assert (await ada.post(f"{ROOT}/clusters", json={**other, "name": "e"})).status_code == 201
    older_client = await ada.post(f"{ROOT}/clusters", json={"name": "d", "n_workers": 0})
    assert older_client.status_code == 201


async def test_private_environments_and_those_of_others(api: Api, builder: FakeBuilder) -> None:
    ada, bob = (await api.person("ada")).client, (await api.person("bob")).client
    await api.team("team", ada="admin", bob="member")
    path = "/api/v1/accounts/team/environments"
    for name, private in (("mine", True), ("ours", False)):
        assert (await ada.post(path, json={"name": name, "spec": DASK, "private": private})).status_code == 200
    assert [each["name"] for each in (await bob.get(path)).json()] == ["ours"]
    assert (await bob.get(f"{path}/mine")).status_code == 404
    assert (await bob.post(path, json={"name": "mine", "spec": DASK})).status_code == 409
    # What is there already may be asked for by everybody; changed and deleted, by its creator and administrators.
    assert (await bob.post(path, json={"name": "ours", "spec": DASK})).status_code == 200
    assert (await bob.post(path, json={"name": "ours", "spec": {"pip": ["dask==2"]}})).status_code == 403
    assert (await bob.delete(f"{path}/ours")).status_code == 403
    assert (await ada.delete(f"{path}/ours")).status_code == 204
    assert (await bob.get(f"{path}/ours")).status_code == 404
    again = await bob.post(path, json={"name": "ours", "spec": DASK})
    assert (again.status_code, again.json()["creator"], again.json()["latest"]) == (200, "bob", 1)


async def test_wheels_are_kept_by_hash_and_only_what_is_missing_is_sent(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    content = b"a wheel"
    digest = hashlib.sha256(content).hexdigest()
    wheel = {"filename": "own-1-py3-none-any.whl", "sha256": digest, "size": len(content)}
    spec = {**DASK, "wheels": [wheel]}
    assert (await create(ada, "etl", spec, 422))["error"]["details"]["missing"] == [digest]
    place = f"{ROOT}/wheels/{digest}/{wheel['filename']}"
    assert (await ada.put(place, content=b"another")).status_code == 422
    assert (await ada.post(f"{ROOT}/wheels/missing", json={"wheels": [wheel]})).json() == [wheel]
    assert (await ada.put(place, content=content)).status_code == 204
    assert (await ada.post(f"{ROOT}/wheels/missing", json={"wheels": [wheel]})).json() == []
    assert (await ada.get(place)).content == content
    await made(ada, "etl", spec)
    assert builder.asked[0].wheels[digest].read_bytes() == content
    bob = (await api.person("bob")).client
    others = place.replace("/ada/", "/bob/")
    assert (await bob.get(others)).status_code == 404, "wheels are the account's own"


async def test_credentials_reach_the_builder_and_neither_log_nor_events(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    secret = "warble-warble"
    spec = {**DASK, "extra_index_urls": ["https://index.example.org/simple"], "credentials": ["ours"]}
    assert (await create(ada, "etl", spec, 404))["error"]["field"] == "credentials"
    given = {"url": "https://index.example.org/simple", "username": "reader", "password": secret}
    assert secret not in (await ada.put(f"{ROOT}/index-credentials/ours", json=given)).text
    builder.says = [f"GET https://reader:{secret}@index.example.org/simple"]
    builder.answer = lambda _request: FixItError(f"The index said no to {secret}.", field="credentials")
    failed = await made(ada, "etl", spec)
    build = failed["versions"][0]["builds"][0]["id"]
    assert builder.asked[0].credentials[0].password == secret
    told = [(await ada.get(f"{ROOT}/builds/{build}/{what}")).text for what in ("log", "events")]
    assert all(secret not in text for text in (*told, json.dumps(failed)))
    assert "***" in told[0]
    assert (await ada.delete(f"{ROOT}/index-credentials/ours")).status_code == 204


async def test_a_log_is_followed_while_it_grows(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    builder.gate.clear()
    wish = await create(ada, "etl", DASK)
    place = f"{ROOT}/builds/{wish['build']}/log"

    async def begun() -> Any:
        part = (await ada.get(place)).json()
        return part if "A step was done." in part["text"] else None

    part = await eventually(begun)
    assert not part["complete"]
    assert (await ada.get(place, params={"offset": part["next"]})).json()["text"] == ""
    builder.gate.set()
    # Waits until there is more, and ends with the build.
    text = ""
    while not part["complete"]:
        part = (await ada.get(place, params={"offset": part["next"], "wait": 20})).json()
        text += part["text"]
    assert "is ready" in text
    stream = (await ada.get(place, params={"follow": "true"})).text
    assert "event: log" in stream
    assert "A step was done." in stream


async def test_what_nobody_uses_is_removed_in_the_end(api: Api, builder: FakeBuilder, clock: FakeClock) -> None:
    ada = (await api.person("ada")).client
    files = files_of(api.context)
    builder.root = files.venvs
    for name, managed in (("named", False), ("sync-1", True)):
        spec = {"pip": [*DASK["pip"], f"{name}==1"]}
        await made(ada, name, spec, managed=managed)
    folders = {each.name for each in files.venvs.iterdir()}
    assert len(folders) == 2
    used = await ada.post(f"{ROOT}/clusters", json={"name": "c", "n_workers": 0, "software": "named"})
    assert used.status_code == 201
    clock.advance(31 * 24 * 3600)
    await housekeeping.tidy(api.context, files)
    # The cluster lives, so its packages stay; those of package sync are gone, with their environment.
    assert len(list(files.venvs.iterdir())) == 1
    assert [e["name"] for e in (await ada.get(f"{ROOT}/environments", params={"managed": "true"})).json()] == ["named"]


async def test_what_cannot_be_built_in_a_place_is_refused_at_once(api: Api, builder: FakeBuilder) -> None:
    ada = (await api.person("ada")).client
    refused = (await create(ada, "etl", {"container": "dask:latest"}, 422))["error"]
    assert (refused["field"], refused["advice"]) == ("container", "Leave container out.")
    both = {"name": "c", "software": "etl", "container": "dask:latest"}
    assert (await ada.post(f"{ROOT}/clusters", json=both)).json()["error"]["field"] == "container"
    assert not builder.asked
