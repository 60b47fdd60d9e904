"""Real workers under Dask's Nanny, which puts the work into a process of its own."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from ropewalk.backends.local.processes import Table
from ropewalk.backends.port import Answer, LaunchRequest
from tests.conformance.harness import LocalHarness, handle, request, stop_everything, until
from tests.conformance.isolated import IsolatedHarness
from tests.support import isolated, spawners
from tests.support.waiting import PATIENCE, eventually

W = handle("w1")


def _make(mode: str, root: Path) -> LocalHarness:
    return IsolatedHarness(isolated.data_dir()) if mode == "isolated" else LocalHarness(root, mode)


@pytest.fixture(params=[*spawners.MODES, "isolated"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[LocalHarness]:
    harness = _make(request.param, tmp_path / "local")
    yield harness
    await stop_everything(harness.backend)
    await harness.close()


def with_nanny() -> LaunchRequest:
    plain = request("s", "w1")
    nodes = [replace(node, config={**node.config, "worker_class": "distributed.Nanny"}) for node in plain.nodes]
    return replace(plain, nodes=nodes)


async def started(harness: LocalHarness) -> None:
    """Launch, and wait until the Nanny's worker is there."""
    await harness.backend.launch(with_nanny())

    async def joined() -> bool:
        return "Registered to" in (await harness.backend.logs(W)).text

    await eventually(joined)
    assert len(members(harness)) > 1


def members(harness: LocalHarness) -> list[int]:
    return [identity.pid for identity in Table().members(harness.backend._home(W).tag, None)]


async def test_killing_the_nanny_leaves_no_worker(harness: LocalHarness) -> None:
    await started(harness)
    os.kill(harness.pid(W), signal.SIGKILL)
    await until(harness.backend, W, Answer.GONE)
    assert members(harness) == []


async def test_stopping_is_orderly_and_leaves_nothing(harness: LocalHarness) -> None:
    await started(harness)
    harness.backend._grace = PATIENCE
    began = asyncio.get_running_loop().time()
    await harness.backend.stop([W])
    await until(harness.backend, W, Answer.GONE)
    assert (await harness.backend.observe([W])).sightings["w1"].exit_code == 0
    assert asyncio.get_running_loop().time() - began < PATIENCE / 2, "nobody waits until a time is over"
    assert members(harness) == []


async def test_a_frozen_worker_is_ended_by_force(harness: LocalHarness) -> None:
    await started(harness)
    for pid in members(harness):
        os.kill(pid, signal.SIGSTOP)
    await harness.backend.stop([W])
    await until(harness.backend, W, Answer.GONE)
    assert members(harness) == []
