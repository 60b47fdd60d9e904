"""The audit trail."""

from typing import Annotated

from fastapi import APIRouter, Query

from ropewalk.schemas.common import Event
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.identity import audit
from ropewalk.server.identity.permissions import Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["audit"])


@router.get("/audit")
async def read_audit(
    context: ContextDep,
    _caller: Annotated[Caller, require(Permission.INSTALLATION_AUDIT_READ)],
    after: Annotated[
        int | None, Query(ge=0, le=2**31 - 1, description="Id of the last event seen; without: the newest events.")
    ] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> list[Event]:
    """List what happened in the installation and who did it, oldest first; for operators."""
    return await audit.read_audit(context, after=after, limit=limit)
