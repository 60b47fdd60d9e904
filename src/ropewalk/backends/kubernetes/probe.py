"""A pod that shows whether an image can be pulled and a scheduler be reached; removed afterwards.

Kubernetes ends it, too, if that fails.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from typing import Any

from ropewalk.backends.kubernetes import portforward
from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.reasons import container_of, look
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.port import SCHEDULER_PORT, Place
from ropewalk.errors import BackendError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus
from ropewalk.schemas.kubernetes import KubernetesSettings

WAIT_SECONDS = 45.0
"""A GiB takes some 10 to 30 s to pull; who wants to know more asks again."""
POLL_SECONDS = 0.5
LIFETIME = 120
"""Seconds after which Kubernetes itself ends the pod."""

LISTEN_SECONDS = 30
"""How long the pod waits for somebody to reach it."""
ANSWER_SECONDS = 10.0
"""For a stream through the control plane to bring something: some milliseconds, unless it is busy."""

_NAME = "image"

_PROGRAM = f"""
import distributed, socket
both = socket.has_dualstack_ipv6()
family = socket.AF_INET6 if both else socket.AF_INET
server = socket.create_server(("", {SCHEDULER_PORT}), family=family, dualstack_ipv6=both)
server.settimeout(%d)
try:
    server.accept()[0].sendall(b"here")
except TimeoutError:
    pass
"""


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
                    "command": ["python", "-c", _PROGRAM % LISTEN_SECONDS],
                    "resources": {"requests": size, "limits": size},
                    "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
                }
            ],
        },
    }


def _none(registry: str | None) -> CheckItem:
    """Return what is told of a cloud account that names no image."""
    if registry is not None:
        message = f"Software environments are built for its clusters, and put into {registry}. None was tried."
        return CheckItem(name=_NAME, status=CheckStatus.UNKNOWN, message=message)
    message = "The cloud account names neither an image nor a registry to put some in: each cluster must name an image."
    advice = "Set --image or --image-registry, or name one as container='…'."
    return CheckItem(name=_NAME, status=CheckStatus.WARNING, message=message, advice=advice)


class Probe:
    """Runs the cloud account's image once, and speaks to it by the way that the gateway takes."""

    def __init__(self, api: Api, place: Place, settings: KubernetesSettings) -> None:
        self._api = api
        self._settings = settings
        self._pod = f"ropewalk-check-{place.cloud_account}"
        self.reached: bool | None = None
        """None: that was not tried."""
        self.why: str = "nobody listened there."

    async def image(self) -> CheckItem:
        """Run it."""
        if self._settings.image is None:
            return _none(self._settings.image_registry)
        await _remove(self._api, self._pod)
        try:
            await self._api.call("create", "pods", body=pod(self._settings, self._pod, {}))
            return await self._watch(self._settings.image)
        finally:
            await asyncio.shield(_remove(self._api, self._pod))

    async def _watch(self, image: str) -> CheckItem:
        deadline = time.monotonic() + WAIT_SECONDS
        while True:
            found = await self._api.call("get", "pods", self._pod)
            seen = look(found)
            if seen.gone and seen.exit_code == 0:
                return CheckItem(name=_NAME, status=CheckStatus.OK, message=f"{image} was pulled, and has distributed.")
            if seen.gone:
                why = seen.reason or f"its `python -c 'import distributed'` ended with status {seen.exit_code}."
                return _bad(f"{image} does not work: {why}", CheckStatus.FAILED)
            if seen.reason is not None and "cannot be pulled" in seen.reason:
                return _bad(f"{image}: {seen.reason}", CheckStatus.FAILED)
            if time.monotonic() > deadline:
                why = seen.reason or "it was still being pulled."
                return _bad(f"{image} did not run within {WAIT_SECONDS:.0f} seconds: {why}", CheckStatus.UNKNOWN)
            if not self.reached and "running" in (container_of(found).get("state") or {}):
                await self._reach()
            await asyncio.sleep(POLL_SECONDS)

    async def _reach(self) -> None:
        """Try to hear the pod; it may not listen yet."""
        self.reached = False
        try:
            reader, writer = await portforward.open_stream(self._api, self._pod, SCHEDULER_PORT)
        except BackendError as exc:
            self.why = exc.message
            return
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                self.reached = bool(await reader.read(1))
        except TimeoutError:
            self.why = f"nothing came through it within {ANSWER_SECONDS:.0f} seconds."
        finally:
            writer.transport.abort()


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
