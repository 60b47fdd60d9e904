"""What people wish of a cloud account: to be prepared, to be torn down. Written here, made true by the reconciler."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from ropewalk.backends.port import Plans
from ropewalk.errors import ConflictError
from ropewalk.schemas import common
from ropewalk.schemas.cloud_accounts import CloudAccount as CloudAccountSchema
from ropewalk.schemas.cloud_accounts import CloudState, PreparePlan
from ropewalk.server.cloud_accounts import present
from ropewalk.server.cloud_accounts.service import find
from ropewalk.server.db.models import Account, CloudAccount, Event
from ropewalk.server.events import EventCode, record
from ropewalk.server.events import shown as shown_event

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller

__all__ = ["MAX_EVENTS", "events", "latest_events", "plan", "prepare", "teardown"]

MAX_EVENTS = 1000
"""Events that one request can ask for."""
CENT = 0.005
"""Prices that differ by less than half a cent are the same."""


async def plan(context: Context, caller: AccountCaller, cloud_account_id: str | None = None) -> PreparePlan:
    """Return what ``prepare`` makes and what that costs, before anybody asks for it."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id)
    return await _plan(context, row)


async def _plan(context: Context, row: CloudAccount) -> PreparePlan:
    backend = await context.backends.get(row.id)
    return backend.plan() if isinstance(backend, Plans) else PreparePlan(resources=[])


async def prepare(
    context: Context, caller: AccountCaller, accepted: float, cloud_account_id: str | None = None
) -> CloudAccountSchema:
    """Write down that a cloud account is to be prepared; asked again, it completes what is missing.

    Args:
        context: The server's services.
        caller: Who wishes it.
        accepted: What the caller knows that it costs a month.
        cloud_account_id: Which; None: where new clusters run.

    Raises:
        ConflictError: It costs more than the caller knows, is the operator's, or is being torn down.
    """
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id)
    _refuse_hosted(row)
    costs = await _plan(context, row)
    if costs.monthly_cost > accepted + CENT:
        raise ConflictError(
            f"What would be made costs {costs.monthly_cost:.2f} {costs.currency} a month, also while no cluster runs.",
            advice=f"See what it is with `ropewalk cloud-account prepare`, and accept it: "
            f"accept_monthly_cost={costs.monthly_cost:.2f}",
            field="accept_monthly_cost",
            details={"plan": costs.model_dump(mode="json")},
        )
    async with context.db.transaction() as session:
        row = await session.get_one(CloudAccount, row.id, with_for_update=True)
        if row.work == "teardown":
            raise ConflictError(
                "The cloud account is being torn down.",
                advice="Wait until it is removed: ropewalk cloud-account events --follow",
            )
        row.infrastructure = {**row.infrastructure, "monthly_cost": costs.monthly_cost}
        message = f"{caller.username} asked for the cloud account of {account.slug!r} to be prepared."
        return await _wish(context, session, account, row, caller, "prepare", message)


async def teardown(context: Context, caller: AccountCaller, cloud_account_id: str | None = None) -> CloudAccountSchema:
    """Write down that everything which ``prepare`` made is to be removed.

    Raises:
        ConflictError: Clusters run there, or it is the operator's.
    """
    async with context.db.transaction() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id)
        await session.refresh(row, with_for_update=True)
        _refuse_hosted(row)
        names = [cluster.name for cluster in await present.live_clusters(session, row.id)]
        if names:
            raise ConflictError(
                f"Clusters run there: {', '.join(names)}.",
                advice="Stop them first with: ropewalk cluster stop NAME",
                details={"clusters": names},
            )
        message = f"{caller.username} asked for everything that Ropewalk made for {account.slug!r} to be removed."
        return await _wish(context, session, account, row, caller, "teardown", message)


def _refuse_hosted(row: CloudAccount) -> None:
    if row.account_id is None:
        raise ConflictError(
            "The account's clusters run on the hosted cloud account, which is the operator's to look after.",
            advice="Set one of the account's own first: ropewalk cloud-account set --help",
        )


async def _wish(
    context: Context,
    session: AsyncSession,
    account: Account,
    row: CloudAccount,
    caller: AccountCaller,
    work: str,
    message: str,
) -> CloudAccountSchema:
    states = {"prepare": CloudState.PREPARING, "teardown": CloudState.TEARING_DOWN}
    codes = {"prepare": EventCode.CLOUD_ACCOUNT_PREPARING, "teardown": EventCode.CLOUD_ACCOUNT_TEARING_DOWN}
    before = await present.shown(session, account, row)
    row.work, row.work_actor, row.state = work, caller.username, states[work].value
    row.reason, row.attempts, row.retry_at = None, 0, None
    record(
        session,
        context.clock.now(),
        codes[work],
        message,
        account_id=account.id,
        cloud_account_id=row.id,
        actor=caller.username,
        details={"cloud_account": row.id},
    )
    await context.wakeups.announce(session, f"cloud:{row.id}", *present.topics(row))
    # Whoever follows the events from here on sees the one about this wish first.
    return (await present.shown(session, account, row)).model_copy(update={"last_event": before.last_event})


async def events(
    context: Context,
    caller: AccountCaller,
    cloud_account_id: str | None = None,
    *,
    after: int = 0,
    limit: int = MAX_EVENTS,
) -> tuple[list[common.Event], str, bool]:
    """Return the events of a cloud account after the one with id *after*, its id, and whether work is under way."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id, forgotten=True)
        if row.account_id is None:
            return [], row.id, False  # what the operator does is the operator's
        found = await session.scalars(
            select(Event).where(Event.cloud_account_id == row.id, Event.id > after).order_by(Event.id).limit(limit)
        )
        return [shown_event(event) for event in found], row.id, present.under_way(row)


async def latest_events(
    context: Context, caller: AccountCaller, cloud_account_id: str | None = None, *, limit: int = MAX_EVENTS
) -> list[common.Event]:
    """Return the newest events of a cloud account, the newest first; none of the operator's."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id, forgotten=True)
        if row.account_id is None:
            return []
        mine = select(Event).where(Event.cloud_account_id == row.id)
        return [shown_event(event) for event in await session.scalars(mine.order_by(Event.id.desc()).limit(limit))]
