"""Routes of invitations: to make, list and revoke them; to accept one."""

from typing import Annotated

from fastapi import APIRouter, Request, Response, status

from ropewalk.schemas.identity import (
    Invitation,
    InvitationAccept,
    InvitationCreate,
    InvitationCreated,
    Join,
    Joined,
    TokenCreated,
)
from ropewalk.server.api.deps import ContextDep, address_of, public, require
from ropewalk.server.identity import invitations, tokens
from ropewalk.server.identity.permissions import AccountCaller, Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["accounts"])


@router.get("/accounts/{account}/invitations")
async def list_invitations(
    context: ContextDep, caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INVITATIONS_READ)]
) -> list[Invitation]:
    """List the invitations that can still be used, without their links; for administrators of the account."""
    return await invitations.list_invitations(context, caller)


@router.post("/accounts/{account}/invitations", status_code=status.HTTP_201_CREATED)
async def invite(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INVITATIONS_CREATE)],
    wish: InvitationCreate,
    response: Response,
) -> InvitationCreated:
    """Invite somebody by a link, which is in this answer and nowhere else; for administrators of the account."""
    response.headers["Cache-Control"] = "no-store"
    return await invitations.invite(context, caller, wish)


@router.delete("/accounts/{account}/invitations/{invitation}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_invitation(
    context: ContextDep,
    caller: Annotated[AccountCaller, require(Permission.ACCOUNT_INVITATIONS_REVOKE)],
    invitation: str,
) -> None:
    """Make an invitation worthless; for administrators of the account."""
    await invitations.revoke(context, caller, invitation)


@router.post("/invitations/accept")
async def accept_invitation(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.SELF_INVITATIONS_ACCEPT)],
    wish: InvitationAccept,
    request: Request,
) -> Joined:
    """Join the account that an invitation is to, as who you are."""
    secret = wish.token.get_secret_value()
    return Joined(account=await invitations.accept(context, caller, secret, address=address_of(request)))


@router.post(
    "/invitations/join",
    status_code=status.HTTP_201_CREATED,
    dependencies=[public(Permission.PUBLIC_INVITATIONS_JOIN)],
)
async def join(context: ContextDep, wish: Join, request: Request, response: Response) -> TokenCreated:
    """Accept an invitation with a new user, and log in as it."""
    response.headers["Cache-Control"] = "no-store"
    user, _ = await invitations.join(context, wish, address=address_of(request))
    return await tokens.log_in(context, user, "join", context.settings.token_days)
