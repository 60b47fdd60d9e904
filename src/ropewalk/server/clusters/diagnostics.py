"""What an operator needs to know of this server when something is wrong. Changes nothing, and hides secrets."""

from __future__ import annotations

import asyncio
import importlib.metadata
import platform
import time
from collections.abc import Iterable

from sqlalchemy import func, select, text

from ropewalk._version import __version__
from ropewalk.errors import RopewalkError
from ropewalk.schemas.cloud_accounts import CheckReport
from ropewalk.schemas.diagnostics import (
    BackendDiagnostics,
    DatabaseDiagnostics,
    LeaseDiagnostics,
    ServerDiagnostics,
)
from ropewalk.server.clusters.reconciler import Reconciler
from ropewalk.server.context import Context
from ropewalk.server.db.models import CloudAccount, Cluster
from ropewalk.server.leases.loops import Loops

CHECK_SECONDS = 20.0
"""For the check of one cloud account; they run at the same time."""

PACKAGES = (
    "dask",
    "distributed",
    "fastapi",
    "sqlalchemy",
    "pydantic",
    "uvicorn",
    "cryptography",
    "aiosqlite",
    "asyncpg",
)


async def diagnose(
    context: Context, reconciler: Reconciler, loops: Iterable[Loops], *, check: bool = True
) -> ServerDiagnostics:
    """Look at everything once.

    Args:
        context: The server's services.
        reconciler: This server's.
        loops: Of all parts of this server.
        check: Ask each cloud account now, which takes a while; otherwise, what its last check found.
    """
    working = reconciler.working()
    return ServerDiagnostics(
        version=__version__,
        python=platform.python_version(),
        platform=platform.platform(),
        packages=_packages(),
        settings=context.settings.shown(),
        time=context.clock.now(),
        database=await _database(context),
        loops=[each for part in loops for each in part.told()],
        leases=await _leases(context, reconciler.owner),
        working_on=len(working),
        linked=sum(working.values()),
        orphans=reconciler.orphans,
        orphan_nodes=reconciler.orphan_nodes(),
        backends=await _backends(context, check=check),
    )


def _packages() -> dict[str, str]:
    installed = {dist.name.lower(): dist.version for dist in importlib.metadata.distributions() if dist.name}
    return {name: installed[name] for name in PACKAGES if name in installed}


async def _database(context: Context) -> DatabaseDiagnostics:
    question = "SELECT sqlite_version()" if context.db.is_sqlite else "SHOW server_version"
    async with context.db.read() as session:
        await session.execute(text("SELECT 1"))  # connecting is no part of the answer's time
        began = time.perf_counter()
        version = str(await session.scalar(text(question)))
        seconds = time.perf_counter() - began
    kind = "sqlite" if context.db.is_sqlite else "postgresql"
    return DatabaseDiagnostics(kind=kind, version=version, seconds=round(seconds, 6))


async def _leases(context: Context, me: str) -> list[LeaseDiagnostics]:
    counted = select(Cluster.lease_owner, func.count(), func.max(Cluster.lease_expires_at))
    held = counted.where(Cluster.lease_owner.is_not(None)).group_by(Cluster.lease_owner).order_by(Cluster.lease_owner)
    async with context.db.read() as session:
        return [
            LeaseDiagnostics(owner=str(owner), mine=owner == me, clusters=number, expires_at=expires)
            for owner, number, expires in await session.execute(held)
        ]


async def _backends(context: Context, *, check: bool) -> list[BackendDiagnostics]:
    async with context.db.read() as session:
        accounts = list(await session.scalars(select(CloudAccount).order_by(CloudAccount.created_at)))
    if not check:
        return [_known(account) for account in accounts if account.forgotten_at is None]
    return list(await asyncio.gather(*(_backend(context, account) for account in accounts)))


def _known(account: CloudAccount) -> BackendDiagnostics:
    return BackendDiagnostics(
        cloud_account=account.id,
        kind=account.kind,
        backend=account.backend,
        report=None if account.last_check is None else CheckReport.model_validate(account.last_check),
        problem=account.unreachable or account.reason,
    )


async def _backend(context: Context, account: CloudAccount) -> BackendDiagnostics:
    report, problem = None, None
    try:
        async with asyncio.timeout(CHECK_SECONDS):
            report = await (await context.backends.get(account.id)).check()
    except RopewalkError as exc:
        problem = str(exc)
    except TimeoutError:
        problem = f"It did not answer within {CHECK_SECONDS:.0f} seconds."
    except Exception as exc:  # noqa: BLE001 - a defect of one backend is what this page is read for
        problem = f"The check failed with {type(exc).__name__}."
    return BackendDiagnostics(
        cloud_account=account.id, kind=account.kind, backend=account.backend, report=report, problem=problem
    )
