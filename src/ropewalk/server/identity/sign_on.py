"""Single sign-on: who a person that a provider vouches for is here.

People are known by issuer and subject, and by nothing else: not by an e-mail address or a name, which a provider may
give to somebody else, and which anybody may claim at another one. Who has a user already connects it while signed in.
"""

from __future__ import annotations

import base64
import binascii
import hmac
import json
import re
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from sqlalchemy import delete, or_, select
from sqlalchemy.exc import IntegrityError

from ropewalk.errors import (
    AuthenticationError,
    ConflictError,
    NotFoundError,
    PermissionDeniedError,
    SettingsError,
)
from ropewalk.server.db.models import Account, Identity, User
from ropewalk.server.events import EventCode, record
from ropewalk.server.identity import invitations, sessions, throttle
from ropewalk.server.identity.users import add_user, set_operator
from ropewalk.server.settings import refuse_readable_by_others

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession

    from ropewalk.server.context import Context
    from ropewalk.server.identity.oidc import Claims, Provider
    from ropewalk.server.identity.permissions import Caller
    from ropewalk.server.settings import Settings

__all__ = ["CALLBACK", "Attempt", "Ways", "enter", "link", "make_provider", "provider_of", "unlink", "vouched", "ways"]

CALLBACK = "/sign-in/sso/callback"
"""Where the provider sends people back to; operators register it there."""
TRIES = 3
"""Of two browsers in which the same new person arrives at once, one tries again."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A sign-in that was begun: what goes into a cookie of the browser, and what follows from its secret.

    The provider and whoever watches the addresses see what follows, and cannot compute the secret from it; so an answer
    that somebody brought from another browser is refused.
    """

    secret: str
    wanted: str
    """Where the person goes afterwards."""
    link: str = ""
    """CSRF token of the session whose user is to be connected; empty: somebody signs in."""

    @classmethod
    def begin(cls, wanted: str, link: str = "") -> Attempt:
        """Return a new one."""
        return cls(sessions.new_secret(), wanted, link)

    @classmethod
    def of(cls, cookie: str) -> Attempt | None:
        """Return the one that a cookie holds; None: it holds none."""
        try:
            secret, wanted, link = json.loads(base64.urlsafe_b64decode(cookie))
        except (ValueError, TypeError, binascii.Error):
            return None
        return cls(str(secret), str(wanted), str(link)) if len(str(secret)) >= 32 else None

    @property
    def cookie(self) -> str:
        """What goes into the cookie."""
        return base64.urlsafe_b64encode(json.dumps([self.secret, self.wanted, self.link]).encode()).decode()

    @property
    def state(self) -> str:
        """Comes back with the browser."""
        return self._derived(b"state")

    @property
    def nonce(self) -> str:
        """Comes back in the ID token."""
        return self._derived(b"nonce")

    @property
    def verifier(self) -> str:
        """Proves that who brings the code began the sign-in (RFC 7636)."""
        return self._derived(b"verifier")

    def _derived(self, purpose: bytes) -> str:
        return hmac.digest(self.secret.encode(), b"ropewalk sso " + purpose, "sha256").hex()


@dataclass(frozen=True, slots=True)
class Ways:
    """How a user can sign in."""

    password: bool
    linked_at: datetime | None
    """Since when single sign-on works for them; None: it does not."""


def make_provider(settings: Settings) -> Provider | None:
    """Return the provider that the settings name, if they name one. Asks nothing of it.

    Raises:
        SettingsError: The file of the secret cannot be read, or others can read it.
    """
    if settings.oidc_issuer is None or settings.oidc_client_id is None:
        return None
    from ropewalk.server.identity.oidc import Client, Provider  # noqa: PLC0415 - 0.1 s that few servers need

    return Provider(
        Client(
            issuer=settings.oidc_issuer,
            id=settings.oidc_client_id,
            secret=_secret(settings),
            redirect_uri=f"{settings.public_url}{CALLBACK}",
            scopes=settings.oidc_scopes,
            name=settings.oidc_name,
        )
    )


def _secret(settings: Settings) -> str | None:
    if settings.oidc_client_secret is not None:
        return settings.oidc_client_secret.get_secret_value()
    path = settings.oidc_client_secret_file
    if path is None:
        return None
    try:
        refuse_readable_by_others(path, "oidc_client_secret_file", "the client secret")
        return path.read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as exc:
        raise SettingsError(
            f"The file of the client secret cannot be read: {getattr(exc, 'strerror', None) or 'it is no text'}.",
            advice=f"Let the server's user read {path}, and nobody else.",
            field="oidc_client_secret_file",
        ) from None


def provider_of(context: Context) -> Provider:
    """Return the provider of this installation.

    Raises:
        NotFoundError: It has none.
    """
    if context.provider is None:
        raise NotFoundError("This server has no single sign-on.", advice="Sign in with a password.")
    return context.provider


async def vouched(context: Context, attempt: Attempt | None, answer: dict[str, str], *, address: str | None) -> Claims:
    """Return whom the provider vouches for.

    Args:
        context: The server.
        attempt: That the browser's cookie holds.
        answer: What the provider sent with the browser.
        address: Where the browser is.

    Raises:
        AuthenticationError: It vouches for nobody, or the answer does not belong to this browser.
        UnavailableError: It cannot be asked.
        RateLimitedError: Somebody makes up answers, each of which costs a question to the provider.
    """
    provider = provider_of(context)
    if attempt is None or not sessions.same(answer.get("state", ""), attempt.state):
        raise AuthenticationError(
            "This sign-in was not begun in this browser, or more than 10 minutes ago.", advice="Begin again here."
        )
    if "error" in answer or "code" not in answer:
        error = re.sub(r"[^a-z_]", "", answer.get("error", ""))[:40] or "no code"
        why = "you or it said no" if error == "access_denied" else f"it answered {error}"
        raise AuthenticationError(
            f"Signing in by {provider.client.name} failed: {why}.", advice="Begin again, or ask an operator."
        )
    counter = throttle.by_address(address, purpose="sso", free=50)
    await throttle.failed_before(context, counter)
    claims = await provider.claims(
        code=answer["code"],
        iss=answer.get("iss"),
        nonce=attempt.nonce,
        verifier=attempt.verifier,
        now=context.clock.now(),
    )
    async with context.db.transaction() as session:
        await throttle.forget(session, counter)
    return claims


async def enter(context: Context, claims: Claims, invitation: str | None) -> tuple[User, str | None]:
    """Return the user that a person is, made at the first time if they may be; and the account that they joined by it.

    Args:
        context: The server.
        claims: Of the provider.
        invitation: Secret of one that they came with; it is used up if it is what lets them in.

    Raises:
        AuthenticationError: They may not come in.
    """
    _check_domain(context.settings, claims)
    for left in reversed(range(TRIES)):
        try:
            async with context.db.transaction() as session:
                user, joined = await _user(context, session, claims, invitation)
                await _follow_claim(context, session, user, claims)
                return user, joined
        except (IntegrityError, ConflictError):
            if not left:
                raise
    raise AssertionError("unreachable")


async def _user(
    context: Context, session: AsyncSession, claims: Claims, invitation: str | None
) -> tuple[User, str | None]:
    identity = await session.get(Identity, (claims["iss"], claims["sub"]))
    if identity is not None:
        user = await session.get_one(User, identity.user_id)
        if user.disabled:
            raise AuthenticationError(f"The user {user.username!r} is disabled.", advice="Ask an operator.")
        return user, None
    welcome = context.settings.oidc_create_users
    if not welcome and (invitation is None or not context.settings.invite_new_users):
        raise AuthenticationError(
            "You have no user here yet, and single sign-on alone makes none.",
            advice="Open the link of an invitation first. Who has a user with a password signs in with that, and then "
            "connects it on the profile page.",
        )
    email = claims.get("email") if claims.get("email_verified") is True else None
    name = await _free_name(session, claims)
    user = await add_user(context, session, name, None, email=email, operator=False, by=name)
    joined = None
    if not welcome and invitation is not None:
        joined = await invitations.take(context, session, user, invitation)
    await _connect(context, session, user, claims)
    return user, joined


async def _connect(context: Context, session: AsyncSession, user: User, claims: Claims) -> None:
    now = context.clock.now()
    session.add(Identity(issuer=claims["iss"], subject=claims["sub"], user_id=user.id, created_at=now))
    record(
        session,
        now,
        EventCode.IDENTITY_LINKED,
        f"{user.username!r} can sign in by {context.settings.oidc_name}.",
        actor=user.username,
        details={"username": user.username, "issuer": claims["iss"]},
    )
    await session.flush()


def _check_domain(settings: Settings, claims: Claims) -> None:
    """Refuse whoever has no verified address in one of the operator's domains, if there are any."""
    if settings.oidc_domains is None:
        return
    domains = {domain.strip().lower().removeprefix("@") for domain in settings.oidc_domains.split(",")}
    email = claims.get("email")
    if claims.get("email_verified") is not True or not isinstance(email, str):
        raise AuthenticationError(
            f"{settings.oidc_name} does not say that your e-mail address is verified, and this server asks for that.",
            advice="Verify it there; if it is, an operator should add the scope email, or unset oidc_domains.",
        )
    if email.rpartition("@")[2].lower() not in domains:
        raise AuthenticationError(
            "People with your e-mail address may not sign in here.",
            advice="Choose another account at the provider, or ask an operator (setting oidc_domains).",
        )


async def _free_name(session: AsyncSession, claims: Claims) -> str:
    """Return a user name like the person's own; with a number if somebody else, or a team, has it."""
    wishes = (claims.get("preferred_username"), claims.get("email"), claims.get("name"))
    slugs = (_slug(wish.partition("@")[0]) for wish in wishes if isinstance(wish, str))
    name = next((slug for slug in slugs if slug), "user")
    taken: set[str] = set()
    for column in (User.username, Account.slug):
        like = or_(column == name, column.startswith(f"{name}-", autoescape=True))
        taken.update(await session.scalars(select(column).where(like)))
    return next(each for each in (name, *(f"{name}-{n}" for n in range(2, len(taken) + 3))) if each not in taken)


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", text.lower())[:36].strip("-")


async def _follow_claim(context: Context, session: AsyncSession, user: User, claims: Claims) -> None:
    """Make an operator of whom the provider says so, and of nobody else, if the operator set it up that way."""
    wish = context.settings.oidc_operators
    if wish is None:
        return
    claim, _, value = (part.strip() for part in wish.partition("="))
    has = _values(claims.get(claim))
    try:
        await set_operator(context, session, user, operator=value in has, by=context.settings.oidc_name)
    except ConflictError:
        return  # the last operator stays one, or nobody could administer the installation


def _values(claim: Any) -> list[Any]:
    return claim if isinstance(claim, list) else [claim]


async def link(context: Context, caller: Caller, claims: Claims) -> None:
    """Let a user sign in as the person that the provider vouches for.

    Raises:
        ConflictError: That person is another user, or the user is another person.
    """
    async with context.db.transaction() as session:
        user = await session.get_one(User, caller.user_id, with_for_update=True)
        known = await session.get(Identity, (claims["iss"], claims["sub"]))
        if known is not None and known.user_id != user.id:
            raise ConflictError(
                f"At {context.settings.oidc_name} you are known as somebody who is another user here.",
                advice="Sign out there first, if that is not you; else disconnect that user.",
            )
        if known is None and await _identity(context, session, user.id) is not None:
            raise ConflictError(
                f"Your user is connected to somebody else at {context.settings.oidc_name}.",
                advice="Disconnect it first.",
            )
        if known is None:
            await _connect(context, session, user, claims)


async def unlink(context: Context, caller: Caller) -> None:
    """End that a user can sign in by the provider.

    Raises:
        PermissionDeniedError: They have no password, so they could not sign in any more.
    """
    issuer = provider_of(context).client.issuer
    async with context.db.transaction() as session:
        user = await session.get_one(User, caller.user_id, with_for_update=True)
        if user.password_hash is None:
            raise PermissionDeniedError(
                "You have no password, so you could not sign in any more.", advice="Ask an operator to set one first."
            )
        gone = (
            delete(Identity).where(Identity.user_id == user.id, Identity.issuer == issuer).returning(Identity.subject)
        )
        if (await session.scalars(gone)).all():
            what = f"{user.username!r} cannot sign in by {context.settings.oidc_name} any more."
            details = {"username": user.username, "issuer": issuer}
            now = context.clock.now()
            record(session, now, EventCode.IDENTITY_UNLINKED, what, actor=user.username, details=details)


async def ways(context: Context, caller: Caller) -> Ways:
    """Return how the caller can sign in."""
    async with context.db.read() as session:
        user = await session.get_one(User, caller.user_id)
        found = await _identity(context, session, user.id) if context.provider is not None else None
        return Ways(user.password_hash is not None, None if found is None else found.created_at)


async def _identity(context: Context, session: AsyncSession, user_id: str) -> Identity | None:
    issuer = context.settings.oidc_issuer
    return await session.scalar(select(Identity).where(Identity.user_id == user_id, Identity.issuer == issuer))
