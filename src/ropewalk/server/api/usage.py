"""Routes of usage and cost."""

from typing import Annotated

from fastapi import APIRouter, Query, Response

from ropewalk.schemas.usage import Usage, UsageQuery, usage_csv
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.clusters import usage
from ropewalk.server.identity.permissions import AccountCaller, Permission

router = APIRouter(prefix="/api/v1/accounts/{account}", tags=["clusters"])

Reader = Annotated[AccountCaller, require(Permission.ACCOUNT_COSTS_READ)]
Asked = Annotated[UsageQuery, Query()]


@router.get("/usage")
async def get_usage(context: ContextDep, caller: Reader, asked: Asked) -> Usage:
    """Add up what the account's clusters used and cost: by day, member, cluster or tag, or by several of these.

    What still runs is counted until now. `notes` say what the sums do not know.
    """
    return await usage.usage(context, caller, asked)


@router.get(
    "/usage.csv", response_class=Response, responses={200: {"content": {"text/csv": {}}, "description": "RFC 4180"}}
)
async def get_usage_csv(context: ContextDep, caller: Reader, asked: Asked) -> Response:
    """As `usage`, for spreadsheets."""
    found = await usage.usage(context, caller, asked)
    return Response(usage_csv(found), media_type="text/csv; charset=utf-8")
