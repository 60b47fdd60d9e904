"""Core limits of members and accounts, checked in the transaction that uses the cores up."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy import bindparam, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from ropewalk.errors import LimitExceededError
from ropewalk.server.clusters.leases import LIVE
from ropewalk.server.db.models import Account, Cluster, Member
from ropewalk.server.settings import Settings


async def lock_account(session: AsyncSession, account_id: str, now: datetime) -> Account:
    """Make everyone else who wants to check this account's limits wait for the end of this transaction."""
    touched = update(Account).where(Account.id == account_id).values(touched_at=now).returning(Account)
    return (await session.scalars(touched)).one()


async def check(
    session: AsyncSession, settings: Settings, account: Account, user_id: str, *, more: float, leave_out: str = ""
) -> None:
    """Refuse what would exceed a limit; call :func:`lock_account` first.

    Args:
        session: The transaction that will use the cores.
        settings: For the limits of those who have none of their own.
        account: Whose cores are used.
        user_id: Who uses them.
        more: Cores that are asked for.
        leave_out: Id of a cluster that *more* replaces.

    Raises:
        LimitExceededError: says the limit, what is used and what was asked.
    """
    member = await session.get(Member, (account.id, user_id))
    own = member.core_limit if member is not None else None
    member_limit = settings.default_member_core_limit if own is None else own
    account_limit = settings.default_account_core_limit if account.core_limit is None else account.core_limit
    for who, limit, whose in (("you", member_limit, user_id), (f"the account {account.slug}", account_limit, None)):
        if limit is None:
            continue
        used = await _used(session, account.id, leave_out, whose)
        if used + more > limit:
            verb = "use" if who == "you" else "uses"
            left = max(0.0, limit - used)
            raise LimitExceededError(
                f"This needs {more:g} cores, but {who} may use {limit:g} and already {verb} {used:g}.",
                advice=f"Ask for at most {left:g} cores, stop a cluster, or ask an operator for more.",
                details={"limit": limit, "used": used, "asked": more, "of": "member" if who == "you" else "account"},
            )


async def _used(session: AsyncSession, account_id: str, leave_out: str, user_id: str | None = None) -> float:
    asked = {"account": account_id, "leave_out": leave_out}
    cores = _CORES if user_id is None else _CORES.where(Cluster.creator_id == user_id)
    return float((await session.scalars(cores, asked)).one())


_CORES = select(func.coalesce(func.sum(Cluster.reserved_cores), 0.0)).where(
    Cluster.account_id == bindparam("account"), Cluster.state.in_(LIVE), Cluster.id != bindparam("leave_out")
)
