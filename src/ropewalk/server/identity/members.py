"""Who is in an account, with which role and limit. Every account has at least one administrator."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import func, select

from ropewalk.errors import ConflictError, InputError, NotFoundError
from ropewalk.schemas.common import SLUG
from ropewalk.schemas.identity import AccountKind, MemberRole, MemberSet
from ropewalk.schemas.identity import Member as MemberSchema
from ropewalk.server.db.models import Account, Member, User
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.accounts import used_by_member, whole_cores

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["list_members", "remove_member", "set_member"]


async def list_members(context: Context, caller: AccountCaller) -> list[MemberSchema]:
    """Return the account's members by name, with what their live clusters reserve."""
    query = (
        select(Member, User.username)
        .join(User, User.id == Member.user_id)
        .where(Member.account_id == caller.account_id)
        .order_by(User.username)
    )
    async with context.db.read() as session:
        used = await used_by_member(session, caller.account_id)
        rows = (await session.execute(query)).all()
    return [_shown(context, member, name, used) for member, name in rows]


async def set_member(context: Context, caller: AccountCaller, username: str, request: MemberSet) -> MemberSchema:
    """Add a member, or change role and limit of one."""
    now = context.clock.now()
    async with context.db.transaction() as session:
        account = await _locked(session, caller)
        user = await _user(session, username)
        member = await session.get(Member, (account.id, user.id))
        if member is None:
            if account.kind == AccountKind.PERSONAL:
                raise ConflictError(
                    f"{account.slug!r} is a personal account, and those have no other members.",
                    advice="Ask an operator for a team account.",
                )
            if user.disabled:
                raise InputError(f"The user {username!r} is disabled.", field="username")
            member = Member(account_id=account.id, user_id=user.id, role=request.role, added_at=now)
            session.add(member)
        elif request.role is not MemberRole.ADMIN:
            await _refuse_last_admin(session, account, member, username)
        member.role = request.role
        member.core_limit = request.core_limit
        limit = "" if request.core_limit is None else f", with a limit of {request.core_limit} cores"
        record(
            session,
            now,
            EventCode.MEMBER_SET,
            f"{username!r} is {_ROLE_NAMES[request.role]} of the account {account.slug!r}{limit}.",
            account_id=account.id,
            actor=caller.username,
            details={"username": username, "role": str(request.role), "core_limit": request.core_limit},
        )
        await session.flush()
        return _shown(context, member, username, await used_by_member(session, account.id))


async def remove_member(context: Context, caller: AccountCaller, username: str) -> None:
    """Remove a member; their clusters stay in the account, where its administrators can stop them."""
    async with context.db.transaction() as session:
        account = await _locked(session, caller)
        user = await _user(session, username)
        member = await session.get(Member, (account.id, user.id))
        if member is None:
            raise _no_member(username)
        await _refuse_last_admin(session, account, member, username)
        await session.delete(member)
        record(
            session,
            context.clock.now(),
            EventCode.MEMBER_REMOVED,
            f"{username!r} was removed from the account {account.slug!r}.",
            account_id=account.id,
            actor=caller.username,
            details={"username": username},
        )


_ROLE_NAMES = {MemberRole.MEMBER: "a member", MemberRole.ADMIN: "an administrator"}


def _shown(context: Context, member: Member, username: str, used: dict[str, int]) -> MemberSchema:
    default = context.settings.default_member_core_limit
    return MemberSchema(
        username=username,
        role=MemberRole(member.role),
        core_limit=default if member.core_limit is None else whole_cores(member.core_limit),
        cores_used=used.get(member.user_id, 0),
        added_at=member.added_at,
    )


async def _locked(session: AsyncSession, caller: AccountCaller) -> Account:
    """Return the account, locked: changes of its members are made one after another."""
    return await session.get_one(Account, caller.account_id, with_for_update=True)


async def _user(session: AsyncSession, username: str) -> User:
    user = None
    if SLUG.fullmatch(username):
        user = await session.scalar(select(User).where(User.username == username))
    if user is None:
        raise NotFoundError(
            f"There is no user {username[:60]!r}.", advice="Ask an operator to create them.", field="username"
        )
    return user


async def _refuse_last_admin(session: AsyncSession, account: Account, member: Member, username: str) -> None:
    if member.role != MemberRole.ADMIN:
        return
    query = select(func.count()).where(Member.account_id == account.id, Member.role == MemberRole.ADMIN)
    if await session.scalar(query) == 1:
        raise ConflictError(
            f"{username!r} is the last administrator of the account {account.slug!r}.",
            advice="A personal account always belongs to its user."
            if account.kind == AccountKind.PERSONAL
            else "Make another member an administrator first.",
        )


def _no_member(username: str) -> NotFoundError:
    return NotFoundError(f"{username[:60]!r} is not a member of this account.", field="username")
