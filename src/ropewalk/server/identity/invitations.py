"""Invitations: links that let somebody into an account, once, until they expire. No e-mail is needed: people send them.

Whoever has a user joins with it; whoever has none makes one, unless the operator does not want that
(``invite_new_users``). The secret of a link is stored as a hash. A link that was used, revoked or has expired is the
same as one that never was.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select

from ropewalk.errors import ConflictError, NotFoundError, PermissionDeniedError
from ropewalk.schemas.identity import AccountKind, Invitation, InvitationCreate, InvitationCreated, Join, MemberRole
from ropewalk.server.db.models import Account, Member, User, new_id
from ropewalk.server.db.models import Invitation as Row
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity import throttle
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.accounts import whole_cores
from ropewalk.server.identity.passwords import hash_password
from ropewalk.server.identity.users import add_user

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller, Caller

__all__ = ["PATH", "Offer", "accept", "invite", "join", "list_invitations", "look", "revoke", "secret_of", "take"]

PREFIX = "rwi_"
"""Lets people and secret scanners recognise an invitation, and the log hide it."""
PATH = "/join/"
"""Of the page that a link leads to; the secret follows."""
MAX_PENDING = 200
"""For each account; guards against a script."""


@dataclass(frozen=True, slots=True)
class Offer:
    """What somebody who opens a link is told."""

    account: str
    role: MemberRole
    invited_by: str
    expires_at: datetime
    new_users: bool
    """Whether who has no user may make one."""


def secret_of(link: str) -> str:
    """Return the secret of what a person entered: a whole link, or the secret itself."""
    return link.strip().rpartition("/")[2]


async def list_invitations(context: Context, caller: AccountCaller) -> list[Invitation]:
    """Return the account's invitations that can still be used, newest first."""
    query = (
        select(Row, User.username)
        .join(User, User.id == Row.creator_id)
        .where(Row.account_id == caller.account_id, Row.expires_at > context.clock.now())
        .order_by(Row.created_at.desc(), Row.id)
    )
    async with context.db.read() as session:
        return [_shown(row, username) for row, username in await session.execute(query)]


async def invite(context: Context, caller: AccountCaller, wish: InvitationCreate) -> InvitationCreated:
    """Make an invitation; its link is in the answer and nowhere else.

    Raises:
        ConflictError: It is a personal account, or too many invitations wait.
    """
    now, secret = context.clock.now(), PREFIX + secrets.token_urlsafe(32)
    row = Row(
        id=new_id("i"),
        hash=hash_token(secret),
        account_id=caller.account_id,
        role=wish.role,
        core_limit=wish.core_limit,
        note=wish.note,
        creator_id=caller.user_id,
        created_at=now,
        expires_at=now + timedelta(days=wish.days),
    )
    async with context.db.transaction() as session:
        account = await session.get_one(Account, caller.account_id, with_for_update=True)
        await session.execute(delete(Row).where(Row.expires_at <= now))
        await _refuse(session, account)
        session.add(row)
        what = f"{caller.username!r} invited somebody to the account {account.slug!r}, as {_ROLES[wish.role]}."
        _note(session, context, EventCode.INVITATION_CREATED, what, row, caller.username)
    link = f"{context.settings.public_url}{PATH}{secret}"
    return InvitationCreated(**_shown(row, caller.username).model_dump(), url=link)


async def revoke(context: Context, caller: AccountCaller, invitation: str) -> None:
    """Make an invitation worthless."""
    async with context.db.transaction() as session:
        row = await session.get(Row, invitation) if invitation.isprintable() else None
        if row is None or row.account_id != caller.account_id:
            raise NotFoundError(
                f"This account has no invitation {invitation[:60]!r}.",
                advice="List them with: ropewalk invitation list",
                field="invitation",
            )
        await session.delete(row)
        what = f"{caller.username!r} revoked an invitation to the account {caller.account!r}."
        _note(session, context, EventCode.INVITATION_REVOKED, what, row, caller.username)


async def look(context: Context, secret: str, *, address: str | None) -> Offer:
    """Return what an invitation is to, for the page that asks whether to accept it.

    Raises:
        NotFoundError: It cannot be used.
        RateLimitedError: Somebody guesses.
    """
    counter = throttle.by_address(address, purpose="invitation", free=20)
    await throttle.failed_before(context, counter)
    query = (
        select(Row, Account.slug, User.username)
        .join(Account, Account.id == Row.account_id)
        .join(User, User.id == Row.creator_id)
        .where(Row.hash == hash_token(secret), Row.expires_at > context.clock.now())
    )
    async with context.db.transaction() as session:
        found = (await session.execute(query)).one_or_none()
        if found is None:
            raise _invalid()
        await throttle.forget(session, counter)
    row, slug, username = found
    return Offer(slug, MemberRole(row.role), username, row.expires_at, context.settings.invite_new_users)


async def accept(context: Context, caller: Caller, secret: str, *, address: str | None) -> str:
    """Join with the user that one has; returns the account's slug.

    Raises:
        ConflictError: They are a member already. The invitation can still be used.
        NotFoundError: It cannot be used.
        RateLimitedError: Somebody guesses.
    """
    counter = throttle.by_address(address, purpose="invitation", free=20)
    await throttle.failed_before(context, counter)
    async with context.db.transaction() as session:
        user = await session.get_one(User, caller.user_id)
        account = await take(context, session, user, secret)
        await throttle.forget(session, counter)
    return account


async def join(context: Context, wish: Join, *, address: str | None) -> tuple[User, str]:
    """Make a user with a password, and join; returns the user and the account's slug.

    Raises:
        NotFoundError: It cannot be used.
        PermissionDeniedError: The operator does not want new users to come this way.
        ConflictError: The name is taken. The invitation can still be used.
        RateLimitedError: Somebody guesses.
    """
    secret = wish.token.get_secret_value()
    offer = await look(context, secret, address=address)
    if not offer.new_users:
        raise PermissionDeniedError(
            "Invitations make no new users here.",
            advice="Ask an operator for a user, sign in, and open the link again.",
        )
    hashed = await hash_password(wish.password.get_secret_value())
    async with context.db.transaction() as session:
        user = await add_user(context, session, wish.username, hashed, email=None, operator=False, by=offer.invited_by)
        return user, await take(context, session, user, secret)


async def take(context: Context, session: AsyncSession, user: User, secret: str) -> str:
    """Use an invitation up and make *user* a member, in the transaction of *session*; returns the account's slug.

    Raises:
        NotFoundError: It cannot be used.
        ConflictError: They are a member already.
    """
    now = context.clock.now()
    # Deleting is what makes it work once: of two at the same time, one finds nothing.
    used = delete(Row).where(Row.hash == hash_token(secret), Row.expires_at > now).returning(Row)
    row = (await session.scalars(used)).one_or_none()
    if row is None:
        raise _invalid()
    account = await session.get_one(Account, row.account_id, with_for_update=True)
    if await session.get(Member, (account.id, user.id)) is not None:
        raise ConflictError(
            f"{user.username!r} is a member of {account.slug!r} already.",
            advice="The invitation can still be used, by somebody else.",
        )
    limit = row.core_limit
    session.add(Member(account_id=account.id, user_id=user.id, role=row.role, core_limit=limit, added_at=now))
    what = (
        f"{user.username!r} accepted an invitation to the account {account.slug!r}, as {_ROLES[MemberRole(row.role)]}."
    )
    _note(session, context, EventCode.INVITATION_ACCEPTED, what, row, user.username)
    return account.slug


_ROLES = {MemberRole.MEMBER: "a member", MemberRole.ADMIN: "an administrator"}


async def _refuse(session: AsyncSession, account: Account) -> None:
    if account.kind == AccountKind.PERSONAL:
        raise ConflictError(
            f"{account.slug!r} is a personal account, and those have no other members.",
            advice="Ask an operator for a team account.",
        )
    waiting = await session.scalar(select(func.count()).select_from(Row).where(Row.account_id == account.id)) or 0
    if waiting >= MAX_PENDING:
        raise ConflictError(
            f"{waiting} invitations to this account wait already, which is the most there may be.",
            advice="Revoke some that nobody needs: ropewalk invitation list, ropewalk invitation revoke.",
        )


def _note(session: AsyncSession, context: Context, code: EventCode, what: str, row: Row, actor: str) -> None:
    details = {"invitation": row.id, "role": row.role, "core_limit": row.core_limit}
    record(session, context.clock.now(), code, what, account_id=row.account_id, actor=actor, details=details)


def _shown(row: Row, creator: str) -> Invitation:
    return Invitation(
        id=row.id,
        note=row.note,
        role=MemberRole(row.role),
        core_limit=None if row.core_limit is None else whole_cores(row.core_limit),
        invited_by=creator,
        created_at=row.created_at,
        expires_at=row.expires_at,
    )


def _invalid() -> NotFoundError:
    return NotFoundError(
        "This invitation cannot be used: it was used already, was revoked, or has expired.",
        advice="Ask whoever sent it for another one.",
        field="token",
    )
