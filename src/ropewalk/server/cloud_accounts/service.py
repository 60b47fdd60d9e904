"""Cloud accounts: which one an account uses, its settings, its encrypted credentials, its check."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from ropewalk.errors import ConflictError, FixItError, InternalError, NotFoundError, RopewalkError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, CloudKind, HostedSettings
from ropewalk.schemas.cloud_accounts import CloudAccount as CloudAccountSchema
from ropewalk.server.cloud_accounts import present
from ropewalk.server.cloud_accounts.reach import note_reach
from ropewalk.server.cloud_accounts.stored import touch
from ropewalk.server.db.models import Account, CloudAccount
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller, Caller

__all__ = [
    "check_cloud_account",
    "ensure_hosted",
    "find",
    "get_cloud_account",
    "hosted_settings",
    "refuse_unusable",
    "resolve",
    "set_hosted",
]

HOSTED_ID = "ca-hosted"
"""The id of the operator's one hosted cloud account; a fixed id makes "created once" a matter of the primary key."""
CHECK_SECONDS = 60
"""A check that takes longer is reported as such."""


async def ensure_hosted(context: Context) -> None:
    """Make the hosted cloud account at the first start; several servers may do it at the same time."""
    now = context.clock.now()
    async with context.db.transaction() as session:
        # Servers that start at the same time wait here for each other: the hosted account is there for the second.
        await context.db.serialize(session, "hosted")
        if await session.get(CloudAccount, HOSTED_ID) is not None:
            return
        row = CloudAccount(
            id=HOSTED_ID,
            account_id=None,
            kind=CloudKind.HOSTED,
            backend="local",
            settings=HostedSettings().model_dump(mode="json"),
            credentials=None,
            last_check=None,
            infrastructure={},
            created_at=now,
            updated_at=now,
        )
        session.add(row)


async def resolve(session: AsyncSession, account: Account) -> CloudAccount:
    """Return the cloud account where *account*'s clusters run: its own, or the hosted one."""
    row = await session.get(CloudAccount, account.cloud_account_id or HOSTED_ID)
    if row is None:
        raise InternalError(
            f"The cloud account of {account.slug!r} is missing from the database.",
            advice="Start the server again: it makes the hosted cloud account.",
        )
    return row


async def find(
    session: AsyncSession, account: Account, cloud_account_id: str | None, *, forgotten: bool = False
) -> CloudAccount:
    """Return the cloud account of that id, if it is *account*'s; without an id the one where its new clusters run.

    Args:
        session: To look with.
        account: Whose.
        cloud_account_id: Which.
        forgotten: It may have been forgotten.

    Raises:
        NotFoundError: It does not exist, is another account's, or was forgotten.
    """
    if cloud_account_id is None:
        return await resolve(session, account)
    row = await session.get(CloudAccount, cloud_account_id)
    if row is None or row.account_id != account.id or (row.forgotten_at is not None and not forgotten):
        raise NotFoundError(
            f"The account {account.slug} has no cloud account {cloud_account_id[:60]!r}.",
            advice="Leave the id out for the present one; `ropewalk cloud-account show` lists former ones.",
            field="id",
        )
    return row


def refuse_unusable(row: CloudAccount) -> None:
    """Raise ConflictError if no cluster can be made there now."""
    if row.work == "teardown":
        raise ConflictError(
            "The account's cloud account is being torn down: no cluster can start there.",
            advice="Prepare it again when it is removed, or choose another: ropewalk cloud-account set --help",
        )
    if row.kind == CloudKind.AWS and not row.infrastructure.get("prepared"):
        under_way = present.under_way(row)
        raise ConflictError(
            "The account's AWS account is being prepared: clusters can start when that is done."
            if under_way
            else "The account's AWS account is not prepared: it has no network, roles and repository of Ropewalk yet.",
            advice="Follow it with: ropewalk cloud-account events --follow"
            if under_way
            else "An administrator of the account runs: ropewalk cloud-account prepare",
        )


async def get_cloud_account(
    context: Context, caller: AccountCaller, cloud_account_id: str | None = None
) -> CloudAccountSchema:
    """Return the cloud account of the account, without credentials."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        return await present.shown(session, account, await find(session, account, cloud_account_id))


async def hosted_settings(context: Context) -> HostedSettings:
    """Return what the operator decided about hosted clusters."""
    async with context.db.read() as session:
        row = await session.get_one(CloudAccount, HOSTED_ID)
    return HostedSettings.model_validate(row.settings)


async def set_hosted(context: Context, caller: Caller, settings: HostedSettings) -> HostedSettings:
    """Change how hosted clusters run; those that run already go on as they are."""
    now = context.clock.now()
    wanted = settings.model_dump(mode="json")
    async with context.db.transaction() as session:
        row = await session.get_one(CloudAccount, HOSTED_ID, with_for_update=True)
        changed = sorted(name for name, value in wanted.items() if row.settings.get(name) != value)
        if changed:
            row.settings = wanted
            touch(row, now)
            record(
                session,
                now,
                EventCode.CLOUD_ACCOUNT_UPDATED,
                f"The hosted cloud account was changed: {', '.join(changed)}.",
                cloud_account_id=row.id,
                actor=caller.username,
                details={"cloud_account": row.id, "changes": changed},
            )
    return settings


async def check_cloud_account(
    context: Context, caller: AccountCaller, cloud_account_id: str | None = None
) -> CheckReport:
    """Look whether clusters can run, and keep the report. No transaction is open meanwhile."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await find(session, account, cloud_account_id)
    report = await _check(context, row)
    async with context.db.transaction() as session:
        # Not `updated_at`: the settings are the same, and the backend need not be made anew.
        kept = await session.get_one(CloudAccount, row.id, with_for_update=True)
        kept.last_check = report.model_dump(mode="json")
        record(
            session,
            report.checked_at,
            EventCode.CLOUD_ACCOUNT_CHECKED,
            f"The cloud account of {account.slug!r} was checked: {'all is well' if report.ok else 'something failed'}.",
            level="info" if report.ok else "warning",
            account_id=account.id,
            cloud_account_id=row.id,
            actor=caller.username,
            details={"cloud_account": row.id, "ok": report.ok},
        )
        await context.wakeups.announce(session, *present.topics(row))
    if report.ok:
        # Where no cluster runs, nobody else would notice that the cloud answers again.
        await note_reach(context, row.id, None)
    return report


async def _check(context: Context, row: CloudAccount) -> CheckReport:
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            return await (await context.backends.get(row.id)).check()
    except TimeoutError:
        problem: RopewalkError = RopewalkError(
            f"The check did not end within {CHECK_SECONDS} seconds.", advice="Try again; look at the server's log."
        )
    except RopewalkError as exc:
        problem = exc
    status = CheckStatus.FAILED if isinstance(problem, FixItError) else CheckStatus.UNKNOWN
    item = CheckItem(name="backend", status=status, message=problem.message, advice=problem.advice)
    return CheckReport(checked_at=context.clock.now(), items=[item])
