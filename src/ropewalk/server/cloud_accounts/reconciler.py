"""Runs a worker for every cloud account that has something to be done, together with any other server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ropewalk.server.cloud_accounts import leases
from ropewalk.server.cloud_accounts.worker import Worker
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.leases.workers import Workers

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from ropewalk.server.leases.rows import Lease

__all__ = ["CloudAccounts"]


class CloudAccounts(Workers):
    """Prepares and tears down cloud accounts: one work at a time on each, many at once on all."""

    table = CloudAccount
    waiting = leases.WAITING
    plural = "cloud accounts"

    async def _claimed(self) -> list[Lease]:
        return await leases.claim(self._context, self.owner)

    def _work(self, lease: Lease) -> Coroutine[None, None, None]:
        return Worker(self._context, lease).run()

    def _concerns(self, topic: str) -> bool:
        return topic.startswith("cloud:")
