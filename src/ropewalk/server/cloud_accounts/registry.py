"""Finds the backend of a cloud account: made from what is stored, kept, and made anew when that changes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.backends.port import Place
from ropewalk.errors import FixItError, NotFoundError
from ropewalk.server.blueprint import Blueprint
from ropewalk.server.cloud_accounts.making import Workshop, load, resources_of
from ropewalk.server.cloud_accounts.stored import credentials
from ropewalk.server.db.models import Account, CloudAccount, Installation

if TYPE_CHECKING:
    from ropewalk.backends.port import Backend
    from ropewalk.server.db.engine import Database
    from ropewalk.server.secrets import Vault
    from ropewalk.server.settings import Settings

__all__ = ["Backends"]

RETIRED_SECONDS = 300.0
"""A backend that was replaced is closed after so long: nobody is in the middle of a call with it any more."""


@dataclass(frozen=True, slots=True)
class _Made:
    backend: Backend
    updated_at: datetime


class Backends:
    """The backends of this process.

    Args:
        overrides: Backends to use instead, by id of the cloud account or by its backend (``"local"``); for tests.
        factories: What makes backends instead, by backend (``"aws"``); for tests.
    """

    def __init__(
        self,
        overrides: Mapping[str, Backend] | None = None,
        factories: Mapping[str, Callable[[Blueprint], Backend]] | None = None,
    ) -> None:
        self._overrides = dict(overrides or {})
        self._factories = dict(factories or {})
        self._made: dict[str, _Made] = {}
        self._retired: dict[asyncio.TimerHandle, Backend] = {}
        self._closing: set[asyncio.Task[None]] = set()
        self._lock = asyncio.Lock()
        self._db: Database | None = None
        self._vault: Vault | None = None
        self._workshop: Workshop | None = None
        self._installation: str | None = None
        """Its id, which never changes, once it was read."""

    def bind(self, db: Database, settings: Settings, vault: Vault) -> None:
        """Say where cloud accounts are stored, and what opens their credentials."""
        self._db, self._vault = db, vault
        self._workshop = Workshop(settings.local_dir, settings.data_dir / "ended", settings.aws_endpoint_url)

    async def get(self, cloud_account_id: str, *, read: CloudAccount | None = None) -> Backend:
        """Return the backend of a cloud account, made from its settings of now.

        Args:
            cloud_account_id: Which.
            read: Its row, by whoever has just read it.

        Raises:
            NotFoundError: There is no such cloud account.
            FixItError: Its settings, its credentials or its kind cannot be used.
            SecretsError: Its credentials cannot be decrypted.
        """
        if cloud_account_id in self._overrides:
            return self._overrides[cloud_account_id]
        if read is not None and read.forgotten_at is None:
            known = self._made.get(read.id)
            if known is not None and known.updated_at == read.updated_at:
                return known.backend
        row, place = await self._row(cloud_account_id)
        if row.backend in self._overrides:
            return self._overrides[row.backend]
        async with self._lock:
            made = self._made.get(row.id)
            if made is None or made.updated_at != row.updated_at:
                fresh = _Made(await self._make(self._blueprint(row, place)), row.updated_at)
                if made is not None:
                    self._retire(made.backend)
                made = self._made[row.id] = fresh
            return made.backend

    @asynccontextmanager
    async def tried(self, plan: Blueprint) -> AsyncIterator[Backend]:
        """Give a backend that is not kept: to try settings and credentials before they are stored."""
        backend = await self._make(plan)
        try:
            yield backend
        finally:
            if backend not in self._overrides.values():
                await backend.close()

    async def _make(self, plan: Blueprint) -> Backend:
        if plan.backend in self._overrides:
            return self._overrides[plan.backend]
        if plan.backend in self._factories:
            return self._factories[plan.backend](plan)
        if self._workshop is None:
            raise RuntimeError("bind() was not called")
        await asyncio.to_thread(load, plan.backend)
        return self._workshop.make(plan)

    async def close(self) -> None:
        """Free what the backends hold in this process. Nodes go on."""
        for timer in self._retired:
            timer.cancel()
        kept = [made.backend for made in self._made.values()]
        kept += [*self._retired.values(), *self._overrides.values()]
        self._made, self._retired = {}, {}
        await asyncio.gather(*self._closing, return_exceptions=True)
        for backend in kept:
            await backend.close()
        if self._workshop is not None and self._workshop.spawner is not None:
            await asyncio.to_thread(self._workshop.spawner.close)
            self._workshop.spawner = None

    def _retire(self, backend: Backend) -> None:
        """Close a backend later: somebody may be in the middle of a call with it."""

        def close() -> None:
            del self._retired[timer]
            task = asyncio.ensure_future(backend.close())
            self._closing.add(task)
            task.add_done_callback(self._closing.discard)

        timer = asyncio.get_running_loop().call_later(RETIRED_SECONDS, close)
        self._retired[timer] = backend

    async def _row(self, cloud_account_id: str) -> tuple[CloudAccount, Place]:
        if self._db is None:
            raise RuntimeError("bind() was not called")
        async with self._db.read() as session:
            row = await session.get(CloudAccount, cloud_account_id)
            self._installation = self._installation or await session.scalar(select(Installation.id))
            slug = None
            if row is not None and row.account_id is not None:
                slug = await session.scalar(select(Account.slug).where(Account.id == row.account_id))
        if row is None:
            raise NotFoundError(f"There is no cloud account {cloud_account_id!r}.", advice="It may have been deleted.")
        if row.forgotten_at is not None:
            raise FixItError(
                f"The cloud account {cloud_account_id!r} was forgotten, with its credentials.",
                advice="What it held has to be looked after in the cloud itself.",
            )
        return row, Place(self._installation or "", row.id, slug or "")

    def _blueprint(self, row: CloudAccount, place: Place) -> Blueprint:
        secret = None
        if row.credentials is not None:
            if self._vault is None:
                raise RuntimeError("bind() was not called")
            secret = credentials(self._vault, row)
        return Blueprint(row.backend, place, row.settings, secret, resources_of(row))
