"""Routes of cluster configurations."""

from typing import Annotated

from fastapi import APIRouter, status

from ropewalk.schemas.clusters import Configuration, ConfigurationSet
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.clusters import configurations
from ropewalk.server.identity.permissions import AccountCaller, Permission

router = APIRouter(prefix="/api/v1/accounts/{account}/configurations", tags=["configurations"])


@router.get("")
async def list_configurations(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CONFIGURATIONS_READ)]
) -> list[Configuration]:
    """List the account's cluster configurations."""
    return await configurations.list_configurations(context, caller)


@router.get("/{name}")
async def get_configuration(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CONFIGURATIONS_READ)], name: str
) -> Configuration:
    """Show a cluster configuration."""
    return await configurations.get_configuration(context, caller, name)


@router.put("/{name}")
async def set_configuration(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CONFIGURATIONS_SET)],
    name: str,
    wish: ConfigurationSet,
) -> Configuration:
    """Create or replace a cluster configuration. Only the fields that are given are kept."""
    return await configurations.set_configuration(context, caller, name, wish.spec)


@router.delete("/{name}", status_code=status.HTTP_204_NO_CONTENT)
async def delete_configuration(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_CONFIGURATIONS_DELETE)],
    name: str,
) -> None:
    """Delete a cluster configuration; clusters made from it stay as they are."""
    await configurations.delete_configuration(context, caller, name)
