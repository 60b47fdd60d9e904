"""The tables. Desired and actual state stand side by side on a row; secrets only as ciphertext."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    ForeignKey,
    Index,
    LargeBinary,
    MetaData,
    TypeDecorator,
    UniqueConstraint,
    text,
)
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz234567"


def new_id(prefix: str) -> str:
    """Return a random id such as ``c-x3k9…``: 12 characters of base32, 60 bits; valid in a DNS label."""
    return f"{prefix}-" + "".join(secrets.choice(_ID_ALPHABET) for _ in range(12))


def columns_of(row: Base) -> dict[str, Any]:
    """Return what was given to a row that no session has: to write it by a statement, in its turn."""
    given = vars(row)
    return {column.key: given[column.key] for column in type(row).__mapper__.column_attrs if column.key in given}


class UtcDateTime(TypeDecorator[datetime]):
    """Times with a zone, in UTC on every database."""

    impl = DateTime(timezone=True)
    cache_ok = True

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        return None if value is None else value.astimezone(UTC)

    def process_result_value(self, value: datetime | None, dialect: Dialect) -> datetime | None:  # noqa: ARG002 - SQLAlchemy's signature
        if value is None:
            return None
        return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)


class Base(DeclarativeBase):
    # Every constraint has a name that does not depend on the database, so that migrations can change it.
    metadata = MetaData(
        naming_convention={
            "ix": "ix_%(table_name)s_%(column_0_N_name)s",
            "uq": "uq_%(table_name)s_%(column_0_N_name)s",
            "fk": "fk_%(table_name)s_%(column_0_N_name)s",
            "pk": "pk_%(table_name)s",
        }
    )
    type_annotation_map: ClassVar = {datetime: UtcDateTime, dict[str, Any]: JSON, bytes: LargeBinary}


class Leased:
    """A row that one server at a time works on: see :mod:`ropewalk.server.leases`."""

    if TYPE_CHECKING:
        id: Mapped[str]
    lease_owner: Mapped[str | None]
    lease_expires_at: Mapped[datetime | None]
    fence: Mapped[int] = mapped_column(default=0)
    """Raised by each claim: who writes with an older one is refused."""


class Retried(Leased):
    """A row on which there is work that may fail, and is tried again."""

    attempts: Mapped[int] = mapped_column(default=0)
    retry_at: Mapped[datetime | None]


class Installation(Base):
    """The one row about this installation."""

    __tablename__ = "installation"

    id: Mapped[str] = mapped_column(primary_key=True)
    created_at: Mapped[datetime]
    key_check: Mapped[bytes]
    """A known text, encrypted: tells a wrong encryption key at start."""
    setup_code_hash: Mapped[str | None]
    """Of the one-time code that makes the first operator; null once used."""


class User(Base):
    __tablename__ = "users"

    id: Mapped[str] = mapped_column(primary_key=True)
    username: Mapped[str] = mapped_column(unique=True)
    email: Mapped[str | None]
    password_hash: Mapped[str | None]
    operator: Mapped[bool] = mapped_column(default=False)
    disabled: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime]


class Account(Base):
    __tablename__ = "accounts"

    id: Mapped[str] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(unique=True)
    kind: Mapped[str]
    owner_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    """Of a personal account."""
    core_limit: Mapped[float | None]
    cloud_account_id: Mapped[str | None] = mapped_column(ForeignKey("cloud_accounts.id"))
    """Null: hosted."""
    created_at: Mapped[datetime]
    touched_at: Mapped[datetime | None]
    """Written first by every transaction that checks a limit: its row lock makes the check atomic."""


class Member(Base):
    __tablename__ = "members"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), primary_key=True, index=True)
    role: Mapped[str]
    core_limit: Mapped[float | None]
    added_at: Mapped[datetime]


class Token(Base):
    __tablename__ = "tokens"
    __table_args__ = (UniqueConstraint("user_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    hash: Mapped[str] = mapped_column(unique=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime | None]
    last_used_at: Mapped[datetime | None]


class WebSession(Base):
    __tablename__ = "web_sessions"

    hash: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    browser: Mapped[str | None]
    """``Firefox on Linux``: what a person needs to know it again, and no more of what browsers tell."""
    seen_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class Identity(Base):
    """Who a user is for a provider of single sign-on. E-mail addresses change hands, so only this tells who it is."""

    __tablename__ = "identities"

    issuer: Mapped[str] = mapped_column(primary_key=True)
    subject: Mapped[str] = mapped_column(primary_key=True)
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    created_at: Mapped[datetime]


class Invitation(Base):
    """Lets whoever has its link into an account, once. A row is there while that is so."""

    __tablename__ = "invitations"

    id: Mapped[str] = mapped_column(primary_key=True)
    hash: Mapped[str] = mapped_column(unique=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), index=True)
    role: Mapped[str]
    core_limit: Mapped[float | None]
    note: Mapped[str | None]
    """For whom it is, as the one who made it wrote it."""
    creator_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class DashboardPass(Base):
    """What lets a browser see the dashboards of one cluster: first a ticket, used once, then the cookie it becomes."""

    __tablename__ = "dashboard_passes"

    hash: Mapped[str] = mapped_column(primary_key=True)
    kind: Mapped[str]
    user_id: Mapped[str] = mapped_column(ForeignKey("users.id"), index=True)
    cluster_id: Mapped[str] = mapped_column(ForeignKey("clusters.id"), index=True)
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class LoginAttempts(Base):
    """Failed logins; rows that are old are removed by the next failure."""

    __tablename__ = "login_attempts"

    key: Mapped[str] = mapped_column(primary_key=True)
    """Hash of what is counted: people type passwords into the field for the name."""
    failures: Mapped[int]
    retry_at: Mapped[datetime]
    updated_at: Mapped[datetime] = mapped_column(index=True)


class DeviceLogin(Base):
    __tablename__ = "device_logins"

    device_hash: Mapped[str] = mapped_column(primary_key=True)
    user_code: Mapped[str] = mapped_column(unique=True)
    """Hash of the code that a person types."""
    client_name: Mapped[str]
    client_address: Mapped[str | None]
    """Shown to the person who approves: is that me?"""
    status: Mapped[str]
    polled_at: Mapped[datetime | None]
    """When the client last asked; asking too often is refused."""
    user_id: Mapped[str | None] = mapped_column(ForeignKey("users.id"))
    created_at: Mapped[datetime]
    expires_at: Mapped[datetime]


class CloudAccount(Retried, Base):
    """The operator's hosted one has no account; every other one belongs to an account."""

    __tablename__ = "cloud_accounts"

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str | None]
    kind: Mapped[str]
    backend: Mapped[str]
    settings: Mapped[dict[str, Any]]
    credentials: Mapped[bytes | None]
    """Ciphertext; see :mod:`ropewalk.server.secrets`."""
    last_check: Mapped[dict[str, Any] | None]
    infrastructure: Mapped[dict[str, Any]] = mapped_column(default=dict)
    """``resources``: what exists in the cloud, in the order in which it was made; ``monthly_cost`` of it;
    ``prepared``: whether it was complete once."""
    identity: Mapped[dict[str, Any] | None]
    """Who the credentials are, as the cloud said when they were set."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    """Changes with everything that its backend is made from, and with nothing else."""
    forgotten_at: Mapped[datetime | None]
    """The row stays, without credentials: clusters that ran there tell of it."""

    # Work on it.
    state: Mapped[str] = mapped_column(default="ready", server_default="ready")
    reason: Mapped[str | None]
    """Why it needs attention, or what is being tried again."""
    unreachable: Mapped[str | None]
    """Why its clusters cannot be looked after at present: credentials that were revoked, for example."""
    work: Mapped[str | None]
    """``prepare`` or ``teardown``: what somebody wished and is not done yet."""
    work_actor: Mapped[str | None]
    attempts: Mapped[int] = mapped_column(default=0, server_default="0")
    fence: Mapped[int] = mapped_column(default=0, server_default="0")


class Cluster(Leased, Base):
    __tablename__ = "clusters"
    __table_args__ = (
        # A name is taken only while its cluster lives.
        Index(
            "uq_clusters_live_name",
            "account_id",
            "name",
            unique=True,
            sqlite_where=text("state NOT IN ('stopped', 'failed')"),
            postgresql_where=text("state NOT IN ('stopped', 'failed')"),
        ),
        Index("ix_clusters_account_created", "account_id", "created_at"),
        Index("ix_clusters_lease", "state", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    creator_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    cloud_account_id: Mapped[str] = mapped_column(ForeignKey("cloud_accounts.id"))
    name: Mapped[str]
    spec: Mapped[dict[str, Any]]
    """ClusterSpec without ``environ``."""
    secret: Mapped[bytes]
    """Ciphertext of the certificates and of ``environ``."""
    tags: Mapped[dict[str, Any]]
    image: Mapped[str | None]
    """Of its software environment, where nodes run in containers."""
    venv: Mapped[str | None] = mapped_column(index=True)
    """Folder of its software environment, where nodes are processes: kept for as long as it lives."""

    # Desired.
    n_workers: Mapped[int]
    minimum: Mapped[int | None]
    maximum: Mapped[int | None]
    desired_changed_at: Mapped[datetime]
    """A new wish gives what failed for good another chance."""
    stop_requested_at: Mapped[datetime | None]
    stop_code: Mapped[str | None]
    stop_reason: Mapped[str | None]
    reserved_cores: Mapped[float]
    """What limits count: at the maximum number of workers."""

    # Actual.
    state: Mapped[str]
    reason: Mapped[str | None]
    scheduler_address: Mapped[str | None]
    dashboard_port: Mapped[int | None]
    versions: Mapped[dict[str, Any]] = mapped_column(default=dict)
    worker_counter: Mapped[int] = mapped_column(default=0)
    """Numbers worker names; never goes back."""
    created_at: Mapped[datetime]
    ready_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]


class Node(Base):
    __tablename__ = "nodes"

    name: Mapped[str] = mapped_column(primary_key=True)
    cluster_id: Mapped[str] = mapped_column(ForeignKey("clusters.id"), index=True)
    role: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    cloud_id: Mapped[str | None]
    address: Mapped[str | None]
    exit_code: Mapped[int | None]
    cpu: Mapped[float]
    memory: Mapped[int] = mapped_column(BigInteger)
    hourly_price: Mapped[float]
    currency: Mapped[str]
    launch_attempts: Mapped[int] = mapped_column(default=0)
    """Written before each call to the cloud: 0 means that nothing can exist."""
    permanent: Mapped[bool] = mapped_column(default=False)
    """It failed for a reason that another try would not change."""
    retry_at: Mapped[datetime | None]
    retired_at: Mapped[datetime | None]
    stop_asked_at: Mapped[datetime | None]
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    """When the cloud accepted it; cost counts from here."""
    ready_at: Mapped[datetime | None]
    stopped_at: Mapped[datetime | None]


class Event(Base):
    __tablename__ = "events"
    __table_args__ = (
        Index("ix_events_account", "account_id", "id"),
        Index("ix_events_cluster", "cluster_id", "id"),
        Index("ix_events_cloud_account", "cloud_account_id", "id"),
        Index("ix_events_build", "build_id", "id"),
    )

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    time: Mapped[datetime]
    account_id: Mapped[str | None]
    cluster_id: Mapped[str | None]
    cloud_account_id: Mapped[str | None]
    build_id: Mapped[str | None]
    """Of a software environment."""
    node: Mapped[str | None]
    actor: Mapped[str | None]
    """User name, or null for the system: events are the audit trail, too."""
    code: Mapped[str]
    level: Mapped[str]
    message: Mapped[str]
    details: Mapped[dict[str, Any]]


class Configuration(Base):
    __tablename__ = "configurations"

    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"), primary_key=True)
    name: Mapped[str] = mapped_column(primary_key=True)
    spec: Mapped[dict[str, Any]]
    updated_at: Mapped[datetime]


class Environment(Base):
    """A name that points to the newest version which could be built."""

    __tablename__ = "environments"
    __table_args__ = (
        # A name is taken only while its environment is not deleted.
        Index(
            "uq_environments_live_name",
            "account_id",
            "name",
            unique=True,
            sqlite_where=text("deleted_at IS NULL"),
            postgresql_where=text("deleted_at IS NULL"),
        ),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    creator_id: Mapped[str] = mapped_column(ForeignKey("users.id"))
    name: Mapped[str]
    private: Mapped[bool] = mapped_column(default=False)
    managed: Mapped[bool] = mapped_column(default=False)
    """Made by package sync."""
    good: Mapped[int | None]
    """Number of the newest version that was built."""
    latest: Mapped[int] = mapped_column(default=0)
    """Number of the newest version; never goes back."""
    created_at: Mapped[datetime]
    updated_at: Mapped[datetime]
    used_at: Mapped[datetime]
    """When a cluster last asked for it."""
    deleted_at: Mapped[datetime | None]
    """The row stays: events and clusters tell of it."""


class EnvironmentVersion(Base):
    """What an environment was asked to be, never changed afterwards."""

    __tablename__ = "environment_versions"
    __table_args__ = (UniqueConstraint("environment_id", "number"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    environment_id: Mapped[str] = mapped_column(ForeignKey("environments.id"))
    number: Mapped[int]
    spec: Mapped[dict[str, Any]]
    spec_hash: Mapped[str]
    state: Mapped[str]
    reason: Mapped[str | None]
    creator: Mapped[str]
    created_at: Mapped[datetime]


class EnvironmentBuild(Retried, Base):
    """A version made for one place where clusters run."""

    __tablename__ = "environment_builds"
    __table_args__ = (
        UniqueConstraint("version_id", "target", "platform"),
        Index("ix_environment_builds_hash", "account_id", "spec_hash", "target"),
        Index("ix_environment_builds_lease", "state", "lease_expires_at"),
    )

    id: Mapped[str] = mapped_column(primary_key=True)
    version_id: Mapped[str] = mapped_column(ForeignKey("environment_versions.id"))
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    cloud_account_id: Mapped[str] = mapped_column(ForeignKey("cloud_accounts.id"))
    spec_hash: Mapped[str]
    target: Mapped[str]
    platform: Mapped[str]
    fresh: Mapped[bool] = mapped_column(default=False)
    """Nothing that was resolved before is used."""
    actor: Mapped[str | None]
    """Who asked for it last."""

    state: Mapped[str]
    reason: Mapped[str | None]
    error: Mapped[dict[str, Any] | None]
    lock: Mapped[dict[str, Any] | None]
    """What it was resolved to: packages by version and hash."""
    image: Mapped[str | None]
    path: Mapped[str | None] = mapped_column(index=True)
    reused: Mapped[bool] = mapped_column(default=False)
    details: Mapped[dict[str, Any]] = mapped_column(default=dict)
    created_at: Mapped[datetime]
    started_at: Mapped[datetime | None]
    finished_at: Mapped[datetime | None]
    used_at: Mapped[datetime]


class IndexCredential(Base):
    """User name and password of a private package index."""

    __tablename__ = "index_credentials"
    __table_args__ = (UniqueConstraint("account_id", "name"),)

    id: Mapped[str] = mapped_column(primary_key=True)
    account_id: Mapped[str] = mapped_column(ForeignKey("accounts.id"))
    name: Mapped[str]
    url: Mapped[str]
    secret: Mapped[bytes]
    """Ciphertext: some indexes take the secret as user name, so both are in it."""
    updated_at: Mapped[datetime]
