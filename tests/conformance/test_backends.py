"""The rules of ``ropewalk/backends/port.py``, proven on every backend."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from ropewalk.backends import wire
from ropewalk.backends.port import Answer, Backend, LogChunk, NodeHandle, NodeShape, Resource
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.clusters import NodeRole
from tests.conformance.harness import (
    CANARY,
    SHAPE,
    Harness,
    answer,
    called,
    certificates,
    handle,
    request,
    start,
    until,
)
from tests.support.waiting import PATIENCE, eventually

pytestmark = pytest.mark.timeout(600)  # nodes of all sorts on a busy machine, and their end

S, W1, W2 = handle("s"), handle("w1"), handle("w2")
START = 2 * PATIENCE
"""Seconds: a busy machine takes long to start schedulers and workers."""


async def logged(backend: Backend, node: NodeHandle) -> str:
    text, cursor = "", None
    while True:
        chunk = await backend.logs(node, cursor)
        text, cursor = text + chunk.text, chunk.cursor
        if not chunk.text:
            return text


def client_context(tmp_path: Path, role: str, cluster: str = "c1") -> ssl.SSLContext:
    tls = certificates(cluster).for_role(role)
    chain = tmp_path / f"{cluster}-{role}.pem"
    chain.write_text(tls["cert"] + tls["key"])
    context = ssl.create_default_context(cadata=certificates("c1").for_role(role)["ca"])
    context.check_hostname = False
    context.load_cert_chain(chain)
    return context


@asynccontextmanager
async def linked(
    backend: Backend, scheduler: NodeHandle, address: str, context: ssl.SSLContext
) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
    async def connect() -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        try:
            return await backend.connect(scheduler, address)
        except TryAgainError:
            return None

    reader, writer = await eventually(connect, within=START)
    try:
        await writer.start_tls(context)
        await wire.handshake(reader, writer)
        yield reader, writer
    finally:
        writer.close()
        with suppress(OSError):
            await writer.wait_closed()


async def ask(backend: Backend, scheduler: NodeHandle, address: str, context: ssl.SSLContext) -> object:
    async with linked(backend, scheduler, address, context) as (reader, writer):
        await wire.write(writer, {"op": "ropewalk_choose", "n": 1})
        answer: object = await asyncio.wait_for(wire.read(reader), PATIENCE)
        return answer


async def status_with(reader: asyncio.StreamReader, workers: set[str]) -> Mapping[str, Any]:
    while True:
        status: Mapping[str, Any] = await wire.read(reader)
        if set(status["workers"]) == workers:
            return status


class TestLaunch:
    async def test_starts_scheduler_and_workers_in_one_batch_and_names_each(self, harness: Harness) -> None:
        results = await start(harness.backend, "s", "w1", "w2")
        assert [result.name for result in results] == ["s", "w1", "w2"]
        assert [result.error for result in results] == [None] * 3
        assert len({result.cloud_id for result in results}) == 3
        assert (results[0].address or "").startswith("tls://")
        for node in (S, W1, W2):
            assert await answer(harness.backend, node) is Answer.RUNNING

    async def test_of_a_name_that_runs_changes_nothing_and_reports_it(self, harness: Harness) -> None:
        first = await start(harness.backend, "s", "w1")
        again = await start(harness.backend, "s", "w1")
        assert [(r.cloud_id, r.address, r.error) for r in again] == [(r.cloud_id, r.address, None) for r in first]

    async def test_by_two_servers_at_once_happens_once(self, harness: Harness) -> None:
        one, two = harness.backend, harness.restart()
        both = await asyncio.gather(start(one, "s", "w1"), start(two, "s", "w1"))
        assert [r.cloud_id for r in both[0]] == [r.cloud_id for r in both[1]]
        assert [r.error for results in both for r in results] == [None] * 4

    async def test_of_a_name_that_has_ended_does_not_start_it_again(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.kill(S)
        await until(harness.backend, S, Answer.GONE)
        await harness.backend.launch(request("s"))
        assert await answer(harness.backend, S) is Answer.GONE

    async def test_of_a_name_that_was_stopped_before_never_comes_up(self, harness: Harness) -> None:
        await harness.backend.stop([W1])
        (result,) = await harness.backend.launch(request("w1", scheduler="tls://127.0.0.1:1"))
        assert isinstance(result.error, FixItError)
        assert result.cloud_id is None
        assert await answer(harness.backend, W1) is Answer.GONE
        assert await harness.backend.inventory() == []

    async def test_of_workers_without_any_scheduler_is_an_error_for_each(self, harness: Harness) -> None:
        results = await harness.backend.launch(request("w1", "w2"))
        assert all(isinstance(result.error, BackendError) for result in results)
        assert await harness.backend.inventory() == []

    @pytest.mark.real_nodes
    async def test_of_more_workers_later_joins_the_scheduler(self, harness: Harness, tmp_path: Path) -> None:
        (scheduler,) = await start(harness.backend, "s")
        assert scheduler.address
        workers = await harness.backend.launch(request("w1", scheduler=scheduler.address))
        context = client_context(tmp_path, "control")
        async with linked(harness.backend, S, scheduler.address, context) as (reader, writer):
            await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
            await asyncio.wait_for(status_with(reader, set(called(harness.backend, workers).values())), START)


class TestObserve:
    async def test_answers_for_every_name_asked_about(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        sightings = (await harness.backend.observe([S, W1, handle("other", "c2")])).sightings
        assert {name: seen.answer for name, seen in sightings.items()} == {
            "s": Answer.RUNNING,
            "w1": Answer.GONE,
            "other": Answer.GONE,
        }
        assert sightings["s"].address
        assert sightings["s"].cloud_id

    async def test_of_nothing_is_nothing(self, harness: Harness) -> None:
        assert (await harness.backend.observe([])).sightings == {}

    async def test_tells_the_signal_that_ended_a_node(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.kill(S)
        await until(harness.backend, S, Answer.GONE)
        seen = (await harness.backend.observe([S])).sightings["s"]
        assert seen.exit_code == -9
        assert seen.reason

    async def test_change_is_told_when_a_node_dies(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        assert await answer(harness.backend, S) is Answer.RUNNING
        await harness.kill(S)
        while await answer(harness.backend, S) is not Answer.GONE:
            await asyncio.wait_for(harness.backend.changed(), PATIENCE)

    async def test_waiting_for_a_change_can_be_cancelled(self, harness: Harness) -> None:
        waiting = asyncio.ensure_future(harness.backend.changed())
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.wait([waiting])
        await start(harness.backend, "s")
        assert await answer(harness.backend, S) is Answer.RUNNING


class TestStop:
    async def test_ends_nodes_and_only_then_says_gone(self, harness: Harness) -> None:
        await start(harness.backend, "s", "w1")
        await harness.backend.stop([S, W1])
        await until(harness.backend, S, Answer.GONE)
        await until(harness.backend, W1, Answer.GONE)
        assert await harness.backend.inventory() == []

    async def test_of_one_node_leaves_the_others(self, harness: Harness) -> None:
        await start(harness.backend, "s", "w1", "w2")
        await harness.backend.stop([W1])
        await until(harness.backend, W1, Answer.GONE)
        assert await answer(harness.backend, S) is Answer.RUNNING
        assert {node.name for node in await harness.backend.inventory()} >= {"s"}

    async def test_can_be_asked_again_and_after_the_end(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.backend.stop([S])
        await harness.backend.stop([S, S])
        await until(harness.backend, S, Answer.GONE)
        await harness.backend.stop([S, handle("never")])
        assert await answer(harness.backend, S) is Answer.GONE

    async def test_tells_the_change(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.backend.stop([S])
        while await answer(harness.backend, S) is not Answer.GONE:
            await asyncio.wait_for(harness.backend.changed(), PATIENCE)


class TestRestartOfTheServer:
    async def test_nodes_go_on_and_are_known_to_the_next_server(self, harness: Harness) -> None:
        first = await start(harness.backend, "s", "w1")
        second = harness.restart()
        seen = (await second.observe([S, W1])).sightings
        assert [seen[r.name].cloud_id for r in first] == [r.cloud_id for r in first]
        assert seen["s"].address == first[0].address
        await second.stop([S, W1])
        await until(second, S, Answer.GONE)
        await until(second, W1, Answer.GONE)

    async def test_the_next_server_is_told_of_their_death(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        second = harness.restart()
        assert await answer(second, S) is Answer.RUNNING
        await harness.kill(S)
        while await answer(second, S) is not Answer.GONE:
            await asyncio.wait_for(second.changed(), PATIENCE)

    async def test_closing_leaves_nodes_running(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.backend.close()
        assert await answer(harness.restart(), S) is Answer.RUNNING


class TestInventory:
    async def test_lists_what_lives_with_cluster_role_and_cloud_id(self, harness: Harness) -> None:
        results = await start(harness.backend, "s", "w1")
        await start(harness.backend, "s2", cluster="c2")
        found = {node.name: node for node in await harness.restart().inventory()}
        assert set(found) >= {"s", "s2"}
        assert found["s"].cloud_id == results[0].cloud_id
        assert (found["s"].cluster, found["s"].role) == ("c1", NodeRole.SCHEDULER)
        assert (found["s2"].cluster, found["s2"].role) == ("c2", NodeRole.SCHEDULER)

    async def test_leaves_out_what_is_gone(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.kill(S)
        await until(harness.backend, S, Answer.GONE)
        assert await harness.backend.inventory() == []


class TestLogs:
    async def test_are_read_from_a_cursor_in_whole_characters(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.write_log(S, "grüße €𝄞 " * 20)
        text, cursor = "", None
        for _ in range(10_000):
            chunk = await harness.backend.logs(S, cursor, limit=5)
            assert len(chunk.text.encode()) <= 5
            assert not chunk.complete
            text, cursor = text + chunk.text, chunk.cursor
            if "grüße €𝄞 " * 20 in text:
                break
        assert "grüße €𝄞 " * 20 in text
        assert "\N{REPLACEMENT CHARACTER}" not in text

    async def test_are_kept_after_death_and_then_complete(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        await harness.write_log(S, "last words\n")
        await harness.kill(S)
        await until(harness.backend, S, Answer.GONE)
        backend = harness.restart()

        async def complete() -> LogChunk | None:
            chunk = await backend.logs(S)
            return chunk if (await backend.logs(S, chunk.cursor)).complete else None

        chunk = await eventually(complete)
        assert "last words" in chunk.text
        rest = await harness.backend.logs(S, chunk.cursor)
        assert (rest.text, rest.cursor, rest.complete) == ("", chunk.cursor, True)

    async def test_follow_a_running_node(self, harness: Harness) -> None:
        await start(harness.backend, "s")
        cursor = (await harness.backend.logs(S)).cursor
        await harness.write_log(S, "more\n")
        chunk = await harness.backend.logs(S, cursor)
        assert "more\n" in chunk.text
        assert not chunk.complete

    @pytest.mark.parametrize("cursor", ["x", "-1", "", "9" * 40, "\N{FULLWIDTH DIGIT ONE}"])
    async def test_refuse_a_cursor_that_is_none(self, harness: Harness, cursor: str) -> None:
        with pytest.raises(FixItError) as caught:
            await harness.backend.logs(S, cursor)
        assert caught.value.field == "cursor"

    async def test_of_an_unknown_node_are_empty_and_complete(self, harness: Harness) -> None:
        chunk = await harness.backend.logs(handle("never"))
        assert (chunk.text, chunk.complete) == ("", True)


@pytest.mark.real_nodes
class TestLink:
    async def test_follows_which_workers_run_and_retires_them(self, harness: Harness, tmp_path: Path) -> None:
        results = await start(harness.backend, "s", "w1", "w2")
        address = results[0].address
        assert address
        workers = {own: name for name, own in called(harness.backend, results[1:]).items()}
        context = client_context(tmp_path, "control")
        async with linked(harness.backend, S, address, context) as (reader, writer):
            await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
            status = await asyncio.wait_for(status_with(reader, set(workers)), START)
            assert status["v"] == 1
            assert set(status["addresses"]) == set(workers)
            assert status["closing"] is None
            async with linked(harness.backend, S, address, context) as (ask_reader, ask_writer):
                await wire.write(ask_writer, {"op": "ropewalk_choose", "n": 1})
                (retired,) = (await wire.read(ask_reader))["names"]
                await wire.write(ask_writer, {"op": "ropewalk_retire", "names": [retired]})
                assert (await wire.read(ask_reader))["retired"] == [retired]
            status = await asyncio.wait_for(status_with(reader, set(workers) - {retired}), PATIENCE)
            name = workers[retired]
            await until(harness.backend, handle(name), Answer.GONE)
            assert (await harness.backend.observe([handle(name)])).sightings[name].exit_code == 0

    async def test_takes_new_adaptive_bounds(self, harness: Harness, tmp_path: Path) -> None:
        (result,) = await start(harness.backend, "s")
        assert result.address
        context = client_context(tmp_path, "control")
        async with linked(harness.backend, S, result.address, context) as (reader, writer):
            await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
            assert (await wire.read(reader))["target"] is None
            async with linked(harness.backend, S, result.address, context) as (ask_reader, ask_writer):
                bounds = {"minimum": 2, "maximum": 4}
                await wire.write(ask_writer, {"op": "ropewalk_configure", "adaptive": bounds, "limits": {}})
                assert await wire.read(ask_reader) == {"ok": True}
            async with asyncio.timeout(PATIENCE):
                while (await wire.read(reader))["target"] != 2:
                    pass

    async def test_ends_with_the_scheduler(self, harness: Harness, tmp_path: Path) -> None:
        (result,) = await start(harness.backend, "s")
        assert result.address
        context = client_context(tmp_path, "control")
        async with linked(harness.backend, S, result.address, context) as (reader, writer):
            await wire.write(writer, {"op": "ropewalk_watch", "reply": False})
            await wire.read(reader)
            await harness.kill(S)
            with pytest.raises(OSError):  # noqa: PT011 - a TLS stream may end in several ways
                await asyncio.wait_for(status_with(reader, {"no such worker"}), PATIENCE)

    async def test_refuses_a_certificate_of_another_cluster(self, harness: Harness, tmp_path: Path) -> None:
        (result,) = await start(harness.backend, "s")
        assert result.address
        async with linked(harness.backend, S, result.address, client_context(tmp_path, "control")):
            pass  # it is up
        with pytest.raises(OSError):  # noqa: PT011 - refused by TLS, noticed at the handshake or after it
            await ask(harness.backend, S, result.address, client_context(tmp_path, "control", "c2"))

    async def test_to_a_scheduler_that_is_gone_is_an_error_to_try_again(self, harness: Harness) -> None:
        (result,) = await start(harness.backend, "s")
        assert result.address
        await harness.kill(S)
        await until(harness.backend, S, Answer.GONE)
        with pytest.raises(TryAgainError):
            await harness.backend.connect(S, result.address)


@pytest.mark.real_nodes
class TestSecrets:
    async def test_are_not_visible_from_outside_nor_in_representations(self, harness: Harness) -> None:
        launch = request("s", "w1")
        key = certificates("c1").for_role("scheduler")["key"].splitlines()[1]
        await start(harness.backend, "s", "w1")
        seen = await harness.visible(S) + repr(launch) + await logged(harness.backend, S)
        seen += repr(await harness.backend.inventory()) + repr(await harness.backend.observe([S, W1]))
        assert CANARY not in seen
        assert key not in seen


class TestValidation:
    def test_accepts_an_ordinary_node(self, harness: Harness) -> None:
        harness.backend.validate(SHAPE, NodeRole.WORKER, {})

    @pytest.mark.parametrize("role", NodeRole)
    def test_names_the_field_of_a_node_that_is_too_large(self, harness: Harness, role: NodeRole) -> None:
        with pytest.raises(FixItError) as caught:
            harness.backend.validate(NodeShape(cpu=1, memory=2**55), role, {})
        assert caught.value.field == f"{role}_memory"

    def test_names_the_field_of_an_unknown_option(self, harness: Harness) -> None:
        with pytest.raises(FixItError) as caught:
            harness.backend.validate(SHAPE, NodeRole.WORKER, {"no_such_option": 1})
        assert caught.value.field == "backend_options.no_such_option"

    def test_refuses_gpus_where_there_are_none(self, harness: Harness) -> None:
        assert not harness.backend.capabilities.gpu
        with pytest.raises(FixItError) as caught:
            harness.backend.validate(NodeShape(1, 2**28, gpu=1), NodeRole.WORKER, {})
        assert caught.value.field == "worker_gpu"

    def test_prices_are_never_negative_and_have_a_currency(self, harness: Harness) -> None:
        price, currency = harness.backend.hourly_price(SHAPE)
        assert price >= 0
        assert len(currency) == 3


@pytest.mark.unprepared
class TestPreparation:
    async def test_check_reports_and_changes_nothing(self, harness: Harness) -> None:
        report = await harness.backend.check()
        assert report.ok
        assert report.items
        assert await harness.backend.inventory() == []

    async def test_prepare_can_be_asked_twice_and_teardown_removes_it(self, harness: Harness) -> None:
        first = {(made.kind, made.id) async for made in harness.backend.prepare()}
        # What is there already is not made again; and it need not be told again.
        assert {(made.kind, made.id) async for made in harness.backend.prepare()} <= first
        resources = [Resource(kind, id_) for kind, id_ in sorted(first)]
        assert {(gone.kind, gone.id) async for gone in harness.backend.teardown(resources)} == first
