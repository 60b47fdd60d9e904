"""Looking for orphans: nodes that a cloud runs with this installation's tag, and that no live row knows.

There should never be any, since rows are written before calls and kept until the cloud said *gone*; this is for the day
on which a database was restored from a backup. An orphan is reported when it is first seen, and removed when it was
still there after a time of grace.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta

import structlog
from sqlalchemy import select
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.backends.port import NodeHandle
from ropewalk.errors import BackendError, UnavailableError
from ropewalk.schemas.clusters import NodeState
from ropewalk.server.context import Context
from ropewalk.server.db.models import CloudAccount, Node
from ropewalk.server.events import EventCode, record

log = structlog.get_logger(__name__)

_LIVE = [state.value for state in NodeState if state.live]


class Sweep:
    """Remembers since when it has seen which orphan; a restart only delays a removal."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._since: dict[str, datetime] = {}

    async def run(self) -> int:
        """Look at all cloud accounts once; returns the number of orphans."""
        async with self._context.db.read() as session:
            known = select(CloudAccount.id).where(CloudAccount.forgotten_at.is_(None))
            accounts = list(await session.scalars(known))
        found: dict[str, NodeHandle] = {}
        for account in accounts:
            found |= await self._orphans(account)
        self._since = {name: since for name, since in self._since.items() if name in found}
        self._context.metrics.orphans.set(len(found))
        return len(found)

    async def _orphans(self, cloud_account_id: str) -> dict[str, NodeHandle]:
        try:
            backend = await self._context.backends.get(cloud_account_id)
            present = {node.name: node for node in await backend.inventory()}
            orphans = {name: present[name] for name in await self._unknown(present)}
            await self._report(node for name, node in orphans.items() if name not in self._since)
            overdue = [node for name, node in orphans.items() if self._overdue(name)]
            if overdue:
                await backend.stop(overdue)
                await self._tell(overdue, EventCode.ORPHAN_REMOVED, "is being removed: no cluster knows it")
        except (SQLAlchemyError, UnavailableError):
            raise
        except Exception as exc:  # noqa: BLE001 - one cloud account's defect must not keep the others from being swept
            error = exc.message if isinstance(exc, BackendError) else type(exc).__name__
            log.warning("sweep.failed", cloud_account=cloud_account_id, error=error)
            return {}
        return orphans

    async def _unknown(self, names: Iterable[str]) -> set[str]:
        wanted = set(names)
        async with self._context.db.read() as session:
            known = select(Node.name).where(Node.name.in_(wanted), Node.state.in_(_LIVE))
            return wanted - set(await session.scalars(known))

    async def _report(self, nodes: Iterable[NodeHandle]) -> None:
        fresh = list(nodes)
        now = self._context.clock.now()
        self._since |= {node.name: now for node in fresh}
        if fresh:
            await self._tell(fresh, EventCode.ORPHAN_FOUND, "runs, but no cluster knows it")

    def _overdue(self, name: str) -> bool:
        grace = timedelta(seconds=self._context.settings.orphan_grace_seconds)
        return self._context.clock.now() - self._since[name] >= grace

    async def _tell(self, nodes: Iterable[NodeHandle], code: EventCode, what: str) -> None:
        now = self._context.clock.now()
        async with self._context.db.transaction() as session:
            for node in nodes:
                record(session, now, code, f"{node.name} {what}.", level="warning", node=node.name)
