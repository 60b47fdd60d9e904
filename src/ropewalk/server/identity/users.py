"""People: made by an operator, each with a personal account; their passwords; the operators themselves."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import SecretStr
from sqlalchemy import delete, select, update
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import AuthenticationError, ConflictError, InputError, NotFoundError
from ropewalk.schemas.common import SLUG
from ropewalk.schemas.identity import AccountKind, MemberRole, UserCreate, UserUpdate
from ropewalk.schemas.identity import User as UserSchema
from ropewalk.server.db.models import Account, DashboardPass, DeviceLogin, Member, Token, User, WebSession, new_id
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity import throttle
from ropewalk.server.identity.passwords import hash_password, verify_password
from ropewalk.server.identity.permissions import Permission

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import Caller

__all__ = [
    "add_user",
    "check_password",
    "create_user",
    "get_user",
    "list_users",
    "reset_password",
    "set_operator",
    "shown",
    "update_user",
]


def shown(user: User) -> UserSchema:
    """Return *user* as the API shows it."""
    return UserSchema(
        username=user.username,
        email=user.email,
        operator=user.operator,
        disabled=user.disabled,
        created_at=user.created_at,
    )


async def create_user(context: Context, caller: Caller, request: UserCreate) -> UserSchema:
    """Make a user and their personal account."""
    hashed = await hash_password(request.password.get_secret_value())
    async with context.db.transaction() as session:
        user = await add_user(
            context,
            session,
            request.username,
            hashed,
            email=request.email,
            operator=request.operator,
            by=caller.username,
        )
    return shown(user)


async def add_user(
    context: Context,
    session: AsyncSession,
    username: str,
    password_hash: str | None,
    *,
    email: str | None,
    operator: bool,
    by: str,
) -> User:
    """Add a user with a personal account of the same name to the transaction; without a hash, they have no password.

    Raises:
        ConflictError: The name is taken by a user or by an account.
    """
    now = context.clock.now()
    await _refuse_taken(session, username)
    user = User(
        id=new_id("u"),
        username=username,
        email=email,
        password_hash=password_hash,
        operator=operator,
        disabled=False,
        created_at=now,
    )
    account = Account(
        id=new_id("a"), slug=username, kind=AccountKind.PERSONAL, owner_id=user.id, core_limit=None, created_at=now
    )
    try:
        session.add(user)
        await session.flush()
        session.add(account)
        await session.flush()
    except IntegrityError:
        raise _taken(username, "was just taken") from None
    session.add(Member(account_id=account.id, user_id=user.id, role=MemberRole.ADMIN, core_limit=None, added_at=now))
    what = "operator" if operator else "user"
    record(
        session,
        now,
        EventCode.USER_CREATED,
        f"The {what} {username!r} was created, with a personal account.",
        account_id=account.id,
        actor=by,
        details={"username": username, "operator": operator},
    )
    return user


async def _refuse_taken(session: AsyncSession, username: str) -> None:
    if await session.scalar(select(User.id).where(User.username == username)) is not None:
        raise _taken(username, "is the name of another user")
    if await session.scalar(select(Account.id).where(Account.slug == username)) is not None:
        raise _taken(
            username, "is the name of a team account, and every user gets a personal account of their own name"
        )


def _taken(username: str, why: str) -> ConflictError:
    return ConflictError(f"{username!r} {why}.", advice="Choose another user name.", field="username")


async def list_users(context: Context) -> list[UserSchema]:
    """Return all users by name."""
    async with context.db.read() as session:
        return [shown(user) for user in await session.scalars(select(User).order_by(User.username))]


async def get_user(context: Context, caller: Caller, username: str) -> UserSchema:
    """Return a user; other people only to operators."""
    async with context.db.read() as session:
        return shown(await _visible(session, caller, username))


async def update_user(
    context: Context, caller: Caller, username: str, request: UserUpdate, *, address: str | None
) -> UserSchema:
    """Change a user: yourself (email, password), or as an operator anybody.

    A new password ends the user's sessions in browsers; disabling takes sessions and tokens at once.
    """
    async with context.db.read() as session:
        target = await _visible(session, caller, username)
    given = request.model_fields_set
    if given & {"operator", "disabled"}:
        caller.demand(
            Permission.INSTALLATION_USERS_UPDATE,
            "Only an operator may make operators, or disable users.",
            advice="Ask an operator.",
        )
    hashed = None
    if request.password is not None:
        if target.id == caller.user_id:
            await _confirm(context, target, request.current_password, address)
        hashed = await hash_password(request.password.get_secret_value())
    async with context.db.transaction() as session:
        user = await session.get_one(User, target.id, with_for_update=True)
        changes = await _apply(session, user, request, hashed)
        if changes:
            record(
                session,
                context.clock.now(),
                EventCode.USER_UPDATED,
                f"The user {user.username!r} was changed: {', '.join(changes)}.",
                actor=caller.username,
                details={"username": user.username, "changes": changes},
            )
    return shown(user)


async def reset_password(context: Context, username: str, password: SecretStr) -> UserSchema:
    """Set a password that nobody knows any more: for people who can read the server's data directory anyway.

    Raises:
        NotFoundError: There is no such user; names those who could let others in.
    """
    hashed = await hash_password(password.get_secret_value())
    async with context.db.transaction() as session:
        user = await session.scalar(select(User).where(User.username == username).with_for_update())
        if user is None:
            operators = await session.scalars(select(User.username).where(User.operator).order_by(User.username))
            raise NotFoundError(
                f"There is no user {username[:60]!r}.",
                advice=f"Operators: {', '.join(operators) or 'none yet; make one with: ropewalk server setup'}.",
                field="username",
            )
        await _apply(session, user, UserUpdate(password=password), hashed)
        record(
            session,
            context.clock.now(),
            EventCode.USER_UPDATED,
            f"The password of {user.username!r} was reset on the server's machine.",
            level="warning",
            details={"username": user.username, "changes": ["password"]},
        )
    return shown(user)


async def set_operator(context: Context, session: AsyncSession, user: User, *, operator: bool, by: str) -> None:
    """Make *user* an operator, or one no more, in the transaction of *session*.

    Raises:
        ConflictError: They are the last one.
    """
    changes = await _apply(session, user, UserUpdate(operator=operator), None)
    if changes:
        what = f"The user {user.username!r} was changed: {', '.join(changes)}."
        details = {"username": user.username, "changes": changes}
        record(session, context.clock.now(), EventCode.USER_UPDATED, what, actor=by, details=details)


async def _apply(session: AsyncSession, user: User, request: UserUpdate, hashed: str | None) -> list[str]:
    """Change *user* and return what changed, as words of a sentence."""
    changes = []
    if "email" in request.model_fields_set and request.email != user.email:
        user.email = request.email
        changes.append("email")
    if hashed is not None:
        user.password_hash = hashed
        for table in (WebSession, DashboardPass):
            await session.execute(delete(table).where(table.user_id == user.id))
        changes.append("password")
    if request.operator is not None and request.operator != user.operator:
        if not request.operator:
            await _refuse_last_operator(session, user)
        user.operator = request.operator
        changes.append("made an operator" if request.operator else "no longer an operator")
    if request.disabled is not None and request.disabled != user.disabled:
        if request.disabled:
            await _refuse_last_operator(session, user)
            await _revoke_all(session, user)
        user.disabled = request.disabled
        changes.append("disabled" if request.disabled else "enabled")
    return changes


async def _refuse_last_operator(session: AsyncSession, user: User) -> None:
    """Raise ConflictError if *user* is the only operator; locks all of them, so that two cannot go at the same time."""
    query = select(User.id).where(User.operator, ~User.disabled).order_by(User.id).with_for_update()
    operators = list(await session.scalars(query))
    if operators == [user.id]:
        raise ConflictError(
            f"{user.username!r} is the last operator, and without one nobody could administer this installation.",
            advice="Make somebody else an operator first.",
        )


async def _revoke_all(session: AsyncSession, user: User) -> None:
    for table in (Token, WebSession, DeviceLogin, DashboardPass):
        await session.execute(delete(table).where(table.user_id == user.id))


async def _visible(session: AsyncSession, caller: Caller, username: str) -> User:
    allowed = username == caller.username or caller.may(Permission.INSTALLATION_USERS_READ)
    if allowed and SLUG.fullmatch(username):
        user = await session.scalar(select(User).where(User.username == username))
        if user is not None:
            return user
    raise NotFoundError(f"There is no user {username[:60]!r}, or you may not see them.", field="username")


async def _confirm(context: Context, user: User, current: SecretStr | None, address: str | None) -> None:
    if current is None:
        raise InputError(
            "Your current password is needed to change your password.",
            advice="Send it as current_password.",
            field="current_password",
        )
    try:
        await check_password(context, user.username, current.get_secret_value(), address=address)
    except AuthenticationError:
        raise InputError("The current password is wrong.", field="current_password") from None


async def check_password(context: Context, username: str, password: str, *, address: str | None) -> User:
    """Return the user whose name and password these are.

    Args:
        context: The server.
        username: As entered.
        password: As entered.
        address: Where the request came from.

    Raises:
        AuthenticationError: One of both is wrong, or the user is disabled; neither words nor time tell which.
        RateLimitedError: Too many failures.
    """
    counters = throttle.by_user(username, address), throttle.by_address(address)
    await throttle.failed_before(context, *counters)
    user = await _find(context, username)
    right, rehashed = await verify_password(password, user.password_hash if user else None)
    if user is None or not right or user.disabled:
        await _note_failure(context, user, address)
        raise AuthenticationError(
            "The user name or the password is wrong.", advice="Check both; an operator can set a new password."
        )
    async with context.db.transaction() as session:
        await throttle.forget(session, *counters)
        if rehashed is not None:
            same = (User.id == user.id, User.password_hash == user.password_hash)
            await session.execute(update(User).where(*same).values(password_hash=rehashed))
    return user


async def _find(context: Context, username: str) -> User | None:
    if not SLUG.fullmatch(username):
        return None
    async with context.db.read() as session:
        return await session.scalar(select(User).where(User.username == username))


async def _note_failure(context: Context, user: User | None, address: str | None) -> None:
    """Write a failed login into the audit trail.

    An unknown name is left out: it may be a password in the wrong field. It is the same work as for a known one, so
    that time does not tell them apart.
    """
    details = {"address": address} if user is None else {"address": address, "username": user.username}
    who = "with an unknown name" if user is None else f"as {user.username!r}"
    async with context.db.transaction() as session:
        record(
            session,
            context.clock.now(),
            EventCode.USER_LOGIN_FAILED,
            f"A login {who} failed.",
            level="warning",
            details=details,
        )
