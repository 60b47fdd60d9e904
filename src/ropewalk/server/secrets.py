"""Encryption of stored credentials and private keys: AES-256-GCM with several keys, of which the newest encrypts.

A ciphertext is ``b"RW" version key-id-length key-id fingerprint nonce sealed``. The header says which key made it, so
keys can be rotated row by row, and carries a fingerprint of the key, so that "another key under the same id" is told
apart from "damaged data". Header, table, row and field are authenticated: a ciphertext that was copied to another row
or column does not open there.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import os
import re
import secrets
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ropewalk.errors import SecretsError, SettingsError

__all__ = ["Key", "Vault", "format_key", "generate_key", "parse_keys"]

KEY_BYTES = 32
"""AES-256."""

_MAGIC = b"RW\x01"
_NONCE_BYTES = 12
"""96 bits, as NIST SP 800-38D advises; random nonces are safe up to 2**32 messages per key (section 8.3)."""
_FINGERPRINT_BYTES = 4
"""32 bits of an HMAC: enough to tell two keys apart, of no use to find one."""
_KEY_ID = re.compile(r"[A-Za-z0-9._-]{1,32}")


@dataclass(frozen=True, slots=True)
class Key:
    """A key of 32 bytes and the id by which ciphertexts refer to it."""

    id: str
    secret: bytes = field(repr=False)

    @property
    def fingerprint(self) -> bytes:
        """Return what ciphertexts carry to recognise this key."""
        return hmac.digest(self.secret, b"ropewalk key fingerprint", "sha256")[:_FINGERPRINT_BYTES]


def generate_key() -> Key:
    """Return a new random key with a random id."""
    return Key("k-" + secrets.token_hex(4), secrets.token_bytes(KEY_BYTES))


def format_key(key: Key) -> str:
    """Return *key* as a line ``id:base64`` of a key file."""
    return f"{key.id}:{base64.b64encode(key.secret).decode()}"


def parse_keys(text: str, *, field: str = "encryption_key") -> list[Key]:
    """Read keys, newest first, one a line or separated by commas; blank lines and ``#`` comments are skipped.

    Args:
        text: The keys.
        field: The setting to name in errors.

    Raises:
        SettingsError: Says which entry is wrong and how, never what it contains.
    """
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    entries = [entry.strip() for line in lines for entry in line.split(",") if entry.strip()]
    keys = [_parse(entry, number, field) for number, entry in enumerate(entries, 1)]
    if not keys:
        raise _bad("There is no encryption key.", field)
    if len({key.id for key in keys}) < len(keys):
        raise _bad("Two encryption keys have the same id.", field)
    return keys


def _parse(entry: str, number: int, field: str) -> Key:
    key_id, colon, encoded = entry.partition(":")
    if not colon or not _KEY_ID.fullmatch(key_id):
        # The text before the colon is not shown: without a colon, it would be the key.
        raise _bad(f"Encryption key number {number} does not begin with an id and a colon.", field)
    try:
        secret = base64.b64decode(encoded, validate=True)
    except (binascii.Error, ValueError):
        raise _bad(f"Encryption key {key_id!r} is not valid base64.", field) from None
    if len(secret) != KEY_BYTES:
        raise _bad(f"Encryption key {key_id!r} has {len(secret)} bytes; it must have {KEY_BYTES}.", field)
    return Key(key_id, secret)


def _bad(message: str, field: str) -> SettingsError:
    return SettingsError(
        message,
        advice="Give keys as id:base64 of 32 random bytes, newest first; ids have letters, digits, '.', '_' and '-'.",
        field=field,
    )


class Vault:
    """Encrypts with the newest key, decrypts with every key that it has.

    Args:
        keys: Newest first.
    """

    def __init__(self, keys: Sequence[Key]) -> None:
        if not keys or len({key.id for key in keys}) < len(keys):
            raise ValueError("a vault needs at least one key, and different ids")
        self._keys = {key.id: key for key in keys}
        self._ciphers = {key.id: AESGCM(key.secret) for key in keys}
        self._current = keys[0]

    def __repr__(self) -> str:
        return f"Vault(key_ids={self.key_ids!r})"

    @property
    def current(self) -> str:
        """Id of the key that encrypts."""
        return self._current.id

    @property
    def key_ids(self) -> tuple[str, ...]:
        """Ids of all keys, newest first."""
        return tuple(self._keys)

    def encrypt(self, plaintext: bytes, *, table: str, row: str, field: str) -> bytes:
        """Return *plaintext* encrypted for one place of the database."""
        key = self._current
        key_id = key.id.encode()
        header = _MAGIC + bytes([len(key_id)]) + key_id + key.fingerprint
        nonce = os.urandom(_NONCE_BYTES)
        return header + nonce + self._ciphers[key.id].encrypt(nonce, plaintext, _associated(header, table, row, field))

    def decrypt(self, ciphertext: bytes, *, table: str, row: str, field: str) -> bytes:
        """Return what was encrypted for this place of the database.

        Raises:
            SecretsError: The key is missing or another one, or the data was damaged or moved.
        """
        where = f"The secret {table}.{field} of {row!r}"
        key_id, fingerprint, header_size = _read_header(ciphertext, where)
        key = self._keys.get(key_id)
        if key is None:
            raise SecretsError(
                f"{where} was encrypted with the key {key_id!r}, which is not among the configured keys "
                f"({', '.join(self._keys)}).",
                advice="Add that key to the encryption keys; it is in the key file of the server that wrote it.",
            )
        if not hmac.compare_digest(fingerprint, key.fingerprint):
            raise SecretsError(
                f"{where} was encrypted with another key than the one that is configured as {key_id!r}.",
                advice="Restore the encryption key file or setting that belongs to this database.",
            )
        header, rest = ciphertext[:header_size], ciphertext[header_size:]
        nonce, sealed = rest[:_NONCE_BYTES], rest[_NONCE_BYTES:]
        try:
            return self._ciphers[key_id].decrypt(nonce, sealed, _associated(header, table, row, field))
        except (InvalidTag, ValueError):
            raise SecretsError(
                f"{where} is damaged, or was copied from another place: the key {key_id!r} is right, the data is not.",
                advice="Restore it from a backup of the database, or enter it again.",
            ) from None

    def needs_rotation(self, ciphertext: bytes) -> bool:
        """Return whether *ciphertext* was made by a key other than the newest."""
        key_id, fingerprint, _ = _read_header(ciphertext, "The secret")
        return key_id != self._current.id or not hmac.compare_digest(fingerprint, self._current.fingerprint)


def _read_header(ciphertext: bytes, where: str) -> tuple[str, bytes, int]:
    """Return key id, fingerprint, and size of the header."""
    start = len(_MAGIC) + 1
    if len(ciphertext) > start and ciphertext.startswith(_MAGIC):
        end = start + ciphertext[start - 1]
        size = end + _FINGERPRINT_BYTES
        key_id = ciphertext[start:end].decode("ascii", "replace")
        if len(ciphertext) >= size + _NONCE_BYTES and _KEY_ID.fullmatch(key_id):
            return key_id, ciphertext[end:size], size
    raise SecretsError(
        f"{where} is damaged: it does not begin as this server's ciphertexts do.",
        advice="Restore it from a backup of the database, or enter it again.",
    )


def _associated(header: bytes, *place: str) -> bytes:
    return header + b"".join(_sized(part.encode()) for part in place)


def _sized(part: bytes) -> bytes:
    """Prefix *part* with its length, so that ("ab", "c") and ("a", "bc") differ."""
    return len(part).to_bytes(4, "big") + part


def key_file_text(keys: Iterable[Key]) -> str:
    """Return the contents of a key file, newest first."""
    return "".join(format_key(key) + "\n" for key in keys)
