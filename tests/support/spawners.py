"""The ways to start a node. One warm parent of each kind for all tests of a process: each takes a second to import."""

from __future__ import annotations

import sys

from ropewalk.backends.local.spawner import Spawner
from tests.support import isolated

MODES = ("plain", "warm")
"""For nodes of the server's own user; "isolated" is a warm parent for nodes of other users."""

_made: dict[str, Spawner] = {}


def spawner(mode: str) -> Spawner:
    """Return the spawner of *mode*; a warm one has its parent."""
    made = _made.get(mode)
    if made is None:
        interpreter = isolated.interpreter() if mode == "isolated" else sys.executable
        made = _made[mode] = Spawner(warm=mode != "plain", interpreter=interpreter)
    if mode != "plain":
        made.start(isolated=mode == "isolated")
        assert made.wait_warm(60) is not None
    return made


def fresh(mode: str) -> Spawner:
    """Return a spawner of *mode* that has this test's environment: nodes of another one are not forked."""
    if mode in _made:
        _made.pop(mode).close()
    return spawner(mode)


def close_all() -> None:
    """End the warm parent of the tests."""
    while _made:
        _made.popitem()[1].close()
