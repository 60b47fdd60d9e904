"""Finding out whether clusters can run in a namespace. Changes nothing that it doesn't remove."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.kubernetes import objects, probe
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.port import Identity, Place
from ropewalk.errors import BackendError, FixItError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus
from ropewalk.schemas.kubernetes import KubernetesCredentials, KubernetesSettings
from ropewalk.schemas.kubernetes_permissions import PERMISSIONS, Permission

OLDEST = 20
"""Kubernetes 1.20 is the oldest version that the tests run against."""
SOON_SECONDS = 7 * 24 * 3600


async def check(
    api: Api, place: Place, settings: KubernetesSettings, credentials: KubernetesCredentials
) -> CheckReport:
    """Look at everything that clusters need."""
    items = [await _guarded("API server", lambda: _version(api))]
    if items[0].status is CheckStatus.FAILED:
        return CheckReport(checked_at=datetime.now(UTC), items=items)
    items.append(_expiry(credentials))
    items += await _permissions(api)
    tried = probe.Probe(api, place, settings)
    if all(item.status is not CheckStatus.FAILED for item in items):
        looks: Sequence[tuple[str, Callable[[], Awaitable[CheckItem]]]] = (
            ("resource quota", lambda: _quota(api)),
            ("limit ranges", lambda: _limits(api)),
            ("pod security", lambda: _security(api, settings)),
            ("image", tried.image),
        )
        items += await asyncio.gather(*(_guarded(name, look) for name, look in looks))
    items.append(_reach(settings, tried))
    return CheckReport(checked_at=datetime.now(UTC), items=items)


async def identity(api: Api, credentials: KubernetesCredentials) -> Identity:
    """Return who the credentials are.

    Raises:
        FixItError: they are not accepted.
    """
    _, everything = await asyncio.gather(api.review("list", "pods"), api.review("*", "*"))
    name = str(_claims(credentials).get("sub") or "the holder of a client certificate")
    warning = None
    if everything:
        warning = (
            "They may do everything in the namespace, more than Ropewalk needs. `ropewalk kubernetes manifest` prints "
            "a Role that is enough."
        )
    return Identity(f"{api.server}/{api.namespace}", name, warning)


async def _guarded(name: str, look: Callable[[], Awaitable[CheckItem]]) -> CheckItem:
    try:
        return await look()
    except FixItError as exc:
        return CheckItem(name=name, status=CheckStatus.FAILED, message=exc.message, advice=exc.advice)
    except BackendError as exc:
        failed = CheckStatus.FAILED if name == "API server" else CheckStatus.UNKNOWN
        return CheckItem(name=name, status=failed, message=exc.message, advice=exc.advice)


async def _version(api: Api) -> CheckItem:
    found = await api.version()
    minor = "".join(filter(str.isdigit, str(found.get("minor"))))
    message = f"{api.server} answers: Kubernetes {found.get('gitVersion')}."
    if minor and int(minor) < OLDEST:
        advice = "Nobody has tried Ropewalk with it; upgrade Kubernetes if something does not work."
        return CheckItem(name="API server", status=CheckStatus.WARNING, message=message, advice=advice)
    return CheckItem(name="API server", status=CheckStatus.OK, message=message)


def _claims(credentials: KubernetesCredentials) -> Mapping[str, Any]:
    """Return what a token says of itself, unproven; nothing for certificates and opaque tokens."""
    parts = credentials.token.get_secret_value().split(".") if credentials.token else []
    if len(parts) != 3:
        return {}
    try:
        claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=" * (-len(parts[1]) % 4)))
    except ValueError:
        return {}
    return claims if isinstance(claims, dict) else {}


def _expiry(credentials: KubernetesCredentials) -> CheckItem:
    expires = _claims(credentials).get("exp")
    if not isinstance(expires, int | float):
        return CheckItem(name="credentials", status=CheckStatus.OK, message="They name no date at which they expire.")
    left = expires - datetime.now(UTC).timestamp()
    message = f"They expire at {datetime.fromtimestamp(expires, UTC):%Y-%m-%d %H:%M} UTC."
    if left > SOON_SECONDS:
        return CheckItem(name="credentials", status=CheckStatus.OK, message=message)
    advice = "Make new ones before that with `ropewalk kubernetes kubeconfig`, and set the cloud account again."
    return CheckItem(name="credentials", status=CheckStatus.WARNING, message=message, advice=advice)


async def _permissions(api: Api) -> list[CheckItem]:
    return list(await asyncio.gather(*(_permission(api, permission) for permission in PERMISSIONS)))


async def _permission(api: Api, permission: Permission) -> CheckItem:
    name = f"{permission.verb} {permission.resource}"
    try:
        allowed = await api.review(permission.verb, permission.resource)
    except BackendError as exc:
        return CheckItem(name=name, status=CheckStatus.UNKNOWN, message=exc.message, advice=exc.advice)
    if allowed:
        return CheckItem(name=name, status=CheckStatus.OK, message="Allowed.")
    status = CheckStatus.WARNING if permission.optional else CheckStatus.FAILED
    return CheckItem(
        name=name,
        status=status,
        message=f"The kubeconfig may not {name} in the namespace {api.namespace}: {permission.breaks}.",
        advice="Give its service account the Role that `ropewalk kubernetes manifest` prints.",
    )


async def _items(api: Api, resource: str) -> list[Mapping[str, Any]]:
    return (await api.call("list", resource)).get("items") or []


async def _quota(api: Api) -> CheckItem:
    try:
        found = await _items(api, "resourcequotas")
    except FixItError as exc:
        return _not_told("resource quota", exc)
    used = [
        f"{key}: {status.get('used', {}).get(key, '0')} of {hard}"
        for quota in found
        if (status := quota.get("status") or {})
        for key, hard in (status.get("hard") or {}).items()
    ]
    message = "Used: " + ", ".join(sorted(used)[:12]) + "." if used else "There is none."
    return CheckItem(name="resource quota", status=CheckStatus.OK, message=message)


async def _limits(api: Api) -> CheckItem:
    try:
        found = await _items(api, "limitranges")
    except FixItError as exc:
        return _not_told("limit ranges", exc)
    limits = [
        f"{limit.get('type')} {bound} {key} {value}"
        for each in found
        for limit in (each.get("spec") or {}).get("limits") or []
        for bound in ("min", "max")
        for key, value in (limit.get(bound) or {}).items()
    ]
    message = "Nodes must fit: " + ", ".join(limits[:12]) + "." if limits else "There are none."
    return CheckItem(name="limit ranges", status=CheckStatus.OK, message=message)


def _not_told(name: str, exc: FixItError) -> CheckItem:
    if status_of(exc) != 403:
        raise exc
    return CheckItem(name=name, status=CheckStatus.UNKNOWN, message=exc.message)


async def _security(api: Api, settings: KubernetesSettings) -> CheckItem:
    """Let the API server judge a pod like ours without keeping it: that asks all its admission rules."""
    level = "not told"
    try:
        namespace = await api.call("get", "namespaces")
        labels = (namespace.get("metadata") or {}).get("labels") or {}
        level = labels.get("pod-security.kubernetes.io/enforce", "none set")
    except FixItError as exc:
        if status_of(exc) != 403:
            raise
    await api.call("create", "pods", body=probe.pod(settings, "ropewalk-dry-run", {}), query={"dryRun": "All"})
    message = f"A pod like Ropewalk's is accepted (pod security level: {level})."
    return CheckItem(name="pod security", status=CheckStatus.OK, message=message)


def _reach(settings: KubernetesSettings, tried: probe.Probe) -> CheckItem:
    how = {
        "load_balancer": "by a load balancer for each cluster; clouds charge for it",
        "node_port": "by a port of a machine; clients must be able to reach the machines",
        None: "through the gateway of this control plane, which needs nothing but the kubeconfig",
    }[settings.direct]
    address = f"Inside Kubernetes it is {objects.internal_address('…', settings.namespace)}."
    message = f"Schedulers are reached {how}. {address}"
    if tried.reached is None:
        said = f"{message} That was not tried, since no pod ran."
        return CheckItem(name="reach", status=CheckStatus.UNKNOWN, message=said)
    if tried.reached:
        said = f"{message} A stream through the API server to a pod works."
        return CheckItem(name="reach", status=CheckStatus.OK, message=said)
    return CheckItem(
        name="reach",
        status=CheckStatus.WARNING if settings.direct else CheckStatus.FAILED,
        message=f"{message} A stream through the API server to a pod did not work: {tried.why}",
        advice="WebSockets must get through whatever stands before the API server, and the API server must reach its "
        "machines' kubelets (port 10250).",
    )
