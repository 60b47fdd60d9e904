"""Users, accounts, members, tokens and login."""

from __future__ import annotations

from datetime import datetime
from enum import StrEnum
from typing import Annotated

from pydantic import Field, SecretStr

from ropewalk.schemas.common import Line, Schema, Slug

Password = Annotated[SecretStr, Field(min_length=10, max_length=1024)]
"""At least 10 characters (NIST SP 800-63B asks for 8 or more); at most 1024, since hashing costs time."""

Cores = Annotated[int, Field(ge=0, le=1_000_000)]


class AccountKind(StrEnum):
    PERSONAL = "personal"
    TEAM = "team"


class MemberRole(StrEnum):
    MEMBER = "member"
    ADMIN = "admin"


class SetupRequest(Schema):
    """Create the operator on a server that has none; `code` is in the file `setup-code` of the data directory."""

    code: SecretStr
    username: Slug
    password: Password
    email: Line | None = Field(None, max_length=254)


class UserCreate(Schema):
    username: Slug
    password: Password
    email: Line | None = Field(None, max_length=254)
    operator: bool = False


class UserUpdate(Schema):
    """What is left out stays as it is."""

    password: Password | None = None
    current_password: SecretStr | None = Field(None, description="Needed to change your own password.")
    email: Line | None = Field(None, max_length=254)
    operator: bool | None = None
    disabled: bool | None = None


class User(Schema):
    username: str
    email: str | None
    operator: bool
    disabled: bool
    created_at: datetime


class AccountCreate(Schema):
    """A team account; personal accounts are made together with their user."""

    slug: Slug
    core_limit: Cores | None = Field(
        None, description="Cores that all its clusters may use together; null: the default."
    )


class AccountUpdate(Schema):
    core_limit: Cores | None = None


class Account(Schema):
    slug: str
    kind: AccountKind
    role: MemberRole | None = Field(description="Yours in it; null for an operator who is no member.")
    core_limit: int | None = Field(description="Null: no limit.")
    cores_used: int
    created_at: datetime


class MemberSet(Schema):
    """Add a member, or change one."""

    role: MemberRole = MemberRole.MEMBER
    core_limit: Cores | None = Field(None, description="Null: only the account's limit counts.")


class Member(Schema):
    username: str
    role: MemberRole
    core_limit: int | None
    cores_used: int
    added_at: datetime


class InvitationCreate(Schema):
    """Invite somebody to a team account, by a link that works once."""

    role: MemberRole = MemberRole.MEMBER
    core_limit: Cores | None = Field(None, description="Null: only the account's limit counts.")
    note: Annotated[Line, Field(max_length=80)] | None = Field(
        None, description="For whom it is: seen by those who may invite."
    )
    days: Annotated[float, Field(gt=0, le=30)] = Field(7, description="Until it expires.")


class Invitation(Schema):
    id: str
    note: str | None
    role: MemberRole
    core_limit: int | None
    invited_by: str
    created_at: datetime
    expires_at: datetime


class InvitationCreated(Invitation):
    url: str = Field(description="The link to send; shown this once.")


class InvitationAccept(Schema):
    """Join an account as who you are."""

    token: SecretStr = Field(description="The last part of the invitation's link.")


class Join(Schema):
    """Accept an invitation, and make the user that joins."""

    token: SecretStr = Field(description="The last part of the invitation's link.")
    username: Slug
    password: Password


class Joined(Schema):
    account: str


class TokenCreate(Schema):
    name: Annotated[Line, Field(min_length=1, max_length=80)]
    expires_in_days: Annotated[float, Field(gt=0, le=3660)] | None = Field(
        90, description="Null: never expires. Default: 90 days."
    )


class Token(Schema):
    id: str
    name: str
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class TokenCreated(Token):
    token: str = Field(description="Shown this once.")


class Me(Schema):
    user: User
    accounts: list[Account]
    default_account: str
    server_version: str


class PasswordLogin(Schema):
    """Trade a password for a token."""

    username: str = Field(max_length=80)
    password: SecretStr
    token_name: Annotated[Line, Field(min_length=1, max_length=80)] = "login"  # noqa: S105 - a name
    expires_in_days: Annotated[float, Field(gt=0, le=3660)] | None = 90


class DeviceStart(Schema):
    """Begin a login that a browser approves (RFC 8628)."""

    client_name: Annotated[Line, Field(min_length=1, max_length=80)] = "ropewalk"


class DeviceCode(Schema):
    """RFC 8628, section 3.2."""

    device_code: str
    user_code: str
    verification_uri: str
    verification_uri_complete: str
    expires_in: int = Field(description="Seconds.")
    interval: int = Field(description="Seconds to wait between two requests for the token.")


class DeviceTokenRequest(Schema):
    device_code: str = Field(max_length=200)


class DeviceStatus(StrEnum):
    PENDING = "authorization_pending"
    DENIED = "access_denied"
    EXPIRED = "expired_token"
    APPROVED = "approved"


class DeviceToken(Schema):
    status: DeviceStatus
    token: TokenCreated | None = Field(None, description="Given once, when approved.")
    username: str | None = None
