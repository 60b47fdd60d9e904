"""Looking for orphans: nodes that a cloud runs with this installation's tag, and that no live row knows.

There should never be any, since rows are written before calls and kept until the cloud said *gone*; this is for the day
on which a database was restored from a backup. An orphan is reported when it is first seen, and removed when it was
still there after a time of grace.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta

import structlog
from sqlalchemy import or_, select
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.backends.port import Answer, Backend, NodeHandle
from ropewalk.errors import BackendError, UnavailableError
from ropewalk.schemas.clusters import NodeState
from ropewalk.schemas.diagnostics import OrphanNode
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
        self._nodes: dict[str, tuple[str, NodeHandle]] = {}
        """The last sweep's orphans, each with the cloud account that it is in."""

    @property
    def orphans(self) -> list[OrphanNode]:
        """What the last sweep found, the oldest first."""
        grace = timedelta(seconds=self._context.settings.orphan_grace_seconds)
        found = [
            OrphanNode(
                name=node.name,
                cloud_id=node.cloud_id,
                cloud_account=account,
                seen_at=self._since[key],
                removed_at=self._since[key] + grace,
            )
            for key, (account, node) in self._nodes.items()
        ]
        return sorted(found, key=lambda orphan: (orphan.seen_at, orphan.name))

    async def run(self) -> int:
        """Look at all cloud accounts once; returns the number of orphans."""
        async with self._context.db.read() as session:
            known = select(CloudAccount.id).where(CloudAccount.forgotten_at.is_(None))
            accounts = list(await session.scalars(known))
        found: dict[str, tuple[str, NodeHandle]] = {}
        for account in accounts:
            found |= {key: (account, node) for key, node in (await self._orphans(account)).items()}
        self._nodes = found
        self._since = {key: since for key, since in self._since.items() if key in found}
        self._context.metrics.orphans.set(len(found))
        return len(found)

    async def _orphans(self, cloud_account_id: str) -> dict[str, NodeHandle]:
        try:
            backend = await self._context.backends.get(cloud_account_id)
            unknown = self._unnamed if backend.capabilities.names_nodes else self._unknown
            orphans = await _still_there(backend, await unknown(await backend.inventory()))
            await self._report({key: node for key, node in orphans.items() if key not in self._since})
            overdue = [node for key, node in orphans.items() if self._overdue(key)]
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

    async def _unknown(self, present: Sequence[NodeHandle]) -> dict[str, NodeHandle]:
        """Return the nodes that no live row knows by name."""
        found = {node.name: node for node in present}
        async with self._context.db.read() as session:
            known = select(Node.name).where(Node.name.in_(found), Node.state.in_(_LIVE))
            return {name: found[name] for name in set(found) - set(await session.scalars(known))}

    async def _unnamed(self, present: Sequence[NodeHandle]) -> dict[str, NodeHandle]:
        """Return the nodes that no live row knows, of a cloud that names them itself, by what it calls them.

        Such a cloud tells which nodes were launched together, but not surely which is which: a name counts only for
        rows that do not know yet what their node is called.
        """
        found = {node.cloud_id or node.name: node for node in present}
        nameless = Node.name.in_([node.name for node in present]) & Node.cloud_id.is_(None)
        async with self._context.db.read() as session:
            rows = select(Node.name, Node.cloud_id).where(
                or_(nameless, Node.cloud_id.in_(found)), Node.state.in_(_LIVE)
            )
            known = {row.cloud_id or row.name for row in await session.execute(rows)}
        return {key: node for key, node in found.items() if key not in known and node.name not in known}

    async def _report(self, fresh: Mapping[str, NodeHandle]) -> None:
        now = self._context.clock.now()
        self._since |= dict.fromkeys(fresh, now)
        if fresh:
            await self._tell(fresh.values(), EventCode.ORPHAN_FOUND, "runs, but no cluster knows it")

    def _overdue(self, key: str) -> bool:
        grace = timedelta(seconds=self._context.settings.orphan_grace_seconds)
        return self._context.clock.now() - self._since[key] >= grace

    async def _tell(self, nodes: Iterable[NodeHandle], code: EventCode, what: str) -> None:
        now = self._context.clock.now()
        async with self._context.db.transaction() as session:
            for node in nodes:
                record(session, now, code, f"{node.name} {what}.", level="warning", node=node.name)


async def _still_there(backend: Backend, orphans: Mapping[str, NodeHandle]) -> dict[str, NodeHandle]:
    """Return those of *orphans* that run now.

    A node may end, and its row with it, between the look at the cloud and the look at the rows. A row says that its
    node has ended only after the cloud did, so whoever asks the cloud again after the rows knows.
    """
    if not orphans:
        return {}
    seen = (await backend.observe(list(orphans.values()))).sightings
    return {
        key: node
        for key, node in orphans.items()
        if (sighting := seen.get(node.name)) is not None and sighting.answer is Answer.RUNNING
    }
