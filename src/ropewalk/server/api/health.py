"""For the machines that look after the server: is it alive, is it ready, its numbers, the description of its API.

(This module does not postpone annotations: FastAPI needs them when the module is read.)
"""

import hmac
import ipaddress
from typing import Any

from fastapi import APIRouter, Request, Response
from prometheus_client import CONTENT_TYPE_LATEST
from starlette.responses import JSONResponse

from ropewalk._version import __version__
from ropewalk.errors import AuthenticationError
from ropewalk.server.api.deps import ContextDep, public
from ropewalk.server.context import Context
from ropewalk.server.identity.permissions import Permission
from ropewalk.server.readiness import readiness

router = APIRouter(tags=["health"])


@router.get("/healthz", dependencies=[public(Permission.PUBLIC_HEALTH_READ)])
async def healthz() -> dict[str, str]:
    """The process is alive. Says nothing about what it needs; see /readyz."""
    return {"status": "ok", "version": __version__}


@router.get("/readyz", dependencies=[public(Permission.PUBLIC_HEALTH_READ)], responses={503: {}})
async def readyz(request: Request, context: ContextDep) -> JSONResponse:
    """It can serve: 200, or 503 with the parts that are not ready."""
    state = request.app.state
    problems = await readiness(
        context,
        clusters=state.reconciler.loops,
        cloud_accounts=state.cloud_accounts.loops,
        environments=state.environments.loops,
    )
    parts = {name: problem or "ok" for name, problem in problems.items()}
    ready = not any(problems.values())
    body = {"status": "ready" if ready else "not ready", "parts": parts}
    return JSONResponse(body, 200 if ready else 503, None if ready else {"Retry-After": "2"})


@router.get(
    "/metrics",
    dependencies=[public(Permission.PUBLIC_METRICS_READ)],
    response_class=Response,
    responses={200: {"content": {"text/plain": {}}}},
)
async def metrics(request: Request, context: ContextDep) -> Response:
    """Numbers for Prometheus: for clients on this machine, and for those with the setting metrics_token."""
    if not _local(request) and not _has_token(request, context):
        raise AuthenticationError(
            "Metrics are for this machine, or for clients with the metrics token.",
            advice="Set metrics_token and send it as a bearer token.",
        )
    return Response(context.metrics.render(), media_type=CONTENT_TYPE_LATEST)


def _local(request: Request) -> bool:
    try:
        return request.client is not None and ipaddress.ip_address(request.client.host).is_loopback
    except ValueError:
        return False


def _has_token(request: Request, context: Context) -> bool:
    expected = context.settings.metrics_token
    if expected is None:
        return False
    scheme, _, given = request.headers.get("Authorization", "").partition(" ")
    right = hmac.compare_digest(given.strip().encode(), expected.get_secret_value().encode())
    return scheme.lower() == "bearer" and right


@router.get("/api/v1/openapi.json", dependencies=[public(Permission.PUBLIC_SCHEMA_READ)], tags=["api"])
async def openapi(request: Request) -> dict[str, Any]:
    """Describe this API, as OpenAPI 3.1."""
    described: dict[str, Any] = request.app.openapi()
    return described
