"""What the services of one server share. Passed explicitly; there are no globals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ropewalk.server.metrics import Metrics

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractAsyncContextManager, AbstractContextManager
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.backends.port import Backend
    from ropewalk.server.blueprint import Blueprint
    from ropewalk.server.clock import Clock
    from ropewalk.server.db.engine import Database
    from ropewalk.server.db.models import CloudAccount, Cluster, Node
    from ropewalk.server.identity.oidc import Provider
    from ropewalk.server.secrets import Vault
    from ropewalk.server.settings import Settings
    from ropewalk.server.wakeups import Wakeups


class Backends(Protocol):
    """Finds the backend of a cloud account; implemented by :mod:`ropewalk.server.cloud_accounts.registry`."""

    async def get(self, cloud_account_id: str, *, read: CloudAccount | None = None) -> Backend:
        """Return the backend that drives the cloud account, made from its settings of now; *read*: its row, if had."""
        ...

    def tried(self, plan: Blueprint) -> AbstractAsyncContextManager[Backend]:
        """Give a backend that is not kept: to try settings and credentials before they are stored."""
        ...

    async def close(self) -> None:
        """Free what the backends hold in this process. Nodes go on."""
        ...


class Worker(Protocol):
    """Who works on one cluster; implemented by :mod:`ropewalk.server.clusters.actor`."""

    async def write_first(self, session: AsyncSession, cluster: Cluster, now: datetime) -> Sequence[Node]:
        """Take the first steps in the transaction that makes the cluster; returns its nodes."""
        ...


@dataclass
class Context:
    """Everything that a service needs besides its arguments."""

    settings: Settings
    db: Database
    vault: Vault
    clock: Clock
    backends: Backends
    wakeups: Wakeups
    metrics: Metrics = field(default_factory=Metrics)
    provider: Provider | None = None
    """Of single sign-on."""
    newborn: Callable[[Cluster, Backend, str], AbstractContextManager[Worker]] | None = None
    """Who begins to work on new clusters, where a reconciler runs: see its ``newborn``."""
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is asked to stop: streams end, nothing new begins."""
