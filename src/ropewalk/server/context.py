"""What the services of one server share. Passed explicitly; there are no globals."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ropewalk.server.metrics import Metrics

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager

    from ropewalk.backends.port import Backend
    from ropewalk.server.blueprint import Blueprint
    from ropewalk.server.clock import Clock
    from ropewalk.server.db.engine import Database
    from ropewalk.server.identity.oidc import Provider
    from ropewalk.server.secrets import Vault
    from ropewalk.server.settings import Settings
    from ropewalk.server.wakeups import Wakeups


class Backends(Protocol):
    """Finds the backend of a cloud account; implemented by :mod:`ropewalk.server.cloud_accounts.registry`."""

    async def get(self, cloud_account_id: str) -> Backend:
        """Return the backend that drives the cloud account, made from its settings of now."""
        ...

    def tried(self, plan: Blueprint) -> AbstractAsyncContextManager[Backend]:
        """Give a backend that is not kept: to try settings and credentials before they are stored."""
        ...

    async def close(self) -> None:
        """Free what the backends hold in this process. Nodes go on."""
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
    stopping: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the server is asked to stop: streams end, nothing new begins."""
