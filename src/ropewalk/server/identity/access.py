"""From a token to a caller, and from a caller to an account: what every request goes through."""

from __future__ import annotations

import hashlib
import logging
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cache
from typing import TYPE_CHECKING, Any

from sqlalchemy import Row, Select, and_, bindparam, or_, select, update

from ropewalk.errors import AuthenticationError, NotFoundError, RopewalkError
from ropewalk.schemas.common import SLUG
from ropewalk.schemas.identity import MemberRole
from ropewalk.server.db.models import Account, Member, Token, User
from ropewalk.server.identity.permissions import AccountCaller, Caller

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

USE_RESOLUTION = timedelta(minutes=1)
"""``last_used_at`` is written at most this often, so that a busy client does not cost a write per request."""

_BY_TOKEN = (
    select(Token.id, Token.name, Token.expires_at, Token.last_used_at)
    .add_columns(User.id.label("user_id"), User.username, User.operator, User.disabled)
    .join(User, User.id == Token.user_id)
    .where(Token.hash == bindparam("hash"))
)
_WITH_ACCOUNT = (
    _BY_TOKEN.add_columns(Account.id.label("account_id"), Account.slug, Member.role)
    .outerjoin(Account, Account.slug == bindparam("slug"))
    .outerjoin(Member, and_(Member.account_id == Account.id, Member.user_id == User.id))
)
"""Statements that every request makes are put together once: that takes as long as running them. Columns, and no
objects, for the same reason."""
_ACCOUNT = (
    select(Account.id.label("account_id"), Account.slug, Member.role)
    .outerjoin(Member, and_(Member.account_id == Account.id, Member.user_id == bindparam("user_id")))
    .where(Account.slug == bindparam("slug"))
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TokenUse:
    """A caller, and whether the use of the token is to be written down."""

    caller: Caller
    seen_at: datetime
    stale: bool
    in_account: AccountCaller | None = None
    """The caller in the account that was asked for, if they may see it."""


def hash_token(token: str) -> str:
    """Return what is stored of a token or code. They are random, so a plain SHA-256 cannot be searched."""
    return hashlib.sha256(token.encode()).hexdigest()


async def by_token(context: Context, token: str, slug: str | None = None) -> TokenUse:
    """Return the caller to whom *token* was given, and as what they may see the account *slug*; one query.

    Raises:
        AuthenticationError: unknown, revoked, expired, or its user is disabled.
    """
    # What cannot be a name is not looked for: PostgreSQL refuses some characters with an error.
    slug = slug if slug is not None and SLUG.fullmatch(slug) else None
    asked = {"hash": hash_token(token)} | ({} if slug is None else {"slug": slug})
    async with context.db.read() as session:
        found = await session.execute(_BY_TOKEN if slug is None else _WITH_ACCOUNT, asked)
        record = found.one_or_none()
    if record is None:
        raise AuthenticationError(
            "The token is not known to this server: it was revoked, or belongs to another server.",
            advice="Log in again with: ropewalk login",
        )
    now = context.clock.now()
    if record.expires_at is not None and record.expires_at <= now:
        raise AuthenticationError(
            f"The token {record.name!r} expired on {record.expires_at:%Y-%m-%d at %H:%M} UTC.",
            advice="Log in again with: ropewalk login",
            details={"expired_at": record.expires_at.isoformat()},
        )
    if record.disabled:
        raise AuthenticationError(f"The user {record.username!r} is disabled.", advice="Ask an operator.")
    stale = record.last_used_at is None or now - record.last_used_at >= USE_RESOLUTION
    caller = Caller(record.user_id, record.username, record.operator, record.id)
    return TokenUse(caller, now, stale, None if slug is None else _in_account(caller, record))


async def still(context: Context, caller: Caller) -> bool:
    """Return whether *caller* may still be here, for what goes on after the request was let in; one query.

    That is so while the token is there and has not expired, the user is not disabled, and, of an account, while the
    user is its member or an operator.
    """
    account = caller.account_id if isinstance(caller, AccountCaller) else None
    asked = {"user_id": caller.user_id, "token_id": caller.token_id, "account_id": account}
    query = _still(by_token=caller.token_id is not None, in_account=account is not None)
    async with context.db.read() as session:
        row = (await session.execute(query, asked)).one_or_none()
    return row is not None and (row.expires_at is None or row.expires_at > context.clock.now())


@cache
def _still(*, by_token: bool, in_account: bool) -> Select[bool, datetime | None]:
    query = select(User.operator, Token.expires_at).where(User.id == bindparam("user_id"), ~User.disabled)
    query = query.outerjoin(Token, Token.id == bindparam("token_id"))
    if by_token:
        query = query.where(Token.id.is_not(None))
    if in_account:
        member = select(Member.user_id).where(Member.user_id == User.id, Member.account_id == bindparam("account_id"))
        query = query.where(or_(User.operator, member.exists()))
    return query


async def note_use(context: Context, use: TokenUse) -> None:
    """Write down that a token was used, if that was not done within the last minute. Never fails the request."""
    if not use.stale:
        return
    changed = update(Token).where(Token.id == use.caller.token_id).values(last_used_at=use.seen_at)
    try:
        async with context.db.transaction() as session:
            await session.execute(changed)
    except (OSError, RopewalkError) as exc:
        _log.warning("the use of token %s could not be written down: %s", use.caller.token_id, type(exc).__name__)


async def to_account(context: Context, caller: Caller, slug: str) -> AccountCaller:
    """Return *caller* as somebody who may see the account *slug*.

    Raises:
        NotFoundError: It does not exist or is not the caller's to see, which look the same; lists the caller's.
    """
    async with context.db.read() as session:
        # What cannot be a name is not looked for: PostgreSQL refuses some characters with an error.
        asked = {"slug": slug, "user_id": caller.user_id}
        row = (await session.execute(_ACCOUNT, asked)).one_or_none() if SLUG.fullmatch(slug) else None
        found = None if row is None else _in_account(caller, row)
        if found is None:
            raise await no_such_account(session, caller, slug)
        return found


def _in_account(caller: Caller, row: Row[*tuple[Any, ...]]) -> AccountCaller | None:
    """Return *caller* in the account of *row*, if there is one and they may see it."""
    if row.account_id is None or (row.role is None and not caller.operator):
        return None
    role = None if row.role is None else MemberRole(row.role)
    return AccountCaller(
        caller.user_id, caller.username, caller.operator, caller.token_id, row.account_id, row.slug, role
    )


async def no_such_account(session: AsyncSession, caller: Caller, slug: str) -> NotFoundError:
    """Return the error for an account that does not exist or is not the caller's; the client shows it as it is."""
    own = select(Account.slug).join(Member, Member.account_id == Account.id).where(Member.user_id == caller.user_id)
    slugs = list(await session.scalars(own.order_by(Account.slug)))
    return NotFoundError(
        f"There is no account {slug[:60]!r}, or you are not a member of it.",
        advice=f"Your accounts: {', '.join(slugs)}."
        if slugs
        else "You are not a member of any account: ask an operator.",
        field="account",
        details={"accounts": slugs},
    )
