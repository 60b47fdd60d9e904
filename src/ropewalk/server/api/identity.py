"""Routes of logins, tokens and users."""

from typing import Annotated

from fastapi import APIRouter, Path, Request, Response, status

from ropewalk._version import __version__
from ropewalk.schemas.identity import (
    DeviceCode,
    DeviceStart,
    DeviceToken,
    DeviceTokenRequest,
    Me,
    PasswordLogin,
    SetupRequest,
    Token,
    TokenCreate,
    TokenCreated,
    User,
    UserCreate,
    UserUpdate,
)
from ropewalk.server.api.deps import ContextDep, address_of, public, require
from ropewalk.server.identity import accounts, devices, setup, tokens, users
from ropewalk.server.identity.permissions import Caller, Permission

router = APIRouter(prefix="/api/v1", tags=["identity"])


def _not_kept(response: Response) -> None:
    """Tell browsers and proxies not to keep a response that holds a token."""
    response.headers["Cache-Control"] = "no-store"


@router.post(
    "/setup",
    status_code=status.HTTP_201_CREATED,
    dependencies=[public(Permission.PUBLIC_SETUP_CREATE)],
)
async def set_up(context: ContextDep, wish: SetupRequest, request: Request, response: Response) -> TokenCreated:
    """Create the first operator of a new server, with the code from its data directory."""
    _not_kept(response)
    return await setup.create_first_operator(context, wish, address=address_of(request))


@router.post("/login", dependencies=[public(Permission.PUBLIC_LOGIN_CREATE)])
async def log_in(context: ContextDep, wish: PasswordLogin, request: Request, response: Response) -> TokenCreated:
    """Trade a password for a token."""
    _not_kept(response)
    password = wish.password.get_secret_value()
    user = await users.check_password(context, wish.username, password, address=address_of(request))
    given = "expires_in_days" in wish.model_fields_set
    days = wish.expires_in_days if given else context.settings.token_days
    return await tokens.log_in(context, user, wish.token_name, days)


@router.post("/device", dependencies=[public(Permission.PUBLIC_DEVICES_CREATE)])
async def start_device_login(
    context: ContextDep, wish: DeviceStart, request: Request, response: Response
) -> DeviceCode:
    """Begin a login that a browser approves (RFC 8628)."""
    _not_kept(response)
    return await devices.start(context, wish, address=address_of(request))


@router.post("/device/token", dependencies=[public(Permission.PUBLIC_DEVICES_CLAIM)])
async def claim_device_token(context: ContextDep, wish: DeviceTokenRequest, response: Response) -> DeviceToken:
    """Ask whether the login was approved, and get its token, once. Asking too often is answered with 429."""
    _not_kept(response)
    return await devices.claim(context, wish.device_code)


@router.get("/me")
async def me(context: ContextDep, caller: Annotated[Caller, require(Permission.SELF_PROFILE_READ)]) -> Me:
    """Tell who you are and which accounts are yours."""
    return Me(
        user=await users.get_user(context, caller, caller.username),
        accounts=await accounts.list_accounts(context, caller),
        default_account=caller.username,
        server_version=__version__,
    )


@router.get("/tokens")
async def list_tokens(
    context: ContextDep, caller: Annotated[Caller, require(Permission.SELF_TOKENS_READ)]
) -> list[Token]:
    """List your tokens, without their secrets."""
    return await tokens.list_tokens(context, caller)


@router.post("/tokens", status_code=status.HTTP_201_CREATED)
async def create_token(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.SELF_TOKENS_CREATE)],
    wish: TokenCreate,
    response: Response,
) -> TokenCreated:
    """Create a token. Its secret is in this answer and nowhere else."""
    _not_kept(response)
    return await tokens.create_token(context, caller, wish)


@router.delete("/tokens/{token:path}", status_code=status.HTTP_204_NO_CONTENT)
async def revoke_token(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.SELF_TOKENS_REVOKE)],
    token: Annotated[str, Path(description="Its id or name.")],
) -> None:
    """Revoke one of your tokens; it stops working at once."""
    await tokens.revoke_token(context, caller, token)


@router.get("/users")
async def list_users(
    context: ContextDep, _caller: Annotated[Caller, require(Permission.INSTALLATION_USERS_READ)]
) -> list[User]:
    """List all users; for operators."""
    return await users.list_users(context)


@router.post("/users", status_code=status.HTTP_201_CREATED)
async def create_user(
    context: ContextDep, caller: Annotated[Caller, require(Permission.INSTALLATION_USERS_CREATE)], wish: UserCreate
) -> User:
    """Create a user and their personal account; for operators."""
    return await users.create_user(context, caller, wish)


@router.get("/users/{username}")
async def get_user(
    context: ContextDep, caller: Annotated[Caller, require(Permission.SELF_PROFILE_READ)], username: str
) -> User:
    """Show yourself, or, to operators, anybody."""
    return await users.get_user(context, caller, username)


@router.patch("/users/{username}")
async def update_user(
    context: ContextDep,
    caller: Annotated[Caller, require(Permission.SELF_PROFILE_UPDATE)],
    username: str,
    wish: UserUpdate,
    request: Request,
) -> User:
    """Change your own e-mail address or password, or, as an operator, anybody.

    A new password ends sessions in browsers and leaves tokens; disabling a user revokes both at once.
    """
    return await users.update_user(context, caller, username, wish, address=address_of(request))
