"""Warm parents of virtual environments: one each, of those that were used last."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ropewalk.backends.local.spawner import Spawner

MOST = 4
"""Environments that have one at a time. Each takes some 180 MiB (benchmark ``server``, ``warm_parent_memory``)."""
IDLE = 1800.0
"""Seconds without a launch after which an environment has none any more; the next launch has one made again."""


class Parents:
    """Spawners by the interpreter of their environment. Methods may be called by several threads.

    Args:
        make: Makes the spawner of an interpreter.
        now: Seconds that only grow.
    """

    def __init__(self, make: Callable[[str], Spawner], now: Callable[[], float] = time.monotonic) -> None:
        self._make = make
        self._now = now
        self._guard = threading.Lock()
        self._used: OrderedDict[str, tuple[Spawner, float]] = OrderedDict()

    def of(self, interpreter: str) -> Spawner:
        """Return the spawner of *interpreter*, which may be new; the one that was not used for longest may go."""
        with self._guard:
            known = self._used.pop(interpreter, None)
            spawner = known[0] if known is not None else self._make(interpreter)
            self._used[interpreter] = (spawner, self._now())
            gone = [self._used.popitem(last=False)[1][0] for _ in range(len(self._used) - MOST)]
        for each in gone:
            each.retire()
        return spawner

    def expire(self) -> None:
        """Let go of those that nobody has used for long, or whose environment was removed."""
        before = self._now() - IDLE
        with self._guard:
            over = [
                interpreter
                for interpreter, (_, used) in self._used.items()
                if used < before or not Path(interpreter).exists()
            ]
            gone = [self._used.pop(interpreter)[0] for interpreter in over]
        for each in gone:
            each.retire()

    def close(self) -> None:
        """End all of them; nodes go on."""
        with self._guard:
            spawners = [spawner for spawner, _ in self._used.values()]
            self._used.clear()
        for each in spawners:
            each.close()
