"""Changing the encryption key: a new key is put before the old ones, every secret is encrypted anew, the old ones go.

Each step can be repeated: a command that was interrupted is run again and goes on where it was. The server of the data
directory must be stopped, since it knows the old key only; clusters keep running.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ropewalk.server import keys
from ropewalk.server.cloud_accounts import rotation
from ropewalk.server.secrets import generate_key, key_file_text

if TYPE_CHECKING:
    from ropewalk.server.db.engine import Database
    from ropewalk.server.settings import Settings


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
    encrypted = await rotation.rotate(db, vault)
    old = vault.key_ids[1:]
    if settings.encryption_key is None and old:
        keys.replace(path, key_file_text(keys.read_key_file(path)[:1]))
    return Rotation(vault.current, encrypted, old)
