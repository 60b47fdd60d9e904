"""The logs of a cluster: newest first, page by page, found by words, followed, and as a file."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass

import pytest

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.errors import TryAgainError
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.clusters import logs
from ropewalk.server.identity import access, sessions
from ropewalk.server.web import cluster_logs
from ropewalk.server.web.cluster_logs import LINES
from ropewalk.server.web.deps import AccountVisit
from tests.server.web.test_clusters import create
from tests.support.api import Api, Person
from tests.support.pages import Visitor
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
"""Nothing here depends on the database that others do not try on both."""


@pytest.fixture
def cloud() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
def backends(cloud: MemoryCloud) -> Backends:
    return Backends(overrides={"local": MemoryBackend(cloud)})


@dataclass
class Scene:
    """ada's cluster etl, which is ready, and ada in front of it."""

    person: Person
    ada: Visitor
    cloud: MemoryCloud
    cluster: str

    @property
    def path(self) -> str:
        return f"/accounts/ada/clusters/{self.cluster}/logs"

    def write(self, node: str, text: str) -> None:
        self.cloud.write_log(f"{self.cluster}-{node}", text)

    async def stop(self) -> None:
        await self.person.client.delete(f"/api/v1/accounts/ada/clusters/{self.cluster}")

        async def stopped() -> bool:
            answer = await self.person.client.get(f"/api/v1/accounts/ada/clusters/{self.cluster}")
            return bool(answer.json()["state"] == "stopped")

        await eventually(stopped)


@pytest.fixture
async def scene(api: Api, cloud: MemoryCloud) -> Scene:
    person = await api.person("ada")
    made = Scene(person, await Visitor.make(api, "ada"), cloud, await create(person, "etl", n_workers=1))

    async def started() -> bool:
        answer = await person.client.get(f"/api/v1/accounts/ada/clusters/{made.cluster}")
        return bool(answer.json()["workers_ready"] == 1)

    await eventually(started)
    return made


def shown(visitor: Visitor) -> list[str]:
    """Return the lines of the page, each with its node."""
    lines = visitor.page.text.split('<span class="line-node">')[1:]
    return [
        each.split("</div>")[0].replace('</span><span class="line-text">', ": ")[: -len("</span>")] for each in lines
    ]


async def test_lines_of_all_nodes_are_one_story_in_the_order_in_which_they_were_written(scene: Scene) -> None:
    scene.write(
        "worker-1", "2026-01-01 10:00:02,5 - app - WARNING - second <b>\n\x1b[31mred\x1b[0m\n10%\r100%\nhalf a li"
    )
    scene.write("scheduler", "2026-01-01 10:00:01,000 - a - INFO - first\n2026-01-01T10:00:03.1 - a - ERROR - third\n")
    await scene.ada.open(scene.path)
    assert shown(scene.ada) == [
        "scheduler: 2026-01-01 10:00:01,000 - a - INFO - first",
        "worker-1: 2026-01-01 10:00:02,5 - app - WARNING - second &lt;b&gt;",
        "worker-1: red",
        "worker-1: 100%",
        "scheduler: 2026-01-01T10:00:03.1 - a - ERROR - third",
    ]
    assert scene.ada.page.text.count("line-warning") == scene.ada.page.text.count("line-error") == 1
    assert f'sse-connect="{scene.path}/live?node=&amp;search="' in scene.ada.page.text
    scene.write("worker-1", "ne")
    await scene.stop()
    await scene.ada.open(scene.path)
    assert "worker-1: half a line" in shown(scene.ada), "also after the end, and what no line feed ended"
    assert "Everything has ended: this is all." in scene.ada.text
    assert "sse-connect" not in scene.ada.page.text


async def test_long_logs_are_read_page_by_page_without_scripts(scene: Scene) -> None:
    count = 2 * LINES + 10
    scene.write("worker-1", "".join(f"line {n}\n" for n in range(count)))
    await scene.ada.open(scene.path)
    assert len(shown(scene.ada)) == LINES
    assert "To go further back, choose one node" in scene.ada.text
    await scene.ada.open(f"{scene.path}?node=worker-1")
    seen: list[str] = []
    for _ in range(5):
        seen = shown(scene.ada) + seen
        if "Earlier lines" not in scene.ada.page.text:
            break
        link = scene.ada.page.text.partition("Earlier lines")[0].rpartition('href="')[2].partition('"')[0]
        await scene.ada.open(f"{scene.path}{link.replace('&amp;', '&')}")
    assert seen == [f"worker-1: line {n}" for n in range(count)]
    assert "lines 1 to 10" in scene.ada.text
    assert "Later lines" in scene.ada.text


async def test_words_are_looked_for_in_all_of_it_and_marked(scene: Scene) -> None:
    scene.write("worker-1", "an Error <i>\n" + "".join(f"line {n}\n" for n in range(LINES + 5)))
    scene.write("scheduler", "no e.ror\n")
    await scene.ada.open(f"{scene.path}?search=eRROR%20%3C")
    assert shown(scene.ada) == ["worker-1: an <mark>Error &lt;</mark>i&gt;"]
    await scene.ada.open(f"{scene.path}?search=e.r")
    assert len(shown(scene.ada)) == 1, "the words themselves, no pattern"
    await scene.ada.open(f"{scene.path}?search=nothing-like-it")
    assert shown(scene.ada) == []
    assert (await scene.ada.open(f"{scene.path}?node=worker-7")).status_code == 404


async def test_a_log_is_downloaded_as_it_was_written(scene: Scene) -> None:
    scene.write("worker-1", "a\x1b[0m\nb")
    scene.write("scheduler", "<script>\n")
    one = await scene.ada.client.get(f"{scene.path}/download?node=worker-1")
    assert one.text == "a\x1b[0m\nb"
    assert one.headers["Content-Disposition"] == 'attachment; filename="etl-worker-1.log"'
    assert one.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert one.headers["X-Content-Type-Options"] == "nosniff"
    everything = await scene.ada.client.get(f"{scene.path}/download")
    assert everything.text == "==> scheduler <==\n<script>\n\n==> worker-1 <==\na\x1b[0m\nb\n\n"
    assert (await scene.ada.client.get(f"{scene.path}/download?node=nix")).status_code == 404


async def test_a_node_that_cannot_be_read_is_told_and_hides_no_other(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write("scheduler", "still here\n")
    whole = MemoryBackend.logs

    async def broken(self: MemoryBackend, node: object, *rest: object) -> object:
        if str(getattr(node, "name", "")).endswith("worker-1"):
            raise TryAgainError("The cloud is away.")
        return await whole(self, node, *rest)  # type: ignore[arg-type] # as it came

    monkeypatch.setattr(MemoryBackend, "logs", broken)
    await scene.ada.open(scene.path)
    assert "The log of worker-1 cannot be read now: The cloud is away." in scene.ada.text
    assert shown(scene.ada) == ["scheduler: still here"]


async def follower(api: Api, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[str]:
    """Return the stream of the page that ada has open, which looks often."""
    monkeypatch.setattr(cluster_logs, "LEAST_SECONDS", 0.01)
    monkeypatch.setattr(cluster_logs, "MOST_SECONDS", 0.01)
    cookie = scene.ada.client.cookies["ropewalk_session"]
    found = await sessions.find(api.context, cookie)
    assert found is not None
    caller = await access.to_account(api.context, found.caller, "ada")
    reader = logs.Reader(api.context, caller, scene.cluster)
    return cluster_logs._follow(api.context, AccountVisit(caller, found.csrf), cookie, reader)


async def test_what_is_written_comes_by_itself_until_all_has_ended(
    api: Api, scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.write("worker-1", "before\n")
    stream = await follower(api, scene, monkeypatch)
    assert (await anext(stream)).startswith("retry:")
    first = await anext(stream)
    assert first.startswith("event: window\ndata: ")
    assert "before" in first
    scene.write("worker-1", "after <b>\nunfinished")
    second = await asyncio.wait_for(anext(stream), PATIENCE)
    assert second.startswith("event: lines\ndata: ")
    assert "after &lt;b&gt;" in second
    assert "unfinished" not in second
    assert "before" not in second
    await scene.stop()
    rest = [event async for event in stream]
    assert "unfinished" in rest[0]
    assert [event.split("\n")[0] for event in rest[-2:]] == ["event: status", "event: ended"]


async def test_who_signs_out_hears_no_more(api: Api, scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    stream = await follower(api, scene, monkeypatch)
    assert "retry" in await anext(stream)
    await anext(stream)
    await sessions.end(api.context, scene.ada.client.cookies["ropewalk_session"])
    scene.write("worker-1", "secret\n")
    assert [event async for event in stream] == []
