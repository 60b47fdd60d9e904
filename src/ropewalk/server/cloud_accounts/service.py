"""Cloud accounts: which one an account uses, its settings, its encrypted credentials, its check."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from ropewalk.errors import FixItError, InternalError, RopewalkError, SecretsError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, CloudKind, HostedSettings
from ropewalk.schemas.cloud_accounts import CloudAccount as CloudAccountSchema
from ropewalk.server.db.models import Account, CloudAccount
from ropewalk.server.events import EventCode, record

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import AccountCaller, Caller
    from ropewalk.server.secrets import Vault

__all__ = [
    "check_cloud_account",
    "credentials",
    "ensure_hosted",
    "get_cloud_account",
    "hosted_settings",
    "resolve",
    "set_credentials",
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


async def get_cloud_account(context: Context, caller: AccountCaller) -> CloudAccountSchema:
    """Return the cloud account of the account, without credentials."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        return _shown(await resolve(session, account))


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
            _touch(row, now)
            record(
                session,
                now,
                EventCode.CLOUD_ACCOUNT_UPDATED,
                f"The hosted cloud account was changed: {', '.join(changed)}.",
                actor=caller.username,
                details={"cloud_account": row.id, "changes": changed},
            )
    return settings


async def check_cloud_account(context: Context, caller: AccountCaller) -> CheckReport:
    """Look whether clusters can run, and keep the report. No transaction is open meanwhile."""
    async with context.db.read() as session:
        account = await session.get_one(Account, caller.account_id)
        row = await resolve(session, account)
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
            actor=caller.username,
            details={"cloud_account": row.id, "ok": report.ok},
        )
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


def set_credentials(vault: Vault, row: CloudAccount, secret: Mapping[str, Any], now: datetime) -> None:
    """Store credentials, encrypted for this row alone."""
    plain = json.dumps(dict(secret), separators=(",", ":")).encode()
    row.credentials = vault.encrypt(plain, table=CloudAccount.__tablename__, row=row.id, field="credentials")
    _touch(row, now)


def credentials(vault: Vault, row: CloudAccount) -> dict[str, Any] | None:
    """Return the stored credentials; for backends only, no API returns them.

    Raises:
        SecretsError: They cannot be decrypted.
    """
    if row.credentials is None:
        return None
    plain = vault.decrypt(row.credentials, table=CloudAccount.__tablename__, row=row.id, field="credentials")
    value = json.loads(plain)
    if not isinstance(value, dict):
        raise SecretsError(f"The credentials of the cloud account {row.id!r} are not what was stored.")
    return value


def _touch(row: CloudAccount, now: datetime) -> None:
    """Make `updated_at` differ, whatever the clock says: it tells backends to be made anew."""
    row.updated_at = now if now > row.updated_at else row.updated_at + datetime.resolution


def _shown(row: CloudAccount) -> CloudAccountSchema:
    return CloudAccountSchema(
        kind=CloudKind(row.kind),
        backend=row.backend,
        settings=row.settings,
        has_credentials=row.credentials is not None,
        last_check=None if row.last_check is None else CheckReport.model_validate(row.last_check),
        updated_at=row.updated_at,
    )
