"""Where the encryption keys come from: the environment or a file, which is made at the very first start only."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from ropewalk.errors import SettingsError
from ropewalk.server.secrets import Key, Vault, generate_key, key_file_text, parse_keys
from ropewalk.server.settings import Settings, refuse_readable_by_others


def load_vault(settings: Settings, *, create: bool) -> Vault:
    """Return the vault with the configured keys.

    Args:
        settings: Where the keys are.
        create: Make the key file if it is missing: only right while nothing has been encrypted yet.

    Raises:
        SettingsError: There is no key, or it cannot be used.
    """
    if settings.encryption_key is not None:
        return Vault(parse_keys(settings.encryption_key.get_secret_value(), field="encryption_key"))
    path = settings.encryption_key_file
    if create and not path.exists():
        write_new(path, key_file_text([generate_key()]))
    return Vault(read_key_file(path))


def read_key_file(path: Path) -> list[Key]:
    """Return the keys of the file, newest first."""
    try:
        refuse_readable_by_others(path, "encryption_key_file")
        text = path.read_text("utf-8")
    except FileNotFoundError:
        raise SettingsError(
            f"The encryption key file {path} is missing, and the database has secrets that only its keys can open.",
            advice="Restore the file from a backup, or give the keys with ROPEWALK_ENCRYPTION_KEY.",
            field="encryption_key_file",
        ) from None
    except (OSError, UnicodeDecodeError) as exc:
        why = exc.strerror if isinstance(exc, OSError) else "it is not text"
        raise SettingsError(
            f"The encryption key file {path} cannot be read: {why}.",
            advice="Make it readable for the user that runs the server, and for nobody else.",
            field="encryption_key_file",
        ) from None
    return parse_keys(text, field="encryption_key_file")


def write_new(path: Path, text: str) -> None:
    """Make a file of mode 0600 with all of *text* or not at all; one that is there already stays as it is."""
    temporary = _write_beside(path, text)
    try:
        os.link(temporary, path)
    except FileExistsError:
        pass  # another process was faster: its file counts
    finally:
        temporary.unlink()
    _sync(path.parent)


def replace(path: Path, text: str) -> None:
    """Put a file of mode 0600 with *text* in the place of *path*, in one step."""
    _write_beside(path, text).replace(path)
    _sync(path.parent)


def _write_beside(path: Path, text: str) -> Path:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except OSError as exc:
        raise SettingsError(
            f"The file {path} cannot be written: {exc.strerror}.",
            advice="Give the user that runs the server the right to write there.",
            field="encryption_key_file" if path.name.endswith(".key") else "data_dir",
        ) from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def _sync(directory: Path) -> None:
    """Make a new name in *directory* survive a power failure."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
