"""The two ways to start a node. One warm parent for all tests of a process: each takes a second to import."""

from __future__ import annotations

from ropewalk.backends.local.spawner import Spawner

MODES = ("plain", "warm")

_made: dict[str, Spawner] = {}


def spawner(mode: str) -> Spawner:
    """Return the spawner of *mode*; a warm one has its parent."""
    made = _made.get(mode)
    if made is None:
        made = _made[mode] = Spawner(warm=mode == "warm")
    if mode == "warm":
        made.start()
        assert made.wait_warm(60) is not None
    return made


def close_all() -> None:
    """End the warm parent of the tests."""
    while _made:
        _made.popitem()[1].close()
