"""A pod that only shows whether an image can be pulled; removed afterwards, and by Kubernetes if that fails."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.reasons import look
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.port import Place
from ropewalk.errors import BackendError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus
from ropewalk.schemas.kubernetes import KubernetesSettings

WAIT_SECONDS = 45.0
"""A GiB takes some 10 to 30 s to pull; who wants to know more asks again."""
POLL_SECONDS = 0.5
LIFETIME = 120
"""Seconds after which Kubernetes itself ends the pod."""

_NAME = "image"


def pod(settings: KubernetesSettings, name: str, labels: Mapping[str, str]) -> dict[str, Any]:
    """Return a pod as Ropewalk's own are, that does nothing."""
    user = settings.run_as_user
    own = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
    size = {"cpu": "100m", "memory": "64Mi"}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "ropewalk", **labels}},
        "spec": {
            "restartPolicy": "Never",
            "activeDeadlineSeconds": LIFETIME,
            "terminationGracePeriodSeconds": 0,
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **own},
            "imagePullSecrets": [{"name": secret} for secret in settings.image_pull_secrets],
            "containers": [
                {
                    "name": "probe",
                    "image": settings.image or "no-image",
                    "command": ["python", "-c", "import distributed"],
                    "resources": {"requests": size, "limits": size},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


async def image(api: Api, place: Place, settings: KubernetesSettings) -> CheckItem:
    """Run the cloud account's image once."""
    if settings.image is None:
        message = "The cloud account names no image: each cluster must name one."
        return CheckItem(
            name=_NAME, status=CheckStatus.WARNING, message=message, advice="Set --image, or container='…'."
        )
    name = f"ropewalk-check-{place.cloud_account}"
    await _remove(api, name)
    try:
        await api.call("create", "pods", body=pod(settings, name, {}))
        return await _watch(api, name, settings.image)
    finally:
        await asyncio.shield(_remove(api, name))


async def _watch(api: Api, name: str, image_name: str) -> CheckItem:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        seen = look(await api.call("get", "pods", name))
        if seen.gone and seen.exit_code == 0:
            return CheckItem(
                name=_NAME, status=CheckStatus.OK, message=f"{image_name} was pulled, and has distributed."
            )
        if seen.gone:
            why = seen.reason or f"its `python -c 'import distributed'` ended with status {seen.exit_code}."
            return _bad(f"{image_name} does not work: {why}", CheckStatus.FAILED)
        if seen.reason is not None and "cannot be pulled" in seen.reason:
            return _bad(f"{image_name}: {seen.reason}", CheckStatus.FAILED)
        if time.monotonic() > deadline:
            why = seen.reason or "it was still being pulled."
            return _bad(f"{image_name} did not run within {WAIT_SECONDS:.0f} seconds: {why}", CheckStatus.UNKNOWN)
        await asyncio.sleep(POLL_SECONDS)


def _bad(message: str, status: CheckStatus) -> CheckItem:
    advice = "Name an image with Python, dask and distributed that the Kubernetes cluster can pull."
    return CheckItem(name=_NAME, status=status, message=message, advice=advice)


async def _remove(api: Api, name: str) -> None:
    """Delete the pod and wait until its name is free."""
    body = {"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0}
    try:
        await api.call("delete", "pods", name, body=body)
    except BackendError as exc:
        if status_of(exc) == 404:
            return
        raise
    deadline = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < deadline:
        try:
            await api.call("get", "pods", name)
        except BackendError as exc:
            if status_of(exc) == 404:
                return
            raise
        await asyncio.sleep(POLL_SECONDS)
