"""Pages are tested on clusters that live in memory."""

from __future__ import annotations

import pytest

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.server.cloud_accounts.registry import Backends


@pytest.fixture
def backends() -> Backends:
    return Backends(overrides={"local": MemoryBackend(MemoryCloud())})
