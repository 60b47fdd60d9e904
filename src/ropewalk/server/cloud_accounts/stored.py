"""What is stored of a cloud account, read and written in one place: credentials as ciphertext only."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ropewalk.errors import SecretsError
from ropewalk.server.db.models import CloudAccount

if TYPE_CHECKING:
    from ropewalk.server.secrets import Vault

__all__ = ["credentials", "set_credentials", "touch"]


def set_credentials(vault: Vault, row: CloudAccount, secret: Mapping[str, Any], now: datetime) -> None:
    """Store credentials, encrypted for this row alone."""
    plain = json.dumps(dict(secret), separators=(",", ":")).encode()
    row.credentials = vault.encrypt(plain, table=CloudAccount.__tablename__, row=row.id, field="credentials")
    touch(row, now)


def credentials(vault: Vault, row: CloudAccount) -> dict[str, Any] | None:
    """Return the stored credentials; for backends only, no API returns them.

    Raises:
        SecretsError: They cannot be decrypted.
    """
    if row.credentials is None:
        return None
    plain = vault.decrypt(row.credentials, table=CloudAccount.__tablename__, row=row.id, field="credentials")
    value = json.loads(plain)
    if not isinstance(value, dict):
        raise SecretsError(f"The credentials of the cloud account {row.id!r} are not what was stored.")
    return value


def touch(row: CloudAccount, now: datetime) -> None:
    """Make `updated_at` differ, whatever the clock says: it tells backends to be made anew."""
    row.updated_at = now if now > row.updated_at else row.updated_at + datetime.resolution
