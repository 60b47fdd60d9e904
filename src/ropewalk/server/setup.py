"""What happens before a server can serve: schema, encryption key, the installation's row, the first operator."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import TYPE_CHECKING

import structlog
from sqlalchemy import select, update

from ropewalk.errors import ConflictError, DatabaseError, SecretsError
from ropewalk.server import keys
from ropewalk.server.cloud_accounts.service import ensure_hosted
from ropewalk.server.db import migrate
from ropewalk.server.db.models import Installation, User, new_id
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.passwords import hash_password
from ropewalk.server.identity.setup import CODE_FILE
from ropewalk.server.identity.users import add_user

if TYPE_CHECKING:
    from datetime import datetime

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.schemas.identity import UserCreate
    from ropewalk.server.context import Context
    from ropewalk.server.db.engine import Database
    from ropewalk.server.secrets import Vault
    from ropewalk.server.settings import Settings

KEY_CHECK = b"ropewalk"
"""Encrypted in the installation's row: whoever can read it has the right key."""
CODE_BYTES = 16
"""128 random bits: cannot be guessed, even without the throttle on tries."""

log = structlog.get_logger(__name__)


async def check_schema(db: Database, *, migrate_now: bool) -> None:
    """Bring the database to this version's schema, or refuse.

    A new database and SQLite, which has one server, are migrated at once. On PostgreSQL that may lock out other servers
    that still run the old version, so a person decides.

    Raises:
        DatabaseError: It is newer than this version, or older and not to be migrated now.
    """
    state = await migrate.state(db)
    if not state.pending:
        return
    if not (state.revision is None or db.is_sqlite or migrate_now):
        raise DatabaseError(
            f"The database needs {len(state.pending)} migration(s) before this version can use it.",
            advice="Make a backup, stop other servers, then run: ropewalk server migrate (or start with --migrate).",
            details={"revision": state.revision, "pending": list(state.pending)},
        )
    after = await migrate.upgrade(db)
    log.info("database.migrated", before=state.revision, revision=after.revision)


async def open_vault(settings: Settings, db: Database, now: datetime) -> Vault:
    """Return the vault whose key fits this database; make key and installation at the very first start.

    Raises:
        SettingsError: The key is missing or unusable.
        SecretsError: It is another key than the one that this database was made with.
    """
    async with db.transaction() as session:
        # Servers that start at the same time wait for each other here.
        await db.serialize(session, "installation")
        installation = await session.scalar(select(Installation))
        vault = keys.load_vault(settings, create=installation is None)
        if installation is None:
            _add_installation(session, vault, now)
        else:
            _check_key(vault, installation)
    return vault


def _add_installation(session: AsyncSession, vault: Vault, now: datetime) -> None:
    row_id = new_id("i")
    check = vault.encrypt(KEY_CHECK, table="installation", row=row_id, field="key_check")
    session.add(Installation(id=row_id, created_at=now, key_check=check, setup_code_hash=None))
    record(session, now, EventCode.INSTALLATION_CREATED, "The installation was created.", details={"id": row_id})


def _check_key(vault: Vault, installation: Installation) -> None:
    try:
        vault.decrypt(installation.key_check, table="installation", row=installation.id, field="key_check")
    except SecretsError as exc:
        raise SecretsError(
            "The encryption key is not the one that this database was made with, so its secrets cannot be read.",
            advice="Restore the key file that belongs to this database, or set ROPEWALK_ENCRYPTION_KEY to its keys.",
            details={"cause": exc.message},
        ) from None


async def prepare(context: Context) -> None:
    """Make what every installation has: the hosted cloud account, and a way to become its operator."""
    await ensure_hosted(context)
    await offer_setup(context)


async def offer_setup(context: Context) -> Path | None:
    """Put a one-time code for the first operator into a file, unless there is one; return the file.

    The database has the code's hash only, and the log the name of the file.
    """
    path = context.settings.data_dir / CODE_FILE
    async with context.db.transaction() as session:
        await context.db.serialize(session, "installation")
        if await _operators(session):
            await session.execute(update(Installation).values(setup_code_hash=None))
            path.unlink(missing_ok=True)
            return None
        stored = (await session.scalars(select(Installation.setup_code_hash))).one()
        if stored is None or stored != _hash_of(path):
            code = secrets.token_urlsafe(CODE_BYTES)
            keys.replace(path, code + "\n")
            await session.execute(update(Installation).values(setup_code_hash=hash_token(code)))
    log.info("setup.waiting", file=str(path), hint="make the operator with: ropewalk server setup --username NAME")
    return path


def _hash_of(path: Path) -> str | None:
    try:
        return hash_token(path.read_text("utf-8").strip())
    except (OSError, UnicodeDecodeError):
        return None


async def _operators(session: AsyncSession) -> list[str]:
    return list(await session.scalars(select(User.username).where(User.operator).order_by(User.username)))


async def create_operator(context: Context, request: UserCreate) -> None:
    """Make the first operator without the code: for people who can read the data directory anyway.

    Raises:
        ConflictError: There is an operator already.
    """
    hashed = await hash_password(request.password.get_secret_value())
    async with context.db.transaction() as session:
        await context.db.serialize(session, "installation")
        operators = await _operators(session)
        if operators:
            raise ConflictError(
                f"This installation has an operator already: {', '.join(operators)}.",
                advice="Operators make further users: ropewalk user create NAME --operator.",
            )
        await session.execute(update(Installation).values(setup_code_hash=None))
        await add_user(
            context, session, request.username, hashed, email=request.email, operator=True, by=request.username
        )
    (context.settings.data_dir / CODE_FILE).unlink(missing_ok=True)
