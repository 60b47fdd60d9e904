"""Changing the encryption key: a new key is put before the old ones, every secret is encrypted anew, the old ones go.

Each step can be repeated: a command that was interrupted is run again and goes on where it was. The server of the data
directory must be stopped, since it knows the old key only; clusters keep running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import select, update

from ropewalk.server import keys
from ropewalk.server.db.models import Base, CloudAccount, Cluster, Installation
from ropewalk.server.secrets import Vault, generate_key, key_file_text

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession
    from sqlalchemy.orm import InstrumentedAttribute

    from ropewalk.server.db.engine import Database
    from ropewalk.server.settings import Settings

BATCH = 100
"""Rows in one transaction: on SQLite nobody else can write meanwhile."""


@dataclass(frozen=True)
class Secret:
    """A column of ciphertexts. Its vault names are those of the table and the column."""

    model: type[Base]
    column: InstrumentedAttribute[Any]

    @property
    def table(self) -> str:
        """Name of the table."""
        return str(self.model.__tablename__)


COLUMNS: tuple[Secret, ...] = (
    Secret(CloudAccount, CloudAccount.credentials),
    Secret(Cluster, Cluster.secret),
    # Last: it tells which key the database has, so it changes when everything else has.
    Secret(Installation, Installation.key_check),
)
"""All encrypted columns; a test compares them with the models."""


@dataclass(frozen=True)
class Rotation:
    """What was done."""

    key_id: str
    encrypted: int
    dropped: Sequence[str]
    """Ids of the keys that nothing needs any more; they are gone from the key file, if there is one."""


async def rotate(settings: Settings, db: Database) -> Rotation:
    """Encrypt all secrets with a new key.

    With a key file, the new key is made and put in it. With keys in the environment, the first of them is the new one.

    Raises:
        SecretsError: A secret cannot be read with any of the keys; nothing is dropped then.
    """
    path = settings.encryption_key_file
    if settings.encryption_key is None:
        known = keys.read_key_file(path)
        if len(known) == 1:
            # More than one: an earlier rotation was interrupted; its new key is used, not one more.
            known = [generate_key(), *known]
            keys.replace(path, key_file_text(known))
    vault = keys.load_vault(settings, create=False)
    encrypted = 0
    for secret in COLUMNS:
        encrypted += await _encrypt_column(db, vault, secret)
    old = vault.key_ids[1:]
    if settings.encryption_key is None and old:
        keys.replace(path, key_file_text(keys.read_key_file(path)[:1]))
    return Rotation(vault.current, encrypted, old)


async def _encrypt_column(db: Database, vault: Vault, secret: Secret) -> int:
    last, done = "", 0
    while True:
        async with db.transaction() as session:
            rows = await _batch(session, secret, last)
            for row_id, ciphertext in rows:
                done += await _encrypt(session, vault, secret, row_id, ciphertext)
        if len(rows) < BATCH:
            return done
        last = rows[-1][0]


async def _batch(session: AsyncSession, secret: Secret, after: str) -> list[tuple[str, bytes]]:
    key = secret.model.__table__.c.id
    query = select(key, secret.column).where(key > after, secret.column.is_not(None)).order_by(key).limit(BATCH)
    return [(row[0], row[1]) for row in await session.execute(query.with_for_update())]


async def _encrypt(session: AsyncSession, vault: Vault, secret: Secret, row_id: str, ciphertext: bytes) -> int:
    if not vault.needs_rotation(ciphertext):
        return 0
    place = {"table": secret.table, "row": row_id, "field": secret.column.key}
    renewed = vault.encrypt(vault.decrypt(ciphertext, **place), **place)
    key = secret.model.__table__.c.id
    await session.execute(update(secret.model).where(key == row_id).values({secret.column.key: renewed}))
    return 1
