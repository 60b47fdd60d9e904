"""Software environments in the browser, by a builder that does as it is told."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import pytest

from ropewalk.errors import FixItError
from ropewalk.schemas.common import Event
from ropewalk.schemas.environments import (
    EnvironmentBuild,
    EnvironmentSpec,
    EnvironmentVersion,
    LocalWheel,
    LockedPackage,
)
from ropewalk.server.environments import builds
from ropewalk.server.environments.progress import stages
from ropewalk.server.identity import access, sessions
from ropewalk.server.web import environment_builds
from ropewalk.server.web.clicks import prose
from ropewalk.server.web.deps import AccountVisit
from ropewalk.server.web.environment_form import TEXTS, Typed, shown, wish_of, with_file
from ropewalk.server.web.environment_packages import found, rows
from tests.server.environments.conftest import FakeBuilder, builder
from tests.support.api import Api, Person
from tests.support.pages import Visitor
from tests.support.waiting import eventually

__all__ = ["builder"]

HOME = "/accounts/ada/environments"
NEW = "/accounts/ada/new-environment"
PIP = "dask==1\ndistributed==1"
NOW = datetime(2026, 1, 1, tzinfo=UTC)
EXPLANATION = "Because there is no version of six==99 and you require six==99, there is no solution."


on_sqlite = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""For what asks nothing of the database that others do not try on both."""


@dataclass
class Scene:
    """ada in front of the pages of her account's environments."""

    api: Api
    person: Person
    ada: Visitor
    builder: FakeBuilder

    async def send(self, path: str, *, file: tuple[str, bytes] | None = None, do: str = "build", **fields: Any) -> Any:
        """Open a form, send it as a browser does, and go where that leads."""
        await self.ada.open(path)
        data = self.ada.fields(path) | {"do": do} | fields
        files = {"file": file or ("", b"")}
        self.ada.page = await self.ada.client.post(path, data=data, files=files, follow_redirects=True)
        return self.ada.page

    async def built(self, path: str = NEW, **fields: Any) -> str:
        """Make an environment or a version; return the path of its build's page when that is over."""
        await self.send(path, **fields)
        page = str(self.ada.page.url.path)
        assert page.startswith("/accounts/ada/builds/"), self.ada.text

        async def over() -> bool:
            found = await self.person.client.get(f"/api/v1{page}")
            return bool(found.json()["state"] in ("ready", "failed"))

        await eventually(over)
        await self.ada.open(page)
        return page


@pytest.fixture
async def scene(api: Api, builder: FakeBuilder) -> Scene:
    person = await api.person("ada")
    return Scene(api, person, await Visitor.make(api, "ada"), builder)


def wrong_field(page: str) -> str:
    """Return the id of what is marked as wrong."""
    return str(re.findall(r'id="([\w-]+)"[^>]*aria-invalid="true"', page)[0])


async def test_one_is_made_changed_compared_used_and_deleted(scene: Scene) -> None:
    ada = scene.ada
    assert "There is none yet" in (await ada.open(HOME)).text
    build = await scene.built(name="etl", pip=f"{PIP}\nsix==1", private="yes")
    assert "Version 1 is ready" in ada.text
    assert "Done: Find packages that fit together" in ada.text
    assert "Looking around." in ada.text, "the log"
    log = await ada.client.get(f"{build}/log/download")
    assert log.headers["content-disposition"] == 'attachment; filename="etl-1.log"'
    assert "A step was done." in log.text
    await ada.open(f"{HOME}/etl/new-version")
    assert "six==1" in ada.page.text, "it begins with what there is"
    await scene.built(f"{HOME}/etl/new-version", pip="dask==2\ndistributed==1\nidna", environ="A=<b>", private="yes")
    await ada.open(f"{HOME}/etl")
    for part in ("Version 2 in use", "its creator only", "A=<b>", "never", 'Cluster(software="etl", account="ada")'):
        assert part in ada.text, part
    assert "<b>" not in ada.page.text
    await ada.open(f"{HOME}/etl/diff")
    assert "1 added 1 removed 1 changed" in ada.text
    assert re.search(r"dask 1 2 .* idna 1 .* six 1 .* Environment variables nothing A=<b>", ada.text), ada.text
    await ada.open(f"{HOME}/etl/versions/2")
    assert "dask asked for 2 package index" in ada.text
    await ada.open(f"{HOME}/etl/versions/2?search=IDN")
    assert "idna asked for" in ada.text
    assert "1 of 3." in ada.text
    assert "dask asked" not in ada.text
    await _cluster(scene, "night")
    wish = {"spec": {"software": "etl:1"}}
    await scene.person.client.put("/api/v1/accounts/ada/configurations/nightly", json=wish)
    await ada.open(HOME)
    assert re.search(r"etl private ready version 2 .* night ", ada.text), ada.text
    await ada.open(f"{HOME}/etl/delete")
    assert "All its 2 versions go" in ada.text
    assert "Used now by night" in ada.text
    assert "Named in the configuration nightly" in ada.text
    await ada.submit(f"{HOME}/etl/delete")
    assert "It was deleted" in ada.text
    assert "There is none yet" in ada.text
    assert (await ada.open(f"{HOME}/etl")).status_code == 404


async def _cluster(scene: Scene, name: str) -> None:
    size = {"worker_memory": "1 GiB", "scheduler_memory": "1 GiB"}
    wish = {"name": name, "n_workers": 1, "software": "etl", **size}
    answer = await scene.person.client.post("/api/v1/accounts/ada/clusters", json=wish)
    assert answer.status_code == 201, answer.text
    await scene.ada.open(f"/accounts/ada/clusters/{name}")
    assert f'href="{HOME}/etl/versions/2">etl, version 2</a>' in scene.ada.page.text


async def test_a_build_that_fails_says_why_and_leads_to_the_field(scene: Scene) -> None:
    ada = scene.ada
    await scene.built(name="etl", pip=PIP)
    advice = "Ask for one that exists, or see `ropewalk env credentials set`."
    scene.builder.answer = lambda _request: FixItError(EXPLANATION, field="pip", advice=advice)
    build = await scene.built(f"{HOME}/etl/new-version", pip=f"{PIP}\nsix==99")
    assert f"It could not be built {EXPLANATION} What to do: Ask for one that exists" in ada.text
    assert "see Credentials of package indexes ." in ada.text, "what to click, and no command"
    assert "Failed: Find packages that fit together" in ada.text
    assert f"Failed: {EXPLANATION}" in ada.text, "in the log, too"
    await ada.open(f"{HOME}/etl")
    assert "Version 2 could not be built" in ada.text
    assert "Clusters go on getting version 1." in ada.text
    page = await ada.open(f"{HOME}/etl/new-version")
    assert EXPLANATION in ada.text
    assert wrong_field(page.text) == "pip"
    await ada.open(f"{HOME}/etl/diff?before=1&after=2")
    assert "The packages of version 2 are not known" in ada.text
    scene.builder.answer = lambda _request: None
    await ada.open(build)
    await ada.submit(f"{HOME}/etl/rebuild")
    assert ada.page.url.path != build, "a build of its own"
    assert "Build of etl, version 3" in ada.text


@on_sqlite
async def test_one_that_was_never_built_has_a_page_that_says_so(scene: Scene) -> None:
    scene.builder.answer = lambda _request: FixItError(EXPLANATION, field="pip")
    await scene.built(name="etl", pip="six==99")
    await scene.ada.open(f"{HOME}/etl")
    assert "Version 1 could not be built" in scene.ada.text
    assert "No cluster can use it yet." in scene.ada.text


@on_sqlite
async def test_what_is_not_there_leads_to_what_there_is(scene: Scene) -> None:
    await scene.built(name="etl", pip=PIP)
    for path, link, words in (
        (f"{HOME}/nosuch", HOME, "To the software environments of ada"),
        (f"{HOME.replace('environments', 'builds')}/eb-nosuch", HOME, "To the software environments of ada"),
        (f"{HOME}/etl/versions/9", f"{HOME}/etl", "To all versions of etl"),
    ):
        page = await scene.ada.open(path)
        assert page.status_code == 404
        assert f'href="{link}">{words}<' in page.text
        assert "ropewalk env" not in page.text, "a page advises no command"


@on_sqlite
async def test_what_is_wrong_is_marked_and_nothing_that_was_typed_is_lost(scene: Scene) -> None:
    await scene.built(name="there", pip=PIP)
    wishes: list[tuple[dict[str, Any], str]] = [
        ({"name": "No Name"}, "name"),
        ({"name": "there"}, "name"),
        ({"pip": "two words"}, "pip"),
        ({"pip": ""}, "pip"),
        ({"pip": "-r other.txt"}, "pip"),
        ({"python": "3"}, "python"),
        ({"environ": "lonely"}, "environ"),
        ({"environ": "LD_PRELOAD=x"}, "environ"),
        ({"container": "image:1"}, "container"),
        ({"index_url": "ftp://x"}, "index_url"),
        ({"extra_index_urls": "ftp://x"}, "extra_index_urls"),
        ({"conda": "python>3"}, "conda"),
        ({"file": ("setup.cfg", b"")}, "file"),
        ({"file": ("environment.yml", b"{")}, "file"),
        ({"file": ("environment.yml", b"\xff")}, "file"),
        ({"do": "read"}, "file"),
    ]
    for wrong, field in wishes:
        page = await scene.send(NEW, **{"name": "fine", "pip": PIP, "post_build": "kept, whatever happens", **wrong})
        assert page.status_code in (409, 422), (wrong, page.url)
        assert wrong_field(page.text) == field, wrong
        assert "kept, whatever happens" in page.text
        assert "at pip" not in scene.ada.text, "fields have labels here"
        assert f'href="{HOME}" aria-current="page"' in page.text


@on_sqlite
async def test_a_password_in_an_address_is_refused_and_not_shown_again(scene: Scene) -> None:
    for secret in ("https://me:hunter2@packages.example.org/x.whl", "https://packages.example.org/t/hunter2/x.whl"):
        page = await scene.send(NEW, name="etl", pip=f"{PIP}\nx @ {secret}")
        assert page.status_code == 422
        assert "user name or password" in scene.ada.text
        assert "hunter2" not in page.text
        assert "packages.example.org/x.whl" in page.text, "what to write in its place"


@on_sqlite
async def test_a_file_is_read_into_the_form_or_built_at_once(scene: Scene) -> None:
    file = ("requirements.txt", b"# ours\ndask==1\ndistributed==1\n")
    page = await scene.send(NEW, do="read", file=file, name="etl", pip="six==1")
    assert "requirements.txt was read" in scene.ada.text
    assert "six==1\n# ours\ndask==1\ndistributed==1</textarea>" in page.text
    assert scene.builder.asked == []
    await scene.built(file=file, name="etl")
    assert sorted(scene.builder.asked[0].spec.pip) == ["dask==1", "distributed==1"]
    await scene.send(f"{HOME}/etl/new-version", pip=PIP)
    assert "Nothing was changed, so there is nothing to build." in scene.ada.text
    assert scene.ada.page.url.path == f"{HOME}/etl"


@on_sqlite
async def test_what_was_typed_survives_the_end_of_a_session_but_for_secrets(scene: Scene) -> None:
    await scene.ada.open(NEW)
    data = scene.ada.fields(NEW) | {"name": "etl", "pip": "dask==1", "environ": "TOKEN=hunter2", "do": "build"}
    scene.ada.client.cookies.clear()
    away = await scene.ada.client.post(NEW, data=data)
    assert away.headers["location"].startswith("/sign-in?next=")
    assert "dask" in away.headers["location"]
    assert "hunter2" not in away.headers["location"]
    kept = {"pip": "x @ https://me:hunter2@packages.example.org/x.whl"}
    assert "hunter2" not in (await scene.ada.client.post(NEW, data=data | kept)).headers["location"]
    await scene.ada.enter("ada")
    page = await scene.ada.open(f"{NEW}?name=etl&pip=dask%3D%3D1")
    assert 'value="etl"' in page.text
    assert "dask==1</textarea>" in page.text


async def test_members_see_what_is_shared_and_change_only_what_they_made(scene: Scene) -> None:
    await scene.api.person("mia")
    await scene.api.team("team", ada="admin", mia="member")
    ada, mia = scene.ada, await Visitor.make(scene.api, "mia")
    base = "/api/v1/accounts/team/environments"
    for name, private in (("shared", False), ("hidden", True)):
        spec = {"pip": PIP.split()}
        await scene.person.client.post(base, json={"name": name, "spec": spec, "private": private})
    await mia.open("/accounts/team/environments")
    assert "shared" in mia.text
    assert "hidden" not in mia.text
    assert (await mia.open("/accounts/team/environments/hidden")).status_code == 404
    page = await mia.open("/accounts/team/environments/shared")
    assert "New version" not in mia.text
    assert "/shared/rebuild" not in page.text
    assert "/shared/delete" not in page.text
    build = re.findall(r'href="(/accounts/team/builds/[\w-]+)"', page.text)[0]
    assert (await mia.open(build)).status_code == 200
    assert (await mia.open(build.replace("/team/", "/mia/"))).status_code == 404
    await ada.open("/accounts/team/environments/shared")
    assert "New version" in ada.text


async def test_credentials_of_indexes_are_stored_named_and_deleted_but_never_shown(scene: Scene) -> None:
    ada, path = scene.ada, "/accounts/ada/index-credentials"
    await ada.open(path)
    fields = {"name": "ours", "url": "https://packages.example.org/simple", "username": "me", "password": "hunter2"}
    for wrong, field in (
        ({"name": "No Name"}, "name"),
        ({"url": "https://me:hunter2@packages.example.org"}, "url"),
        ({"password": ""}, "password"),
    ):
        page = await ada.submit(path, **(fields | wrong))
        assert (page.status_code, wrong_field(page.text)) == (422, field)
        assert "hunter2" not in page.text
    page = await ada.submit(path, **fields)
    assert "The credentials were stored, encrypted." in ada.text
    assert "ours https://packages.example.org/simple" in ada.text
    assert "hunter2" not in page.text
    await scene.built(name="etl", pip=PIP, credentials="ours", index_url="https://packages.example.org/simple")
    assert [each.password for each in scene.builder.asked[0].credentials] == ["hunter2"]
    page = await ada.open(f"{HOME}/etl/new-version")
    assert 'name="credentials" value="ours" checked' in page.text
    await ada.open(f"{HOME}/etl/versions/1")
    assert "package index (packages.example.org)" in ada.text
    await ada.open(f"{path}/ours/delete")
    await ada.submit(f"{path}/ours/delete")
    assert "None." in ada.text


@on_sqlite
async def test_a_log_is_followed_from_its_end_until_the_build_is_over(scene: Scene) -> None:
    scene.builder.gate.clear()
    scene.builder.says = ["warning: old", "<b>bold</b>"]
    await scene.send(NEW, name="etl", pip=PIP)
    path = scene.ada.page.url.path
    await eventually(lambda: scene.builder.asked)
    await scene.ada.open(path)
    assert "Now: Find packages that fit together" in scene.ada.text
    text = ""
    async for part in await _stream(scene, path.rpartition("/")[2]):
        text += part
        if "A step was done." in text:
            scene.builder.gate.set()
    assert text.count("A step was done.") == 1, "nothing twice"
    assert 'data: <div class="log-line line-warning">warning: old</div>' in text
    assert "&lt;b&gt;bold&lt;/b&gt;" in text
    assert "Version 1 of &#39;etl&#39; is ready." in text
    said, end = text.rstrip().split("\n\n")[-2:]
    assert "The build is over: this is all." in said
    assert end.startswith("event: ended")


async def _stream(scene: Scene, build: str) -> AsyncIterator[str]:
    """Return what the page of a build gets as it happens: without a server, an HTTP client would wait for its end."""
    context = scene.api.context
    cookie = scene.ada.client.cookies["ropewalk_session"]
    signed_in = await sessions.find(context, cookie)
    assert signed_in is not None
    visit = AccountVisit(await access.to_account(context, signed_in.caller, "ada"), signed_in.csrf)
    return environment_builds.following(context, visit, cookie, await builds.get(context, visit.caller, build))


# Parts, without a server


@pytest.mark.parametrize(
    "spec",
    [
        EnvironmentSpec(pip=["dask==1"], python="3.12", environ={"A": "1\n2"}, post_build=["one\ntwo", "three"]),
        EnvironmentSpec.model_validate({"conda": {"channels": ["c"], "dependencies": ["gdal"]}, "exact": True}),
        EnvironmentSpec(container="image:1", extra_index_urls=["https://a.example"], droppable=["x"], pip=["x"]),
        EnvironmentSpec(wheels=[LocalWheel(filename="own-1-py3-none-any.whl", sha256="0" * 64, size=1)]),
    ],
)
def test_what_the_form_shows_is_what_it_sends(spec: EnvironmentSpec) -> None:
    assert wish_of(shown(spec, "etl", private=False), spec).spec == spec


def test_every_part_of_a_specification_is_in_the_form() -> None:
    kept = {"exact", "droppable"}  # of package sync: not for people
    assert {*TEXTS, "credentials", "wheels"} - {"name", "channels"} == set(EnvironmentSpec.model_fields) - kept


def test_an_environment_yml_fills_the_fields_of_conda_and_pip() -> None:
    text = b"channels: [ours]\ndependencies: [python=3.12, gdal>=3, {pip: [six, --index-url https://a.example]}]\n"
    typed = with_file(Typed({"pip": "dask"}), "environment.yml", text)
    assert dict(typed.texts) == {
        "pip": "dask\nsix",
        "channels": "ours",
        "conda": "gdal>=3",
        "extra_index_urls": "",
        "python": "3.12",
        "index_url": "https://a.example",
    }


def test_packages_tell_where_they_came_from() -> None:
    wheel = LocalWheel(filename="own-1-py3-none-any.whl", sha256="0" * 64, size=1)
    spec = EnvironmentSpec(pip=["Dask[distributed]==1"], wheels=[wheel], extra_index_urls=["https://a.example/simple"])
    packages = [
        LockedPackage(name="dask", version="1"),
        LockedPackage(name="six", version="2", url="https://b.example/six.whl"),
        LockedPackage(name="own", version="1", url="wheel:" + "0" * 64),
        LockedPackage(
            name="gdal", version="3", build="h1", manager="conda", url="https://c.example/forge/linux-64/g.conda"
        ),
    ]
    about = {"id": "ev-1", "environment": "etl", "number": 1, "spec_hash": "", "state": "ready", "reason": None}
    made = {"creator": "ada", "created_at": NOW, "builds": [], "packages": packages, "spec": spec}
    version = EnvironmentVersion.model_validate({**about, **made})
    read = rows(version)
    assert [(row.name, row.version, row.source, row.asked) for row in read] == [
        ("dask", "1", "package index (a.example)", True),
        ("gdal", "3 h1", "conda: forge", False),
        ("own", "1", "uploaded: own-1-py3-none-any.whl", True),
        ("six", "2", "https://b.example/six.whl", False),
    ]
    assert [row.name for row in found(read, "FORGE", "")] == ["gdal"]
    assert [row.name for row in found(read, "", "asked")] == ["dask", "own"]


@pytest.mark.parametrize(
    ("target", "state", "told", "expected"),
    [
        ("local", "queued", [], ["waiting", "waiting"]),
        ("local", "building", [], ["now", "waiting"]),
        ("local", "building", ["resolved"], ["done", "now"]),
        ("local", "ready", [], ["done", "done"]),
        ("ca-1", "building", ["installed"], ["done", "done", "now"]),
        ("ca-1", "failed", ["resolved", "installed"], ["done", "done", "failed"]),
        ("ca-1", "building", ["resolved", "again"], ["now", "waiting", "waiting"]),
    ],
)
def test_how_far_a_build_is(target: str, state: str, told: list[str], expected: list[str]) -> None:
    about = {"id": "eb-1", "environment": "etl", "version": 1, "target": target, "platform": "linux/amd64"}
    times = {"created_at": NOW, "started_at": None, "finished_at": None, "log_size": 0}
    build = EnvironmentBuild.model_validate({**about, **times, "state": state, "reason": None})
    assert [stage.state for stage in stages(build, [_event(step) for step in told])] == expected


def _event(step: str) -> Event:
    code = "environment.rebuilding" if step == "again" else "environment.step"
    return Event(id=1, time=NOW, level="info", code=code, message=step, details={"step": step})


def test_messages_name_buttons_in_place_of_commands() -> None:
    assert prose("Run `ropewalk cloud-account prepare` for `<x>`.") == (
        "Run <strong>Prepare</strong> for <code>&lt;x&gt;</code>."
    )
    assert prose("A ` alone") == "A ` alone"
