"""The state of the server, for operators.

(This module does not postpone annotations: FastAPI needs them when the module is read.)
"""

from typing import Annotated

from fastapi import APIRouter, Request

from ropewalk.schemas.diagnostics import ServerDiagnostics
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.clusters.diagnostics import diagnose
from ropewalk.server.identity.permissions import Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["health"])


@router.get("/diagnostics")
async def get_diagnostics(
    request: Request,
    context: ContextDep,
    _caller: Annotated[Caller, require(Permission.INSTALLATION_DIAGNOSTICS_READ)],
) -> ServerDiagnostics:
    """Return versions, settings, loops, leases, orphans and a check of each backend; secrets are hidden."""
    state = request.app.state
    loops = (state.reconciler.loops, state.cloud_accounts.loops, state.environments.loops)
    return await diagnose(context, state.reconciler, loops)
