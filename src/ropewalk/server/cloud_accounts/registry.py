"""Finds the backend of a cloud account: made from the stored settings, kept, and made anew when they change."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.errors import FixItError, NotFoundError
from ropewalk.schemas.cloud_accounts import HostedSettings
from ropewalk.server.db.models import CloudAccount, Installation

if TYPE_CHECKING:
    from pathlib import Path

    from ropewalk.backends.local import Spawner
    from ropewalk.backends.port import Backend
    from ropewalk.server.db.engine import Database

__all__ = ["Backends"]


@dataclass(frozen=True, slots=True)
class _Made:
    backend: Backend
    updated_at: datetime


class Backends:
    """The backends of this process.

    Args:
        overrides: Backends to use instead, by id of the cloud account or by its backend (``"local"``); for tests.
    """

    def __init__(self, overrides: Mapping[str, Backend] | None = None) -> None:
        self._overrides = dict(overrides or {})
        self._made: dict[str, _Made] = {}
        self._retired: list[Backend] = []
        self._lock = asyncio.Lock()
        self._db: Database | None = None
        self._data_dir: Path | None = None
        self._spawner: Spawner | None = None

    def bind(self, db: Database, data_dir: Path) -> None:
        """Say where cloud accounts are stored and where local clusters keep their files."""
        self._db, self._data_dir = db, data_dir

    async def get(self, cloud_account_id: str) -> Backend:
        """Return the backend of a cloud account, made from its settings of now.

        Raises:
            NotFoundError: There is no such cloud account.
            FixItError: Its settings or its kind cannot be used.
        """
        if cloud_account_id in self._overrides:
            return self._overrides[cloud_account_id]
        row, installation = await self._row(cloud_account_id)
        if row.backend in self._overrides:
            return self._overrides[row.backend]
        async with self._lock:
            made = self._made.get(row.id)
            if made is None or made.updated_at != row.updated_at:
                if made is not None:
                    # Somebody may be in the middle of a call with it: closed at the end.
                    self._retired.append(made.backend)
                made = _Made(self._make(row, installation), row.updated_at)
                self._made[row.id] = made
            return made.backend

    async def close(self) -> None:
        """Free what the backends hold in this process. Nodes go on."""
        kept = [made.backend for made in self._made.values()] + self._retired + list(self._overrides.values())
        self._made, self._retired = {}, []
        for backend in kept:
            await backend.close()
        if self._spawner is not None:
            await asyncio.to_thread(self._spawner.close)
            self._spawner = None

    async def _row(self, cloud_account_id: str) -> tuple[CloudAccount, str]:
        """Return the cloud account and the installation's id."""
        if self._db is None:
            raise RuntimeError("bind() was not called")
        async with self._db.transaction() as session:
            row = await session.get(CloudAccount, cloud_account_id)
            installation = await session.scalar(select(Installation.id))
        if row is None:
            raise NotFoundError(f"There is no cloud account {cloud_account_id!r}.", advice="It may have been deleted.")
        return row, installation or ""

    def _make(self, row: CloudAccount, installation: str) -> Backend:
        if row.backend != "local":
            raise FixItError(
                f"This server has no backend {row.backend!r}, which the cloud account {row.id!r} asks for.",
                advice="Choose another backend for this cloud account.",
                field="backend",
            )
        # Imported here: a server whose clusters run elsewhere needs none of it.
        from ropewalk.backends.local import LocalBackend, Spawner  # noqa: PLC0415 - see above

        assert self._data_dir is not None  # noqa: S101 - bind() sets both
        settings = HostedSettings.model_validate(row.settings)
        # One for all: what is imported is the same, however the settings change.
        self._spawner = self._spawner or Spawner()
        backend: Backend = LocalBackend(self._data_dir / "local", installation, settings, spawner=self._spawner)
        return backend
