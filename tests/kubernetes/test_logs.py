"""What nodes wrote, while they run and when Kubernetes has forgotten them."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from ropewalk.backends.kubernetes import archive as archives
from ropewalk.backends.kubernetes import keeper
from ropewalk.backends.kubernetes.archive import Archive, Record
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.kubernetes.logs import Tail
from ropewalk.backends.port import Answer
from tests.kubernetes.nodes import handle, request, seen, until
from tests.support.kube_space import Space
from tests.support.waiting import eventually


def write(space: Space, name: str, text: str) -> None:
    space.plane.agent("POST", f"/test/write/{space.namespace}/{name}", text=text)


async def runs(space: Space, name: str) -> None:
    await eventually(lambda: space.pod(name)["status"]["phase"] == "Running")


async def begun(backend: KubernetesBackend, name: str = "s") -> bool:
    """Return whether it wrote something, and is known to run: whose log is followed, is seen by the watch."""
    chunk = await backend.logs(handle(name))
    return "it begins" in chunk.text and keeper._has_log(backend._watch.pods[name])


@pytest.fixture(autouse=True)
def a_program_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let pods print something and wait, in place of Dask's own start."""
    program = """
import signal, sys, time
def asked(*_):
    print("told to stop", flush=True)
    sys.exit(0)
signal.signal(signal.SIGTERM, asked)
print("it begins", flush=True)
def main(argv, environ):
    time.sleep(600)
"""
    boot = Path(__file__).parents[2] / "src/ropewalk/backends/kubernetes/boot.py"
    programs = {"main.py": program, "boot.py": boot.read_text()}
    monkeypatch.setattr("ropewalk.backends.kubernetes.objects._programs", lambda: programs)


class TestOfAStoppedNode:
    async def test_have_the_last_words_although_its_pod_is_gone(self, space: Space, tmp_path: Path) -> None:
        backend = space.backend(tmp_path)
        await backend.launch(request("s"))
        await runs(space, "s")
        await eventually(lambda: begun(backend))
        write(space, "s", "in between\n")
        await backend.stop([handle("s")])
        await until(backend, "s", Answer.GONE)

        async def kept() -> str | None:
            chunk = await backend.logs(handle("s"))
            return chunk.text if chunk.complete else None

        text = await eventually(kept)
        assert [line for line in text.splitlines() if line] == ["it begins", "in between", "told to stop"]
        assert "s" not in space.names("pods")
        await backend.close()

    async def test_are_known_to_the_next_server_with_how_it_ended(
        self, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper, "REAP_SECONDS", 0.5)
        first = space.backend(tmp_path)
        await first.launch(request("s", "w1"))
        await runs(space, "w1")
        await seen(first, "w1")
        space.plane.agent("POST", f"/test/kill/{space.namespace}/w1", reason="OOMKilled")
        await until(first, "w1", Answer.GONE)
        await first.stop([handle("s"), handle("w1")])
        await eventually(lambda: space.names("pods") == set())
        await eventually(lambda: all(Archive(tmp_path).record("c1", name) for name in ("s", "w1")))
        await first.close()
        second = space.backend(tmp_path)
        sighting = await seen(second, "w1")
        assert (sighting.answer, sighting.exit_code) == (Answer.GONE, -9)
        assert "OOMKilled" in (sighting.reason or "")
        assert (await second.logs(handle("w1"))).complete
        (again, _) = await second.launch(request("s", "w1"))
        assert again.error is None
        assert space.names("pods") == set()
        await second.close()


async def test_of_a_pod_that_somebody_else_deletes_are_kept_and_it_says_so(space: Space, tmp_path: Path) -> None:
    backend = space.backend(tmp_path)
    await backend.launch(request("s"))
    await runs(space, "s")
    await eventually(lambda: begun(backend))
    space.plane.agent("POST", f"/test/keep/{space.namespace}/s")
    space.plane.ask("DELETE", space.path("pods", "s"))
    sighting = await until(backend, "s", Answer.GONE)
    assert "was deleted in Kubernetes" in (sighting.reason or "")
    assert sighting.exit_code is None  # 0 would say that it was done

    async def kept() -> bool:
        chunk = await backend.logs(handle("s"))
        return chunk.complete and "told to stop" in chunk.text

    await eventually(kept)
    await backend.close()
    later = space.backend(tmp_path)
    again = await seen(later, "s")
    assert (again.exit_code, again.reason) == (None, sighting.reason)
    await later.close()


class TestOfANodeThatEndedByItself:
    async def test_are_put_away_after_a_time_and_the_cluster_with_it(
        self, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(keeper, "REAP_SECONDS", 0.5)
        backend = space.backend(tmp_path)
        await backend.launch(request("s"))
        await runs(space, "s")
        await eventually(lambda: begun(backend))
        space.plane.agent("POST", f"/test/kill/{space.namespace}/s")
        sighting = await until(backend, "s", Answer.GONE)
        assert sighting.exit_code == -9
        await eventually(lambda: space.names("pods") == set() == space.names("services"))
        chunk = await backend.logs(handle("s"))
        assert "it begins" in chunk.text
        assert chunk.complete
        assert (await seen(backend, "s")).exit_code == -9
        await backend.close()

    async def test_are_put_away_by_the_next_server_if_this_one_is_dead(
        self, space: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        first = space.backend(tmp_path)
        await first.launch(request("s"))
        await first.close()
        await runs(space, "s")
        space.plane.agent("POST", f"/test/kill/{space.namespace}/s")
        await eventually(lambda: space.pod("s")["status"]["phase"] == "Failed")
        monkeypatch.setattr(keeper, "REAP_SECONDS", 0.5)
        second = space.backend(tmp_path)
        await second.inventory()
        await eventually(lambda: space.names("services") == set())
        await second.close()


async def test_before_a_container_was_made_are_empty_and_go_on(space: Space) -> None:
    backend = space.backend(image="stuck/dask:1")
    await backend.launch(request("s"))
    chunk = await backend.logs(handle("s"))
    assert (chunk.text, chunk.complete) == ("", False)
    await backend.close()


async def test_that_a_kubelet_has_begun_anew_are_read_from_their_new_beginning(space: Space) -> None:
    backend = space.backend()
    await backend.launch(request("s"))
    await runs(space, "s")
    await eventually(lambda: begun(backend))
    chunk = await backend.logs(handle("s"), cursor="5000000")
    assert "it begins" in chunk.text
    await backend.close()


class TestArchive:
    def test_keeps_the_end_and_where_it_began(self) -> None:
        tail = Tail()
        for i in range(40):
            tail.add(bytes([65 + i % 26]) * 100_000)
        tail.cut()
        assert len(tail.content) == archives.KEPT_LOG
        assert tail.start + len(tail.content) == 4_000_000

    def test_cursors_of_the_living_node_go_on_in_what_is_kept(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep("c1", "s", Record(log_start=100), b"0123456789")
        assert archive.log("c1", "s", "105", 100).text == "56789"
        assert archive.log("c1", "s", "50", 100).text == "0123456789"
        chunk = archive.log("c1", "s", None, 4)
        assert (chunk.text, chunk.cursor, chunk.complete) == ("0123", "104", False)

    def test_forgets_after_thirty_days(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep("c1", "s", Record(), b"x")
        archive.remove_expired()
        assert archive.has_log("c1", "s")
        month = archives.KEPT_SECONDS + 60
        archive.remove_expired(now=(tmp_path / "c1" / "s.log").stat().st_mtime + month)
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize("name", ["../s", "a/b", ".hidden"])
    def test_never_leaves_its_folder(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="not a name"):
            Archive(tmp_path).keep("c1", name, Record())

    def test_a_damaged_record_is_none(self, tmp_path: Path) -> None:
        archive = Archive(tmp_path)
        archive.keep("c1", "s", Record())
        (tmp_path / "c1" / "s.json").write_text("{")
        assert archive.record("c1", "s") is None

    def test_a_temporary_one_goes_with_its_object(self) -> None:
        archive = Archive()
        archive.keep("c1", "s", Record(), b"x")
        folder = archive._temporary
        assert folder is not None
        archive.close()
        assert not folder.exists()


async def test_many_nodes_logs_are_followed_at_once(space: Space, tmp_path: Path) -> None:
    names = [f"w{i}" for i in range(8)]
    backend = space.backend(tmp_path)
    await backend.launch(request("s", *names))
    await asyncio.gather(*(runs(space, name) for name in ("s", *names)))
    await backend.observe([handle(name) for name in names])

    for name in names:
        await eventually(lambda name=name: begun(backend, name))  # type: ignore[misc] # bound now
    await backend.stop([handle(name) for name in ("s", *names)])
    await eventually(lambda: space.names("services") == set())
    for name in names:

        async def told(name: str = name) -> bool:
            return "told to stop" in (await backend.logs(handle(name))).text

        await eventually(told)
    await backend.close()
