"""Does one work on one cloud account: runs the backend's steps, and stores what each of them made before the next.

Whoever takes over after a crash runs the same steps again: a backend finds what exists already, by tag or name, and
completes it. So nothing here depends on the memory of a process.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

import structlog
from sqlalchemy.exc import SQLAlchemyError

from ropewalk.errors import FixItError, RopewalkError, TryAgainError, UnavailableError
from ropewalk.schemas.cloud_accounts import CloudState
from ropewalk.server.cloud_accounts import present
from ropewalk.server.cloud_accounts.leases import Lease, LeaseLostError, fenced
from ropewalk.server.cloud_accounts.making import resources_of
from ropewalk.server.cloud_accounts.stored import touch
from ropewalk.server.db.models import CloudAccount
from ropewalk.server.events import EventCode, record
from ropewalk.server.leases.rows import give_back

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.backends.port import Backend, Resource
    from ropewalk.server.context import Context

__all__ = ["Worker"]

LAST_RETRY = 300.0
"""Seconds between two tries at the most."""

log = structlog.get_logger(__name__)


class _ChangedError(Exception):
    """Something else is wished now."""


class Worker:
    """Works on one cloud account for as long as the lease holds."""

    def __init__(self, context: Context, lease: Lease) -> None:
        self._context = context
        self._lease = lease

    async def run(self) -> None:
        """Do what is wished; returns when it is done, failed, or waits for another try. The lease is given back."""
        structlog.contextvars.bind_contextvars(cloud_account=self._lease.row_id)
        try:
            await self._run()
        except _ChangedError:
            await self._leave()
        except (LeaseLostError, SQLAlchemyError, OSError, UnavailableError) as exc:
            # Whoever claims it next goes on; the database cannot be told now.
            log.warning("cloud_account.work_interrupted", error=type(exc).__name__)
        except FixItError as exc:
            await self._needs_attention(exc)
        except TryAgainError as exc:
            await self._later(exc.message, exc.delay)
        except RopewalkError as exc:
            await self._needs_attention(exc)
        except Exception as exc:
            log.exception("cloud_account.defect")
            await self._later(f"The backend failed with {type(exc).__name__}; the server's log says more.", 5.0)

    async def _run(self) -> None:
        async with fenced(self._context, self._lease) as (_session, row):
            work, begun, stored = row.work, row.updated_at, resources_of(row)
        if work is None:
            raise _ChangedError
        backend = await self._context.backends.get(self._lease.row_id)
        log.info("cloud_account.working", work=work, resources=len(stored))
        for_now = _steps(backend, work, stored)
        # Closed before anything else is done: its connections are, and nothing of it goes on.
        async with aclosing(cast("AsyncGenerator[Resource]", for_now)) as steps:
            async for resource in steps:
                await self._keep(work, resource)
        await self._done(work, begun)

    async def _keep(self, work: str, resource: Resource) -> None:
        """Store one step's outcome, before the next is taken."""
        gone = resource.gone
        async with fenced(self._context, self._lease) as (session, row):
            new = _store(row, resource, gone=gone)
            if new:
                row.attempts = 0
                row.reason = None
                code = EventCode.CLOUD_ACCOUNT_RESOURCE_REMOVED if gone else EventCode.CLOUD_ACCOUNT_RESOURCE_MADE
                await self._tell(session, row, code, _sentence(resource, gone=gone), resource=_facts(resource))
            changed = row.work != work
        log.info("cloud_account.step", kind=resource.kind, id=resource.id, gone=gone, new=new)
        if changed:
            raise _ChangedError

    async def _done(self, work: str, begun: datetime) -> None:
        async with fenced(self._context, self._lease) as (session, row):
            if row.work != work or row.updated_at != begun:
                # Settings or wishes changed meanwhile: once more, with those.
                give_back(row)
            elif work == "teardown" and present.owned(row):
                left = ", ".join(f"{item['kind']} {item['id']}" for item in present.owned(row))
                await self._stop(session, row, f"The cloud did not say that all is gone; this is left: {left}.")
            else:
                await self._finish(session, row, work)
            await self._context.wakeups.announce(session, *_topics(row))

    async def _finish(self, session: AsyncSession, row: CloudAccount, work: str) -> None:
        row.work = row.reason = row.retry_at = row.unreachable = None
        row.attempts = 0
        give_back(row)
        if work == "teardown":
            row.state, row.infrastructure = CloudState.REMOVED.value, {}
            code, message = EventCode.CLOUD_ACCOUNT_REMOVED, "Everything that Ropewalk made is gone."
        else:
            row.state = CloudState.READY.value
            row.infrastructure = {**row.infrastructure, "prepared": True}
            code, message = EventCode.CLOUD_ACCOUNT_READY, "Everything that clusters need is there."
        # Backends are made anew, with what exists now.
        touch(row, self._context.clock.now())
        await self._tell(session, row, code, message)

    async def _needs_attention(self, error: RopewalkError) -> None:
        try:
            async with fenced(self._context, self._lease) as (session, row):
                await self._stop(session, row, str(error), field=error.field, **_about(error))
        except LeaseLostError:
            log.warning("lease.lost")

    async def _stop(self, session: AsyncSession, row: CloudAccount, reason: str, **details: Any) -> None:
        """Wait for a person; ``work`` stays, so that it goes on once somebody changed something and asks again."""
        row.state, row.reason, row.retry_at = CloudState.ATTENTION.value, reason, None
        give_back(row)
        await self._tell(session, row, EventCode.CLOUD_ACCOUNT_ATTENTION, reason, level="error", **details)

    async def _later(self, reason: str, delay: float) -> None:
        self._context.metrics.retries.labels("cloud_account").inc()
        try:
            async with fenced(self._context, self._lease) as (session, row):
                row.attempts += 1
                seconds = max(delay, min(2.0 ** (row.attempts - 1), LAST_RETRY))
                row.retry_at = self._context.clock.now() + timedelta(seconds=seconds)
                row.reason = f"{reason} It is tried again in {seconds:.0f} seconds."
                give_back(row)
                await self._tell(session, row, EventCode.CLOUD_ACCOUNT_RETRYING, row.reason, level="warning")
        except LeaseLostError:
            log.warning("lease.lost")

    async def _leave(self) -> None:
        """Give the lease back at once: something else is to be done."""
        try:
            async with fenced(self._context, self._lease) as (session, row):
                give_back(row)
                await self._context.wakeups.announce(session, *_topics(row))
        except LeaseLostError:
            log.info("lease.lost")

    async def _tell(
        self,
        session: AsyncSession,
        row: CloudAccount,
        code: EventCode,
        message: str,
        *,
        level: str = "info",
        **details: Any,
    ) -> None:
        record(
            session,
            self._context.clock.now(),
            code,
            message,
            level=level,
            account_id=row.account_id,
            cloud_account_id=row.id,
            details={"cloud_account": row.id} | {name: value for name, value in details.items() if value is not None},
        )
        await self._context.wakeups.announce(session, *_topics(row))


def _topics(row: CloudAccount) -> tuple[str, ...]:
    return f"cloud:{row.id}", *present.topics(row)


def _steps(backend: Backend, work: str, stored: Sequence[Resource]) -> AsyncIterator[Resource]:
    return backend.prepare() if work == "prepare" else backend.teardown(stored)


def _store(row: CloudAccount, resource: Resource, *, gone: bool) -> bool:
    """Put a resource into the row, or take it out; returns whether that is news."""
    before = row.infrastructure.get("resources", [])
    rest = [item for item in before if (item["kind"], item["id"]) != (resource.kind, resource.id)]
    after = rest if gone else [*rest, _facts(resource)]
    # Assigned anew: SQLAlchemy does not see changes within JSON.
    row.infrastructure = {**row.infrastructure, "resources": after}
    return (len(rest) != len(before)) is gone


def _facts(resource: Resource) -> dict[str, Any]:
    return {"kind": resource.kind, "id": resource.id, "details": dict(resource.details)}


def _sentence(resource: Resource, *, gone: bool) -> str:
    name = resource.kind.replace("_", " ")
    note = resource.details.get("note")
    verb = "is gone" if gone else "is used" if resource.details.get("owned") is False else "is there"
    return f"The {name} {resource.id} {verb}." + (f" {note}" if note else "")


def _about(error: RopewalkError) -> dict[str, Any]:
    """Return what programs can use of an error: which right is missing, AWS's code."""
    return {name: error.details[name] for name in ("action", "aws_code", "credentials") if name in error.details}
