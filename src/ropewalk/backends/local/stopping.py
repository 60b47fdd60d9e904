"""Ending one node: first politely, then by force, and not resting before it is gone."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import time

from ropewalk.backends.local import processes, sight
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.processes import Identity, Table
from ropewalk.backends.port import Answer

LEAST_GRACE = 1.0
"""Seconds that a node has from being asked, even if its time was over before: the machine may have been busy."""
_FIRST_PAUSE = 0.02
_LONGEST_PAUSE = 1.0
"""Seconds between looks; most ends are told by the watch, so these are for those that cannot be watched."""


class Stopping:
    """The end of one node. Cut short by the end of the server, it goes on with the next ``stop``.

    Args:
        home: The node's directory.
        grace: Seconds for an orderly end, counted from the first time that anybody asked.
    """

    def __init__(self, home: NodeHome, grace: float) -> None:
        self._home = home
        self._grace = grace
        self._began = time.time()
        self._asked = False
        self._woken = asyncio.Event()

    def wake(self) -> None:
        """Look at once: the process has ended."""
        self._woken.set()

    async def run(self) -> None:
        """Return when the node is gone."""
        pause = _FIRST_PAUSE
        while not await asyncio.to_thread(self._step):
            left = self._remaining()
            self._woken.clear()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(min(pause, left) if left > 0 else pause):
                    await self._woken.wait()
            turned = left > 0 >= self._remaining()  # from asking to forcing, which acts within milliseconds
            pause = _FIRST_PAUSE if turned else min(2 * pause, _LONGEST_PAUSE)

    def _remaining(self) -> float:
        return self._began + self._grace - time.time()

    def _step(self) -> bool:
        """Do what is due; returns whether the node is gone."""
        try:
            table = Table()
            if sight.look(self._home, table).answer is Answer.GONE:
                return True
            since = self._home.forbidden_since()
            identity = self._home.identity()
        except OSError:
            return False  # a passing fault, or one that is shown elsewhere; keep trying
        if not self._asked and since is not None:
            # The marker's time survives the server, so that a restart does not give the node its time again.
            self._began = min(self._began, since)
        if identity is not None and not self._asked:
            self._ask(identity)
        elif self._remaining() <= 0:
            sight.force(self._home, table, identity)
        return False

    def _ask(self, identity: Identity) -> None:
        processes.send(identity, signal.SIGTERM)
        self._asked = True
        self._began = max(self._began, time.time() - self._grace + min(LEAST_GRACE, self._grace))
