"""Routes of accounts and their members."""

from typing import Annotated

from fastapi import APIRouter, Query, status

from ropewalk.schemas.identity import Account, AccountCreate, AccountUpdate, Member, MemberSet
from ropewalk.server.api.deps import ContextDep, require
from ropewalk.server.identity import accounts, members
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

router = APIRouter(prefix="/api/v1/accounts", tags=["accounts"])


@router.get("")
async def list_accounts(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.SELF_ACCOUNTS_READ)],
    everyone: Annotated[bool, Query(alias="all", description="All of the installation's; for operators.")] = False,
) -> list[Account]:
    """List your accounts."""
    return await accounts.list_accounts(context, caller, everyone=everyone)


@router.post("", status_code=status.HTTP_201_CREATED)
async def create_account(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.INSTALLATION_ACCOUNTS_CREATE)],
    wish: AccountCreate,
) -> Account:
    """Create a team account, with yourself as its first administrator; for operators."""
    return await accounts.create_account(context, caller, wish)


@router.get("/{account}")
async def get_account(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_DETAILS_READ)]
) -> Account:
    """Show an account: its limit, and the cores that its clusters use."""
    return await accounts.get_account(context, caller)


@router.patch("/{account}")
async def update_account(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_LIMITS_SET)],
    wish: AccountUpdate,
) -> Account:
    """Set the limit of an account; for operators."""
    return await accounts.update_account(context, caller, wish)


@router.get("/{account}/members")
async def list_members(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_MEMBERS_READ)]
) -> list[Member]:
    """List the members of an account."""
    return await members.list_members(context, caller)


@router.put("/{account}/members/{username}")
async def set_member(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_MEMBERS_SET)],
    username: str,
    wish: MemberSet,
) -> Member:
    """Add a member, or change role and limit of one; for administrators of the account."""
    return await members.set_member(context, caller, username, wish)


@router.delete("/{account}/members/{username}", status_code=status.HTTP_204_NO_CONTENT)
async def remove_member(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_MEMBERS_REMOVE)],
    username: str,
) -> None:
    """Remove a member; for administrators of the account. Their clusters stay."""
    await members.remove_member(context, caller, username)
