"""Every exception that Ropewalk raises, in one tree.

::

    RopewalkError                   something went wrong; says what, why and what to do next
    ├── InputError                  a value is wrong; names the field
    │   └── SettingsError           a setting, flag, environment variable or configuration file is wrong
    ├── AuthenticationError         no valid token, session or password
    ├── PermissionDeniedError       known, but not allowed
    ├── NotFoundError               does not exist, or is not yours to see
    ├── ConflictError               exists already, or is in a state that forbids this
    ├── LimitExceededError          more cores than a member or account may use
    ├── RateLimitedError            too many attempts; says how long to wait
    ├── ServerUnreachableError      the client found no server at the address
    ├── InternalError               a defect of Ropewalk; carries the id to look for in the server's log
    ├── UnavailableError            the server is there, a part of it is not (database, start-up, shutdown)
    ├── ClusterError                a cluster did not do what it should
    │   ├── ClusterStartError       it never became ready: which node failed, why, the end of its log
    │   ├── ClusterGoneError        it has stopped, or is about to
    │   └── ClusterUnreachableError its scheduler could not be reached: which hop failed, and why
    ├── VersionMismatchError        packages of the client and of the cluster differ too much
    ├── SecretsError                a stored secret cannot be read with the key that is configured
    ├── DatabaseError               the database is newer than this server, or unusable
    └── BackendError                a cloud said no
        ├── FixItError              a person must change something; never tried again by itself
        └── TryAgainError           a passing fault; tried again after `delay` seconds

Each class has a stable ``code``, which HTTP clients and scripts may rely on, the HTTP status that the server answers
with, and the exit status of the command line.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

__all__ = [
    "AuthenticationError",
    "BackendError",
    "ClusterError",
    "ClusterGoneError",
    "ClusterStartError",
    "ClusterUnreachableError",
    "ConflictError",
    "DatabaseError",
    "FixItError",
    "InputError",
    "InternalError",
    "LimitExceededError",
    "NotFoundError",
    "PermissionDeniedError",
    "RateLimitedError",
    "RopewalkError",
    "SecretsError",
    "ServerUnreachableError",
    "SettingsError",
    "TryAgainError",
    "UnavailableError",
    "VersionMismatchError",
    "error_from_body",
]


class RopewalkError(Exception):
    """Root of the tree.

    Args:
        message: What happened and why, one or two sentences for a person. Never contains a secret.
        advice: What to do next: a command, a field, a permission.
        field: The input field, setting or argument that is wrong, if one is.
        details: Further facts for programs; JSON-serialisable.
    """

    code: ClassVar[str] = "error"
    http_status: ClassVar[int] = 500
    exit_code: ClassVar[int] = 1

    def __init__(
        self,
        message: str,
        *,
        advice: str | None = None,
        field: str | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.advice = advice
        self.field = field
        self.details = dict(details or {})

    def __str__(self) -> str:
        if not self.advice:
            return self.message
        apart = "\n\n" if "\n" in self.message else " "  # what follows the lines of a log is a paragraph of its own
        return f"{self.message}{apart}{self.advice}"

    def body(self) -> dict[str, Any]:
        """Return the error as the HTTP API sends it."""
        return {
            "code": self.code,
            "message": self.message,
            "advice": self.advice,
            "field": self.field,
            "details": self.details,
        }


class InputError(RopewalkError):
    code = "invalid_input"
    http_status = 422
    exit_code = 2


class SettingsError(InputError):
    code = "invalid_setting"
    http_status = 500


class AuthenticationError(RopewalkError):
    code = "not_authenticated"
    http_status = 401
    exit_code = 3


class PermissionDeniedError(RopewalkError):
    code = "permission_denied"
    http_status = 403
    exit_code = 3


class NotFoundError(RopewalkError):
    code = "not_found"
    http_status = 404
    exit_code = 4


class ConflictError(RopewalkError):
    code = "conflict"
    http_status = 409
    exit_code = 5


class LimitExceededError(RopewalkError):
    code = "limit_exceeded"
    http_status = 409
    exit_code = 5


class RateLimitedError(RopewalkError):
    code = "rate_limited"
    http_status = 429
    exit_code = 6


class ServerUnreachableError(RopewalkError):
    code = "server_unreachable"
    http_status = 503
    exit_code = 6


class InternalError(RopewalkError):
    code = "internal_error"
    http_status = 500


class UnavailableError(RopewalkError):
    code = "unavailable"
    http_status = 503
    exit_code = 6


class ClusterError(RopewalkError):
    code = "cluster_error"
    http_status = 409


class ClusterStartError(ClusterError):
    code = "cluster_start_failed"


class ClusterGoneError(ClusterError):
    code = "cluster_gone"
    http_status = 410


class ClusterUnreachableError(ClusterError):
    code = "cluster_unreachable"
    http_status = 503


class VersionMismatchError(RopewalkError):
    code = "version_mismatch"
    http_status = 409


class SecretsError(RopewalkError):
    code = "secrets_unreadable"


class DatabaseError(RopewalkError):
    code = "database_unusable"


class BackendError(RopewalkError):
    code = "backend_error"
    http_status = 502


class FixItError(BackendError):
    code = "fix_it"


class TryAgainError(BackendError):
    """A passing fault.

    Args:
        message: What happened.
        delay: Seconds to wait before the next try.
        **facts: As in :class:`RopewalkError`.
    """

    code = "try_again"
    http_status = 503

    def __init__(self, message: str, *, delay: float = 1.0, **facts: Any) -> None:
        super().__init__(message, **facts)
        self.delay = delay


def _tree(root: type[RopewalkError]) -> dict[str, type[RopewalkError]]:
    found = {root.code: root}
    for child in root.__subclasses__():
        found.update(_tree(child))
    return found


_BY_CODE = _tree(RopewalkError)


def error_from_body(body: Mapping[str, Any]) -> RopewalkError:
    """Rebuild the exception that :meth:`RopewalkError.body` described; an unknown code gives the root class."""
    cls = _BY_CODE.get(str(body.get("code")), RopewalkError)
    return cls(
        str(body.get("message") or "The server reported an error without a message."),
        advice=body.get("advice"),
        field=body.get("field"),
        details=body.get("details"),
    )
