"""Login of a terminal that a browser approves: the device authorization grant of RFC 8628.

The terminal gets a long secret (``device_code``) and shows a short one (``user_code``), which a person who is signed in
enters and approves. The token is made when the terminal fetches it: it is never stored, and handed over exactly once.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, select, update
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import NotFoundError, RateLimitedError
from ropewalk.schemas.identity import DeviceCode, DeviceStart, DeviceStatus, DeviceToken
from ropewalk.server.db.models import DeviceLogin, User
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity import throttle
from ropewalk.server.identity.access import hash_token
from ropewalk.server.identity.tokens import log_in

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.permissions import Caller

__all__ = ["PendingLogin", "claim", "decide", "find", "start"]

LIFETIME = timedelta(minutes=10)
INTERVAL = 2
"""Seconds that a client waits between two requests for the token."""
_TOLERANCE = 0.5
"""Seconds: requests that were sent in time may arrive closer together."""

_LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""RFC 8628, section 6.1: no vowels, so no words; 8 of 20 letters are 34 bits."""
_CODE_LENGTH = 8
MAX_PENDING = 1000
"""Logins that wait at the same time: starting one needs no password, and must not fill the database."""
MAX_PENDING_PER_ADDRESS = 50


class _Status(StrEnum):
    PENDING = "pending"
    APPROVED = "approved"
    DENIED = "denied"
    CLAIMED = "claimed"


@dataclass(frozen=True, slots=True)
class PendingLogin:
    """What a person is asked to approve."""

    user_code: str
    client_name: str
    client_address: str | None
    created_at: datetime


def normal_code(entered: str) -> str:
    """Return a code as it was shown, however it was typed: lower case, with or without a hyphen."""
    letters = "".join(c for c in entered.upper() if c in _LETTERS)
    return f"{letters[:4]}-{letters[4:]}"


async def start(context: Context, request: DeviceStart, *, address: str | None) -> DeviceCode:
    """Begin a login."""
    now = context.clock.now()
    device_code = "rwd_" + secrets.token_urlsafe(32)
    letters = "".join(secrets.choice(_LETTERS) for _ in range(_CODE_LENGTH))
    user_code = normal_code(letters)
    row = DeviceLogin(
        device_hash=hash_token(device_code),
        user_code=hash_token(user_code),
        client_name=request.client_name,
        client_address=address,
        status=_Status.PENDING,
        created_at=now,
        expires_at=now + LIFETIME,
    )
    async with context.db.transaction() as session:
        await session.execute(delete(DeviceLogin).where(DeviceLogin.expires_at <= now))
        await _refuse_too_many(session, address)
        session.add(row)
        try:
            await session.flush()
        except IntegrityError:  # the same 8 letters as a login that waits: once in millions of years, and told
            raise RateLimitedError("The login could not be started.", advice="Try again.") from None
    page = f"{context.settings.public_url}/device"
    return DeviceCode(
        device_code=device_code,
        user_code=user_code,
        verification_uri=page,
        verification_uri_complete=f"{page}?user_code={user_code}",
        expires_in=int(LIFETIME.total_seconds()),
        interval=INTERVAL,
    )


async def find(context: Context, caller: Caller, user_code: str, *, address: str | None) -> PendingLogin:
    """Return the login that waits for approval by this code.

    Raises:
        NotFoundError: None does.
        RateLimitedError: The caller guesses.
    """
    counter = throttle.by_user(caller.username, address, purpose="user code", free=10)
    await throttle.failed_before(context, counter)
    code = normal_code(user_code)
    async with context.db.transaction() as session:
        row = await _waiting(session, code, context.clock.now())
        if row is None:
            raise _no_login()
        await throttle.forget(session, counter)
    return PendingLogin(code, row.client_name, row.client_address, row.created_at)


async def decide(context: Context, caller: Caller, user_code: str, *, approve: bool) -> PendingLogin:
    """Approve or deny a login in the caller's name; a decision is final."""
    now = context.clock.now()
    code = normal_code(user_code)
    async with context.db.transaction() as session:
        row = await _waiting(session, code, now)
        user = await session.get_one(User, caller.user_id)
        if row is None or user.disabled:
            raise _no_login()
        row.status = _Status.APPROVED if approve else _Status.DENIED
        row.user_id = caller.user_id
        if approve:
            record(
                session,
                now,
                EventCode.DEVICE_APPROVED,
                f"{caller.username!r} approved the login of {row.client_name!r} from {row.client_address}.",
                actor=caller.username,
                details={"client_name": row.client_name, "client_address": row.client_address},
            )
    return PendingLogin(code, row.client_name, row.client_address, row.created_at)


async def claim(context: Context, device_code: str) -> DeviceToken:
    """Answer a client that asks whether it was approved; gives the token once.

    Raises:
        RateLimitedError: It asks too often (``slow_down`` in RFC 8628).
    """
    now = context.clock.now()
    async with context.db.transaction() as session:
        query = select(DeviceLogin).where(DeviceLogin.device_hash == hash_token(device_code)).with_for_update()
        row = await session.scalar(query)
        if row is None or row.expires_at <= now or row.status == _Status.CLAIMED:
            return DeviceToken(status=DeviceStatus.EXPIRED)
        if row.status == _Status.DENIED:
            return DeviceToken(status=DeviceStatus.DENIED)
        if row.status == _Status.APPROVED:
            return await _hand_over(context, session, row)
        _refuse_too_soon(row, now)
        row.polled_at = now
    return DeviceToken(status=DeviceStatus.PENDING)


async def _hand_over(context: Context, session: AsyncSession, row: DeviceLogin) -> DeviceToken:
    # The row is locked; the condition keeps "exactly once" true even where locks are not.
    claimed = (
        update(DeviceLogin)
        .where(DeviceLogin.device_hash == row.device_hash, DeviceLogin.status == _Status.APPROVED)
        .values(status=_Status.CLAIMED)
        .returning(DeviceLogin.user_id)
    )
    user_id = (await session.execute(claimed)).scalar_one_or_none()
    user = None if user_id is None else await session.get(User, user_id)
    if user is None or user.disabled:
        return DeviceToken(status=DeviceStatus.DENIED)
    token = await log_in(context, user, row.client_name, context.settings.token_days, session=session)
    return DeviceToken(status=DeviceStatus.APPROVED, token=token, username=user.username)


def _refuse_too_soon(row: DeviceLogin, now: datetime) -> None:
    if row.polled_at is not None and (now - row.polled_at).total_seconds() < INTERVAL - _TOLERANCE:
        raise RateLimitedError(
            "This client asks for its token too often (slow_down).",
            advice=f"Wait {INTERVAL} seconds between two requests.",
            details={"retry_after": INTERVAL, "error": "slow_down"},
        )


async def _refuse_too_many(session: AsyncSession, address: str | None) -> None:
    pending = DeviceLogin.status == _Status.PENDING
    everywhere = await session.scalar(select(func.count()).select_from(DeviceLogin).where(pending)) or 0
    query = select(func.count()).select_from(DeviceLogin).where(pending, DeviceLogin.client_address == address)
    here = await session.scalar(query) or 0
    if everywhere >= MAX_PENDING or here >= MAX_PENDING_PER_ADDRESS:
        seconds = 60
        raise RateLimitedError(
            "Too many logins wait for approval.",
            advice="Approve or deny those, wait some minutes, or log in with a password or a token.",
            details={"retry_after": seconds},
        )


async def _waiting(session: AsyncSession, code: str, now: datetime) -> DeviceLogin | None:
    """Return the login that waits for this code, locked."""
    query = select(DeviceLogin).where(
        DeviceLogin.user_code == hash_token(code), DeviceLogin.expires_at > now, DeviceLogin.status == _Status.PENDING
    )
    return await session.scalar(query.with_for_update())


def _no_login() -> NotFoundError:
    return NotFoundError(
        "No login waits for this code: it is mistyped, was used already, or is older than 10 minutes.",
        advice="Compare it with the terminal, or start again there with: ropewalk login",
        field="user_code",
    )
