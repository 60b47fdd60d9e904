"""Routes of cloud accounts. No route returns stored credentials."""

from typing import Annotated

from fastapi import APIRouter

from ropewalk.schemas.cloud_accounts import CheckReport, CloudAccount, HostedSettings
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.cloud_accounts import service
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["cloud accounts"])


@router.get("/accounts/{account}/cloud-account")
async def get_cloud_account(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_READ)]
) -> CloudAccount:
    """Show where the account's clusters run."""
    return await service.get_cloud_account(context, caller)


@router.post("/accounts/{account}/cloud-account/check")
async def check_cloud_account(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CLOUD_CHECK)]
) -> CheckReport:
    """Find out whether clusters can run there; changes nothing in the cloud."""
    return await service.check_cloud_account(context, caller)


@router.get("/hosted")
async def get_hosted(
    context: ContextDep, _caller: Annotated[Caller, require(Permission.INSTALLATION_HOSTED_READ)]
) -> HostedSettings:
    """Show how hosted clusters run; for operators."""
    return await service.hosted_settings(context)


@router.put("/hosted")
async def set_hosted(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.INSTALLATION_HOSTED_UPDATE)],
    wish: HostedSettings,
) -> HostedSettings:
    """Replace how hosted clusters run; for operators. What is left out gets its default."""
    return await service.set_hosted(context, caller, wish)
