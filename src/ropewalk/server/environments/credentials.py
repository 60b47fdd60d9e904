"""Credentials of private package indexes: kept encrypted, opened for the length of a build."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.errors import InputError, NotFoundError
from ropewalk.schemas.common import SLUG
from ropewalk.schemas.environments import IndexCredentials, IndexCredentialsSet
from ropewalk.server.db.models import IndexCredential, new_id
from ropewalk.server.environments.builder import Credential
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["delete", "list_all", "opened", "refuse_unknown", "store"]

_TABLE = IndexCredential.__tablename__


async def list_all(context: Context, caller: AccountCaller) -> list[IndexCredentials]:
    """Return what credentials there are, without them."""
    mine = select(IndexCredential).where(IndexCredential.account_id == caller.account_id)
    async with context.db.read() as session:
        return [_shown(row) for row in await session.scalars(mine.order_by(IndexCredential.name))]


async def store(context: Context, caller: AccountCaller, name: str, wish: IndexCredentialsSet) -> IndexCredentials:
    """Store credentials, or replace them."""
    if not SLUG.fullmatch(name):
        raise InputError(
            f"{name[:60]!r} cannot be the name of credentials.",
            advice="Use 1 to 40 lower-case letters, digits and hyphens, beginning and ending with a letter or digit.",
            field="name",
        )
    async with context.db.transaction() as session:
        await context.db.serialize(session, f"index credentials {caller.account_id} {name}")
        row = await _find(session, caller.account_id, name)
        if row is None:
            row = IndexCredential(id=new_id("ic"), account_id=caller.account_id, name=name)
            session.add(row)
        secret = json.dumps({"username": wish.username, "password": wish.password}).encode()
        row.url, row.updated_at = wish.url, context.clock.now()
        row.secret = context.vault.encrypt(secret, table=_TABLE, row=row.id, field="secret")
        message = f"Credentials {name!r} for a package index were stored."
        _note(context, session, caller, EventCode.INDEX_CREDENTIALS_SET, message, name)
        return _shown(row)


async def delete(context: Context, caller: AccountCaller, name: str) -> None:
    """Delete credentials."""
    async with context.db.transaction() as session:
        row = await _find(session, caller.account_id, name)
        if row is None:
            raise _unknown(name)
        await session.delete(row)
        message = f"Credentials {name!r} for a package index were deleted."
        _note(context, session, caller, EventCode.INDEX_CREDENTIALS_DELETED, message, name)


async def refuse_unknown(session: AsyncSession, account_id: str, names: Sequence[str]) -> None:
    """Raise NotFoundError if the account has no credentials of one of these names."""
    for name in names:
        if await _find(session, account_id, name) is None:
            raise _unknown(name)


async def opened(context: Context, session: AsyncSession, account_id: str, names: Sequence[str]) -> list[Credential]:
    """Return credentials in clear, for a build."""
    found = []
    for name in names:
        row = await _find(session, account_id, name)
        if row is None:
            raise _unknown(name)
        secret = json.loads(context.vault.decrypt(row.secret, table=_TABLE, row=row.id, field="secret"))
        found.append(Credential(name, row.url, secret["username"], secret["password"]))
    return found


async def _find(session: AsyncSession, account_id: str, name: str) -> IndexCredential | None:
    mine = select(IndexCredential).where(IndexCredential.account_id == account_id, IndexCredential.name == name)
    return (await session.scalars(mine)).one_or_none()


def _unknown(name: str) -> NotFoundError:
    return NotFoundError(
        f"The account has stored no credentials that are called {name[:60]!r}.",
        advice="See which there are with: ropewalk env credentials list",
        field="credentials",
    )


def _shown(row: IndexCredential) -> IndexCredentials:
    return IndexCredentials(name=row.name, url=row.url, updated_at=row.updated_at)


def _note(
    context: Context, session: AsyncSession, caller: AccountCaller, code: EventCode, message: str, name: str
) -> None:
    record(
        session,
        context.clock.now(),
        code,
        message,
        account_id=caller.account_id,
        actor=caller.username,
        details={"name": name},
    )
