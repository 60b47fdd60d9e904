"""Encrypting everything anew with the newest key, so that an old one can be thrown away."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sqlalchemy import LargeBinary, select

from ropewalk.server.db.engine import Database
from ropewalk.server.db.models import Base
from ropewalk.server.secrets import Vault

__all__ = ["encrypted_columns", "rotate"]

BATCH = 100
"""Rows in one transaction, so that a server that runs meanwhile hardly waits."""


def encrypted_columns() -> list[tuple[type[Base], str]]:
    """Return every table and column that holds ciphertext: all binary columns, as there are no others."""
    return [
        (mapper.class_, column.name)
        for mapper in sorted(Base.registry.mappers, key=lambda mapper: mapper.class_.__name__)
        for column in mapper.columns
        if isinstance(column.type, LargeBinary)
    ]


async def rotate(db: Database, vault: Vault) -> int:
    """Encrypt with the newest key whatever another one encrypted; return how many secrets that were.

    Servers may run meanwhile, if they have the new key too. Interrupted, it goes on where it was when it is run again.

    Raises:
        SecretsError: A secret cannot be decrypted; those before it are done.
    """
    done = 0
    for model, name in encrypted_columns():
        last = ""
        while rows := await _batch(db, vault, model, name, last):
            done += sum(changed for _, changed in rows)
            last = rows[-1][0]
    return done


async def _batch(db: Database, vault: Vault, model: type[Base], name: str, after: str) -> Sequence[tuple[str, bool]]:
    """Rotate the rows after an id; return the id of each, and whether it changed."""
    table: Any = model  # each of these has a primary key `id`, which the mapped base class cannot say
    query = select(table).where(table.id > after).order_by(table.id).limit(BATCH).with_for_update()
    async with db.transaction() as session:
        rows = list(await session.scalars(query))
        return [(row.id, _anew(vault, row, name)) for row in rows]


def _anew(vault: Vault, row: Any, name: str) -> bool:
    old: bytes | None = getattr(row, name)
    if old is None or not vault.needs_rotation(old):
        return False
    place = {"table": row.__tablename__, "row": row.id, "field": name}
    setattr(row, name, vault.encrypt(vault.decrypt(old, **place), **place))
    return True
