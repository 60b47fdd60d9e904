"""The ways to start a node. One warm parent of each kind for all tests of a process: each takes a second to import."""

from __future__ import annotations

import sys
from dataclasses import replace

from ropewalk.backends.local import parent
from ropewalk.backends.local.parent import Command
from ropewalk.backends.local.spawner import Spawner
from tests.support import isolated
from tests.support.waiting import PATIENCE

MODES = ("plain", "warm")
"""For nodes of the server's own user; "isolated" is a warm parent for nodes of other users."""

# A parent that is slow, and not frozen, would be ended: nodes would not be forked, and nobody could tell how those that
# were have ended. Tests of a frozen one say how soon.
parent.ANSWER_SECONDS = PATIENCE


class _Shared(Spawner):
    """Forks nodes of all tests: each has a home of its own, but one is as empty as the other."""

    def _fits(self, command: Command) -> bool:
        if command.confinement.uid is None:
            command = replace(command, environ={**command.environ, "HOME": self._environ["HOME"]})
        return super()._fits(command)


_made: dict[str, Spawner] = {}


def spawner(mode: str) -> Spawner:
    """Return the spawner of *mode*; a warm one has its parent."""
    made = _made.get(mode)
    if made is None:
        interpreter = isolated.interpreter() if mode == "isolated" else sys.executable
        made = _made[mode] = _Shared(warm=mode != "plain", interpreter=interpreter)
    if mode != "plain":
        made.start(isolated=mode == "isolated")
        assert made.wait_warm(2 * PATIENCE) is not None  # it may have to be another than was wanted a moment ago
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
