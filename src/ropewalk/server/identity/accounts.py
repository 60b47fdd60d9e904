"""Accounts: the personal ones, made with their user, and teams, made by an operator."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from sqlalchemy import and_, func, select
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import ConflictError
from ropewalk.schemas.clusters import ClusterState
from ropewalk.schemas.identity import Account as AccountSchema
from ropewalk.schemas.identity import AccountCreate, AccountKind, AccountUpdate, MemberRole
from ropewalk.server.db.models import Account, Cluster, Member, new_id
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

if TYPE_CHECKING:
    from sqlalchemy import ColumnElement
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context

__all__ = ["create_account", "get_account", "list_accounts", "update_account", "used_by_member", "whole_cores"]

LIVE = Cluster.state.not_in([state for state in ClusterState if not state.live])


def whole_cores(cores: float | None) -> int:
    """Return cores as people are shown them: rounded up, without binary noise."""
    return math.ceil(round(cores or 0.0, 6))


async def list_accounts(context: Context, caller: Caller, *, everyone: bool = False) -> list[AccountSchema]:
    """Return the accounts of the caller, or, for an operator who asks, all."""
    if everyone:
        caller.demand(Permission.INSTALLATION_ACCOUNTS_READ, "Only an operator may list the accounts of everyone.")
    async with context.db.read() as session:
        return await _shown(context, session, caller, None if everyone else Member.user_id.is_not(None))


async def get_account(context: Context, caller: AccountCaller) -> AccountSchema:
    """Return the account that the request is about."""
    async with context.db.read() as session:
        return await _one(context, session, caller, caller.account_id)


async def create_account(context: Context, caller: Caller, request: AccountCreate) -> AccountSchema:
    """Make a team account; whoever makes it is its first administrator, so that it always has one."""
    now = context.clock.now()
    row = Account(
        id=new_id("a"),
        slug=request.slug,
        kind=AccountKind.TEAM,
        owner_id=None,
        core_limit=request.core_limit,
        created_at=now,
    )
    async with context.db.transaction() as session:
        if await session.scalar(select(Account.id).where(Account.slug == request.slug)) is not None:
            raise _taken(request.slug)
        try:
            session.add(row)
            await session.flush()
        except IntegrityError:
            raise _taken(request.slug) from None
        admin = Member(account_id=row.id, user_id=caller.user_id, role=MemberRole.ADMIN, core_limit=None, added_at=now)
        session.add(admin)
        record(
            session,
            now,
            EventCode.ACCOUNT_CREATED,
            f"The team account {row.slug!r} was created.",
            account_id=row.id,
            actor=caller.username,
            details={"account": row.slug, "core_limit": request.core_limit},
        )
        await session.flush()
        return await _one(context, session, caller, row.id)


async def update_account(context: Context, caller: AccountCaller, request: AccountUpdate) -> AccountSchema:
    """Change an account's limit; a limit of null is the installation's default."""
    async with context.db.transaction() as session:
        row = await session.get_one(Account, caller.account_id, with_for_update=True)
        if "core_limit" in request.model_fields_set and request.core_limit != row.core_limit:
            row.core_limit = request.core_limit
            limit = "the default" if request.core_limit is None else f"{request.core_limit} cores"
            record(
                session,
                context.clock.now(),
                EventCode.ACCOUNT_UPDATED,
                f"The limit of the account {row.slug!r} was set to {limit}.",
                account_id=row.id,
                actor=caller.username,
                details={"account": row.slug, "core_limit": request.core_limit},
            )
            await session.flush()
        return await _one(context, session, caller, row.id)


async def used_by_member(session: AsyncSession, account_id: str) -> dict[str, int]:
    """Return the cores that the live clusters of each member reserve, by user id."""
    query = (
        select(Cluster.creator_id, func.sum(Cluster.reserved_cores))
        .where(Cluster.account_id == account_id, LIVE)
        .group_by(Cluster.creator_id)
    )
    return {user: whole_cores(cores) for user, cores in (await session.execute(query))}


async def _one(context: Context, session: AsyncSession, caller: Caller, account_id: str) -> AccountSchema:
    return (await _shown(context, session, caller, Account.id == account_id))[0]


async def _shown(
    context: Context, session: AsyncSession, caller: Caller, which: ColumnElement[bool] | None
) -> list[AccountSchema]:
    used = select(func.sum(Cluster.reserved_cores)).where(Cluster.account_id == Account.id, LIVE).scalar_subquery()
    query = (
        select(Account, Member.role, used)
        .outerjoin(Member, and_(Member.account_id == Account.id, Member.user_id == caller.user_id))
        .order_by(Account.slug)
    )
    if which is not None:
        query = query.where(which)
    default = context.settings.default_account_core_limit
    return [
        AccountSchema(
            slug=row.slug,
            kind=AccountKind(row.kind),
            role=None if role is None else MemberRole(role),
            core_limit=default if row.core_limit is None else whole_cores(row.core_limit),
            cores_used=whole_cores(cores),
            created_at=row.created_at,
        )
        for row, role, cores in (await session.execute(query))
    ]


def _taken(slug: str) -> ConflictError:
    return ConflictError(
        f"The name {slug!r} is taken by another account; users have a personal account of their own name.",
        advice="Choose another name.",
        field="slug",
    )
