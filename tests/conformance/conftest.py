from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.conformance.harness import Harness, LocalHarness, MemoryHarness, stop_everything


@pytest.fixture(params=["memory", "local"])
async def harness(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Harness]:
    harness: Harness = MemoryHarness() if request.param == "memory" else LocalHarness(tmp_path / "local")
    yield harness
    await stop_everything(harness.backend)
    await harness.close()
