"""What AWS answers, as sentences that say what to do.

:func:`judge` turns any exception of a call into a :class:`Fault`: the error to raise, and what is known about the
call's effect, which decides whether it may be repeated.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from ropewalk.backends.aws.codes import SENTENCES, THROTTLING, Sentence
from ropewalk.backends.aws.quotas import Quota, quota_of
from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.aws_permissions import breaks_without

__all__ = ["Effect", "Fault", "aws_code", "judge"]


class Effect(StrEnum):
    """What became of a failed call."""

    REFUSED = "refused"
    """AWS understood and said no: repeating changes nothing."""
    THROTTLED = "throttled"
    """AWS did not look at it: repeat later."""
    NOT_SENT = "not_sent"
    """It never reached AWS."""
    LOST = "lost"
    """It may have taken effect; nobody knows."""


@dataclass(frozen=True, slots=True)
class Fault:
    """A failed call: the error for the caller and the call's effect."""

    error: BackendError
    effect: Effect
    quota: Quota | None = None


def aws_code(error: BaseException) -> str | None:
    """Return AWS's error code, for example ``InvalidGroup.Duplicate``; None: the error is none of AWS's."""
    code = error.details.get("aws_code") if isinstance(error, BackendError) else None
    return code if isinstance(code, str) else None


def judge(exc: Exception, service: str, operation: str) -> Fault:
    """Say what an exception of a call means."""
    response = getattr(exc, "response", None)
    if isinstance(response, dict) and "Error" in response:
        fault = _answered(response, f"{service}:{operation}")
    else:
        fault = _unanswered(exc, f"{service}:{operation}")
    if type(exc).__name__ not in _MISUSED:  # those quote parameters
        fault.error.__cause__ = exc
    return fault


def _answered(response: dict[str, Any], call: str) -> Fault:
    code = str(response["Error"].get("Code") or "Unknown")
    message = str(response["Error"].get("Message") or "").strip()
    status = int(response.get("ResponseMetadata", {}).get("HTTPStatusCode") or 0)
    details: dict[str, Any] = {"aws_code": code, "aws_message": message, "call": call}
    if (last := response.get("lastValidByteReceived")) is not None:  # of ECR's InvalidLayerPartException
        details["last_byte"] = last
    if code in THROTTLING:
        return Fault(
            TryAgainError(f"AWS answers {call} with {code}: too many requests.", delay=5.0, details=details),
            Effect.THROTTLED,
        )
    if status >= 500 or code in _SERVER_FAULTS:
        text = f"AWS has a problem of its own with {call} ({code}): {message or 'no explanation'}"
        return Fault(TryAgainError(text, delay=5.0, details=details), Effect.LOST)
    if code in _DENIED:
        return Fault(_denied(message, call, details), Effect.REFUSED)
    if sentence := _sentence(code, message):
        return Fault(_from_sentence(sentence, message, call, details), Effect.REFUSED)
    if quota := quota_of(call.split(":", maxsplit=1)[0], code, message):
        return Fault(quota.error(message, details), Effect.REFUSED, quota)
    why = f": {message}" if message else " without saying why."
    return Fault(FixItError(f"AWS refused {call} ({code}){why}", details=details), Effect.REFUSED)


_SERVER_FAULTS = frozenset({
    "InternalError", "InternalFailure", "InternalServerError", "InternalServiceError", "ServerException",
    "ServiceException", "ServiceFailure", "ServiceFailureException", "ServiceUnavailable",
    "ServiceUnavailableException", "Unavailable",
})  # fmt: skip
_DENIED = frozenset({
    "AccessDenied", "AccessDeniedException", "AuthorizationError", "Client.UnauthorizedOperation",
    "UnauthorizedOperation",
})  # fmt: skip


def _sentence(code: str, message: str) -> Sentence | None:
    if code in {"InvalidSignatureException", "SignatureDoesNotMatch"} and "expired" in message.lower():
        code = "RequestExpired"  # the clock, not the secret
    return SENTENCES.get(code)


def _from_sentence(sentence: Sentence, message: str, call: str, details: dict[str, Any]) -> BackendError:
    if sentence.credentials:
        details["credentials"] = "invalid"
    text = sentence.message.format(call=call, message=message or sentence.message)
    if sentence.delay is not None:
        return TryAgainError(text, delay=sentence.delay, advice=sentence.advice, field=sentence.field, details=details)
    return FixItError(text, advice=sentence.advice, field=sentence.field, details=details)


_ACTION = re.compile(r"not authorized to perform:? ([a-zA-Z0-9-]+:[A-Za-z*]+)")
_RESOURCE = re.compile(r"on resource:? (\S+)")
_IAM_NAMES = {"service-quotas": "servicequotas"}


def _denied(message: str, call: str, details: dict[str, Any]) -> FixItError:
    service, operation = call.split(":", maxsplit=1)
    named = _ACTION.search(message)
    action = named[1] if named else f"{_IAM_NAMES.get(service, service)}:{operation}"
    resource = _RESOURCE.search(message)
    on = f" on {resource[1].rstrip('.')}" if resource else ""
    details |= {"action": action, "resource": resource[1].rstrip(".") if resource else None}
    text = f"The key may not use {action}{on}."
    if breaks := breaks_without(action):
        text += f" Without it: {breaks}."
    return FixItError(text, advice=_advice(action, message), field="access_key_id", details=details)


def _advice(action: str, message: str) -> str:
    lower = message.lower()
    if "service control policy" in lower:
        return f"A service control policy of your AWS organization forbids it: its administrator has to allow {action}."
    if "permissions boundary" in lower:
        return f"Allow {action} in the permissions boundary of the key's user, too."
    if "explicit deny" in lower:
        return f"A policy of the key's user denies {action} explicitly: remove that statement."
    if "Encoded authorization failure message" in message:
        return (
            f"Allow {action}: `ropewalk cloud-account policy aws` prints the policy. An administrator can read why it "
            "is denied with `aws sts decode-authorization-message`."
        )
    return f"Allow {action} in a policy of the key's user: `ropewalk cloud-account policy aws` prints it."


_NOT_SENT = {"EndpointConnectionError", "ConnectTimeoutError", "ProxyConnectionError", "SSLError"}
_MISUSED = {"ParamValidationError", "InvalidRegionError", "UnknownServiceError", "OperationNotFoundError"}
_VALUE = re.compile(r"value: .*", re.DOTALL)  # may hold a node's keys


def _unanswered(exc: Exception, call: str) -> Fault:
    name = type(exc).__name__
    details = {"exception": name, "call": call}
    if name in _MISUSED:
        text = f"{call} was asked for in a wrong way: {_VALUE.sub('value: …', str(exc))}"
        return Fault(FixItError(text, details=details), Effect.REFUSED)
    if name in _NOT_SENT:
        error = TryAgainError(
            f"AWS could not be reached for {call}: {_short(exc)}",
            delay=10.0,
            advice="Check that this server reaches AWS (name resolution, proxy, firewall), and the region's name.",
            details=details,
        )
        return Fault(error, Effect.NOT_SENT)
    text = f"The answer of AWS to {call} was lost ({name}): {_short(exc)}"
    return Fault(TryAgainError(text, delay=5.0, details=details), Effect.LOST)


def _short(exc: Exception) -> str:
    return str(exc)[:300] or type(exc).__name__
