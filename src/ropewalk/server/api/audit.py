"""The audit trail."""

from typing import Annotated

from fastapi import APIRouter, Query
from fastapi.responses import StreamingResponse

from ropewalk.schemas.audit import AuditEvent, AuditQuery
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.identity import audit
from ropewalk.server.identity.permissions import Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["audit"])

Reader = Annotated[Caller, require(Permission.INSTALLATION_AUDIT_READ)]
Asked = Annotated[AuditQuery, Query()]


@router.get("/audit")
async def read_audit(context: ContextDep, _caller: Reader, asked: Asked) -> list[AuditEvent]:
    """List what happened in the installation and who did it, oldest first; for operators."""
    return await audit.read_audit(context, asked)


@router.get(
    "/audit.csv",
    response_class=StreamingResponse,
    responses={200: {"content": {"text/csv": {}}, "description": "RFC 4180"}},
)
async def read_audit_csv(context: ContextDep, _caller: Reader, asked: Asked) -> StreamingResponse:
    """As `audit`, for spreadsheets: everything that is asked for, without a limit."""
    return StreamingResponse(audit.audit_csv(context, asked), media_type="text/csv; charset=utf-8")
