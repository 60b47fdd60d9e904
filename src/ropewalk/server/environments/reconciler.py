"""Runs a worker for every build that is wished, together with any other server."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING

from ropewalk.server.db.models import EnvironmentBuild
from ropewalk.server.environments import housekeeping, leases
from ropewalk.server.environments.builders import files_of
from ropewalk.server.environments.report import WISHED
from ropewalk.server.environments.worker import BuildWorker
from ropewalk.server.leases.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ropewalk.server.leases.rows import Lease

__all__ = ["Environments"]

AT_ONCE = 3
"""Builds of one server: they are bound by network, disk and one processor each."""
TIDY_SECONDS = 600.0
"""Between two searches for what nobody uses any more."""


class Environments(Workers):
    """Builds software environments, and removes what nobody uses any more."""

    table = EnvironmentBuild
    waiting = leases.WAITING
    plural = "builds"
    shortest_pause = 0.5
    """What is due may wait for another build to end."""

    async def start(self) -> None:
        """Begin to work."""
        await super().start()
        self.loops.start("tidy environments", self._tidy, partial(asyncio.sleep, TIDY_SECONDS))

    async def _claimed(self) -> list[Lease]:
        return await leases.claim(self._context, self.owner, AT_ONCE - len(self._workers))

    def _work(self, lease: Lease) -> Coroutine[None, None, None]:
        return BuildWorker(self._context, lease).run()

    def _concerns(self, topic: str) -> bool:
        return topic == WISHED

    async def _tidy(self) -> None:
        await housekeeping.tidy(self._context, files_of(self._context))
