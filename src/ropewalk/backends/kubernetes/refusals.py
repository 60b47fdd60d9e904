"""What an API server's refusals mean: which of our errors, in which words, with which advice."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.kubernetes_permissions import needed_for

QUOTA_DELAY = 15.0
"""Seconds until a namespace's quota is tried again: ends of other pods make room."""
MAX_MESSAGE = 600
"""Characters that are quoted of an API server's message."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request, as Kubernetes speaks of it."""

    verb: str
    resource: str
    name: str | None = None

    def __str__(self) -> str:
        return f"{self.verb} {self.resource}" + (f" {self.name}" if self.name else "")


def status_of(error: BackendError) -> int | None:
    """Return the HTTP status of the answer that *error* stands for."""
    status = error.details.get("status")
    return status if isinstance(status, int) else None


def reason_of(error: BackendError) -> str | None:
    """Return Kubernetes' own word for what was wrong, such as ``AlreadyExists``."""
    reason = error.details.get("reason")
    return reason if isinstance(reason, str) else None


def refusal(call: Call, status: int, body: bytes, retry_after: float | None, namespace: str) -> BackendError:
    """Return the error that an answer with a bad *status* stands for."""
    said = _parse(body)
    message = str(said.get("message") or "")[:MAX_MESSAGE]
    facts = {"status": status, "reason": said.get("reason"), "verb": call.verb, "resource": call.resource}
    if status == 401:
        return _unauthorised(facts)
    if status == 403:
        return _forbidden(call, message, said, facts, namespace)
    if status == 404 and said.get("details", {}).get("kind") == "namespaces":
        return FixItError(
            f"The namespace {namespace} does not exist.",
            field="namespace",
            advice="Create it: ropewalk kubernetes manifest prints what belongs into it.",
            details=facts,
        )
    if status == 429 or status >= 500:
        return TryAgainError(
            f"The API server could not {call} ({status}{': ' + message if message else ''}).",
            delay=retry_after or 2.0,
            details=facts,
        )
    return FixItError(f"The API server refused to {call}: {message or status}", details=facts)


def unreachable(call: Call, server: str, exc: BaseException) -> TryAgainError:
    """Return the error for an API server that did not answer."""
    why = "it did not answer in time" if isinstance(exc, TimeoutError) else _why(exc)
    return TryAgainError(
        f"The API server {server} could not be reached to {call}: {why}.",
        delay=2.0,
        advice="If that goes on: is its address reachable from Ropewalk's server?",
        details={"verb": call.verb, "resource": call.resource},
    )


def _why(exc: BaseException) -> str:
    text = str(exc).strip() or type(exc).__name__
    return text[:200]


def _parse(body: bytes) -> Mapping[str, Any]:
    try:
        said = json.loads(body)
    except ValueError:
        said = None
    # Load balancers and proxies answer with pages of their own.
    return said if isinstance(said, dict) else {"message": body[:200].decode("utf-8", "replace").strip()}


def _unauthorised(facts: Mapping[str, Any]) -> FixItError:
    return FixItError(
        "The API server does not accept the kubeconfig's credentials: they have expired, or were revoked.",
        field="kubeconfig",
        advice="Make new ones with `ropewalk kubernetes kubeconfig` and set them with "
        "`ropewalk cloud-account set kubernetes --kubeconfig FILE`.",
        details={**facts, "credentials": "invalid"},
    )


def _forbidden(
    call: Call, message: str, said: Mapping[str, Any], facts: Mapping[str, Any], namespace: str
) -> BackendError:
    causes = [cause.get("reason") for cause in (said.get("details") or {}).get("causes") or []]
    if "NamespaceTerminating" in causes or "because it is being terminated" in message:
        return FixItError(
            f"The namespace {namespace} is being deleted, so nothing can start in it.",
            field="namespace",
            advice="Choose another namespace, or create it again once it is gone.",
            details={**facts, "reason": "NamespaceTerminating"},
        )
    if "exceeded quota" in message:
        return TryAgainError(
            f"The quota of the namespace {namespace} is used up: {_after(message, 'exceeded quota: ')}.",
            delay=QUOTA_DELAY,
            advice="Stop other clusters, ask for fewer or smaller nodes, or let the quota be raised "
            f"(kubectl -n {namespace} describe resourcequota).",
            details={**facts, "reason": "QuotaExceeded"},
        )
    if "failed quota" in message:
        return FixItError(
            f"The quota of the namespace {namespace} counts what pods do not say: {_after(message, 'failed quota: ')}.",
            field="namespace",
            advice="Let a LimitRange of the namespace give it a default, or take it out of the quota "
            f"(kubectl -n {namespace} describe resourcequota).",
            details={**facts, "reason": "QuotaUnnamed"},
        )
    if "PodSecurity" in message or "pod security policy" in message.lower():
        return FixItError(
            f"The pod security rules of the namespace {namespace} refuse these pods: {message}",
            field="backend_options",
            advice="Leave out the backend options that they name. Ropewalk's own pods meet the level `restricted`.",
            details={**facts, "reason": "PodSecurity"},
        )
    if "cannot " in message and "resource" in message:
        return FixItError(
            f"The kubeconfig may not {call.verb} {call.resource} in the namespace {namespace}; "
            f"{needed_for(call.verb, call.resource)}.",
            field="kubeconfig",
            advice="Give its service account the Role that `ropewalk kubernetes manifest` prints.",
            details={**facts, "permission": f"{call.verb} {call.resource}"},
        )
    return FixItError(f"The API server forbids to {call}: {message}", details=facts)


def _after(message: str, mark: str) -> str:
    return message.split(mark, 1)[1].rstrip(". ") if mark in message else message
