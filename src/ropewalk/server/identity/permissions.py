"""Who may do what: one table, no I/O. Deny by default: what is not in the table is not allowed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from types import MappingProxyType

from ropewalk.errors import PermissionDeniedError
from ropewalk.schemas.identity import MemberRole

__all__ = ["ROLE_PERMISSIONS", "AccountCaller", "Caller", "Guard", "Permission", "Role", "Scope"]


class Scope(StrEnum):
    """What a permission is about; the first part of its name."""

    PUBLIC = "public"
    """Open to everybody who reaches the server."""
    SELF = "self"
    """The caller's own things."""
    ACCOUNT = "account"
    """Things of the account that the route names."""
    INSTALLATION = "installation"
    """Things of the whole installation."""


class Permission(StrEnum):
    """Every permission, as ``scope:resource:action``. Each route declares exactly one."""

    PUBLIC_HEALTH_READ = "public:health:read"
    PUBLIC_METRICS_READ = "public:metrics:read"
    PUBLIC_SCHEMA_READ = "public:schema:read"
    PUBLIC_SETUP_CREATE = "public:setup:create"
    PUBLIC_LOGIN_CREATE = "public:login:create"
    PUBLIC_DEVICES_CREATE = "public:devices:create"
    PUBLIC_DEVICES_CLAIM = "public:devices:claim"
    PUBLIC_PAGES_READ = "public:pages:read"
    PUBLIC_INVITATIONS_JOIN = "public:invitations:join"

    SELF_PROFILE_READ = "self:profile:read"
    SELF_PROFILE_UPDATE = "self:profile:update"
    SELF_TOKENS_READ = "self:tokens:read"
    SELF_TOKENS_CREATE = "self:tokens:create"
    SELF_TOKENS_REVOKE = "self:tokens:revoke"
    SELF_ACCOUNTS_READ = "self:accounts:read"
    SELF_CLUSTERS_READ = "self:clusters:read"
    SELF_DEVICES_APPROVE = "self:devices:approve"
    SELF_SESSION_END = "self:session:end"
    SELF_INVITATIONS_ACCEPT = "self:invitations:accept"

    ACCOUNT_DETAILS_READ = "account:details:read"
    ACCOUNT_LIMITS_SET = "account:limits:set"
    ACCOUNT_MEMBERS_READ = "account:members:read"
    ACCOUNT_MEMBERS_SET = "account:members:set"
    ACCOUNT_MEMBERS_REMOVE = "account:members:remove"
    ACCOUNT_INVITATIONS_READ = "account:invitations:read"
    ACCOUNT_INVITATIONS_CREATE = "account:invitations:create"
    ACCOUNT_INVITATIONS_REVOKE = "account:invitations:revoke"
    ACCOUNT_CLOUD_READ = "account:cloud:read"
    ACCOUNT_CLOUD_CHECK = "account:cloud:check"
    ACCOUNT_CLOUD_SET = "account:cloud:set"
    ACCOUNT_CLOUD_FORGET = "account:cloud:forget"
    ACCOUNT_CLOUD_PREPARE = "account:cloud:prepare"
    ACCOUNT_CLOUD_TEARDOWN = "account:cloud:teardown"
    ACCOUNT_CONFIGURATIONS_READ = "account:configurations:read"
    ACCOUNT_CONFIGURATIONS_SET = "account:configurations:set"
    ACCOUNT_CONFIGURATIONS_DELETE = "account:configurations:delete"
    ACCOUNT_CLUSTERS_READ = "account:clusters:read"
    ACCOUNT_CLUSTERS_CREATE = "account:clusters:create"
    ACCOUNT_CLUSTERS_CONNECT = "account:clusters:connect"
    ACCOUNT_CLUSTERS_DASHBOARD = "account:clusters:dashboard"
    ACCOUNT_CLUSTERS_SCALE = "account:clusters:scale"
    ACCOUNT_CLUSTERS_SCALE_ANY = "account:clusters:scale_any"
    ACCOUNT_CLUSTERS_UPDATE = "account:clusters:update"
    ACCOUNT_CLUSTERS_UPDATE_ANY = "account:clusters:update_any"
    ACCOUNT_CLUSTERS_STOP = "account:clusters:stop"
    ACCOUNT_CLUSTERS_STOP_ANY = "account:clusters:stop_any"
    ACCOUNT_IMAGES_READ = "account:images:read"
    ACCOUNT_IMAGES_PUSH = "account:images:push"
    ACCOUNT_IMAGES_DELETE = "account:images:delete"
    ACCOUNT_ENVIRONMENTS_READ = "account:environments:read"
    ACCOUNT_ENVIRONMENTS_CREATE = "account:environments:create"
    ACCOUNT_ENVIRONMENTS_UPDATE_ANY = "account:environments:update_any"
    ACCOUNT_ENVIRONMENTS_DELETE = "account:environments:delete"
    ACCOUNT_ENVIRONMENTS_DELETE_ANY = "account:environments:delete_any"
    ACCOUNT_INDEXES_READ = "account:indexes:read"
    ACCOUNT_INDEXES_SET = "account:indexes:set"
    ACCOUNT_INDEXES_DELETE = "account:indexes:delete"
    ACCOUNT_LOGS_READ = "account:logs:read"
    ACCOUNT_COSTS_READ = "account:costs:read"

    INSTALLATION_USERS_READ = "installation:users:read"
    INSTALLATION_USERS_CREATE = "installation:users:create"
    INSTALLATION_USERS_UPDATE = "installation:users:update"
    INSTALLATION_ACCOUNTS_READ = "installation:accounts:read"
    INSTALLATION_ACCOUNTS_CREATE = "installation:accounts:create"
    INSTALLATION_CLUSTERS_READ = "installation:clusters:read"
    INSTALLATION_HOSTED_READ = "installation:hosted:read"
    INSTALLATION_HOSTED_UPDATE = "installation:hosted:update"
    INSTALLATION_AUDIT_READ = "installation:audit:read"
    INSTALLATION_DIAGNOSTICS_READ = "installation:diagnostics:read"

    @property
    def scope(self) -> Scope:
        """What it is about."""
        return Scope(self.value.partition(":")[0])


class Role(StrEnum):
    """What a caller is, with regard to what the request is about."""

    ANONYMOUS = "anonymous"
    USER = "user"
    MEMBER = "member"
    ADMIN = "admin"
    OPERATOR = "operator"


def _of(scope: Scope) -> frozenset[Permission]:
    return frozenset(permission for permission in Permission if permission.scope is scope)


_ADMIN_ONLY = frozenset(
    {
        Permission.ACCOUNT_MEMBERS_SET,
        Permission.ACCOUNT_MEMBERS_REMOVE,
        Permission.ACCOUNT_INVITATIONS_READ,
        Permission.ACCOUNT_INVITATIONS_CREATE,
        Permission.ACCOUNT_INVITATIONS_REVOKE,
        Permission.ACCOUNT_CLOUD_SET,
        Permission.ACCOUNT_CLOUD_FORGET,
        Permission.ACCOUNT_CLOUD_PREPARE,
        Permission.ACCOUNT_CLOUD_TEARDOWN,
        Permission.ACCOUNT_IMAGES_DELETE,
        Permission.ACCOUNT_ENVIRONMENTS_UPDATE_ANY,
        Permission.ACCOUNT_ENVIRONMENTS_DELETE_ANY,
        Permission.ACCOUNT_INDEXES_DELETE,
        Permission.ACCOUNT_CLUSTERS_SCALE_ANY,
        Permission.ACCOUNT_CLUSTERS_UPDATE_ANY,
        Permission.ACCOUNT_CLUSTERS_STOP_ANY,
    }
)

_ANONYMOUS = _of(Scope.PUBLIC)
_USER = _ANONYMOUS | _of(Scope.SELF)
_OPERATOR_ONLY = frozenset({Permission.ACCOUNT_LIMITS_SET})
_ADMIN = (_USER | _of(Scope.ACCOUNT)) - _OPERATOR_ONLY

ROLE_PERMISSIONS: Mapping[Role, frozenset[Permission]] = MappingProxyType(
    {
        Role.ANONYMOUS: _ANONYMOUS,
        Role.USER: _USER,
        Role.MEMBER: _ADMIN - _ADMIN_ONLY,
        Role.ADMIN: _ADMIN,
        Role.OPERATOR: frozenset(Permission),
    }
)


@dataclass(frozen=True)
class Guard:
    """What stands before a route and lets a request through or not: declares the route's one permission."""

    permission: Permission


@dataclass(frozen=True, slots=True)
class Caller:
    """Who sent a request."""

    user_id: str
    username: str
    operator: bool
    token_id: str | None = None
    """Null: by a session of a browser."""

    @property
    def standing(self) -> Role:
        """The role that counts for what this request is about."""
        return Role.OPERATOR if self.operator else Role.USER

    def may(self, permission: Permission) -> bool:
        """Return whether the caller has *permission*."""
        return permission in ROLE_PERMISSIONS[self.standing]

    def demand(self, permission: Permission, message: str | None = None, *, advice: str | None = None) -> None:
        """Raise PermissionDeniedError unless the caller has *permission*.

        Args:
            permission: What is needed.
            message: What was refused and why; null: a sentence that names the permission.
            advice: Whom to ask; null: the administrators or the operator, by the permission's scope.
        """
        if self.may(permission):
            return
        who = "an administrator of the account" if permission in ROLE_PERMISSIONS[Role.ADMIN] else "an operator"
        raise PermissionDeniedError(
            message or f"This needs the permission {permission}, which {self.username!r} does not have here.",
            advice=advice or f"Ask {who} to do it, or to change your role.",
            details={"permission": str(permission)},
        )


@dataclass(frozen=True, slots=True)
class AccountCaller(Caller):
    """Who sent a request about an account, which they may see."""

    account_id: str = ""
    account: str = ""
    """The account's slug."""
    role: MemberRole | None = None
    """Null: an operator who is no member."""

    @property
    def standing(self) -> Role:
        if self.operator:
            return Role.OPERATOR
        return Role.USER if self.role is None else Role(self.role)

    def demand_own_or(self, permission: Permission, creator_id: str, what: str) -> None:
        """Raise PermissionDeniedError if *what* is somebody else's and the caller lacks *permission*.

        Args:
            permission: What is needed for other people's, for example ``ACCOUNT_CLUSTERS_STOP_ANY``.
            creator_id: The user who made it.
            what: For the message, for example ``"the cluster 'etl'"``.
        """
        if creator_id != self.user_id:
            self.demand(
                permission,
                f"You did not create {what}, and members may change only what they created.",
                advice="Ask its creator or an administrator of the account.",
            )
