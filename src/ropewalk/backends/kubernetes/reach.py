"""Where clients reach schedulers: inside the Kubernetes cluster only, at a load balancer, or at a machine's port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from ropewalk.backends.kubernetes.api import Api
from ropewalk.backends.kubernetes.objects import internal_address, service_name
from ropewalk.backends.kubernetes.refusals import status_of
from ropewalk.backends.kubernetes.watch import Pod
from ropewalk.backends.port import SCHEDULER_PORT
from ropewalk.errors import BackendError
from ropewalk.schemas.kubernetes import KubernetesSettings

ASK_SECONDS = 2.0
"""Between two questions whether a load balancer has an address yet; clouds take from seconds to minutes."""
GIVE_UP_SECONDS = 600.0


class Reach:
    """Knows the Services of clusters, as far as addresses of schedulers need them.

    Args:
        api: Where they are.
        settings: How schedulers are reached.
        changed: Called when an address has become known.
        spawn: Runs something beside everything else.
    """

    def __init__(
        self, api: Api, settings: KubernetesSettings, changed: Callable[[], None], spawn: Callable[[Any], object]
    ) -> None:
        self._api = api
        self._settings = settings
        self._changed = changed
        self._spawn = spawn
        self._services: dict[str, dict[str, Any]] = {}
        self._asking: set[str] = set()

    def note(self, cluster: str, service: dict[str, Any]) -> None:
        """Take what an answer said of a cluster's Service."""
        self._services[cluster] = service

    def internal(self, cluster: str) -> str:
        """Return where nodes of the cluster reach their scheduler."""
        return internal_address(cluster, self._api.namespace)

    def address(self, cluster: str, pod: Pod | None) -> str | None:
        """Return where clients reach a cluster's scheduler, whose pod is *pod*; None: that is not known yet."""
        how = self._settings.direct
        if how is None:
            return self.internal(cluster)
        service = self._services.get(cluster)
        found = None
        if service is not None:
            found = _node_port(service, pod) if how == "node_port" else _load_balancer(service)
        if found is None and pod is not None and cluster not in self._asking:
            self._asking.add(cluster)
            self._spawn(self._ask(cluster))
        return found

    def why_unknown(self, cluster: str) -> str:
        """Return why the address of a scheduler that is there is not known yet."""
        if self._settings.direct == "node_port":
            return "It is not known yet on which machine it runs."
        return (
            "Its load balancer has no address yet. Does this Kubernetes cluster have load balancers? "
            f"`kubectl -n {self._api.namespace} describe service {service_name(cluster)}` says more; the gateway needs "
            "none (ropewalk cloud-account set kubernetes --reach gateway)."
        )

    async def _ask(self, cluster: str) -> None:
        deadline = time.monotonic() + GIVE_UP_SECONDS
        try:
            while time.monotonic() < deadline:
                try:
                    service = await self._api.call("get", "services", service_name(cluster))
                except BackendError as exc:
                    if status_of(exc) == 404:
                        return
                else:
                    self.note(cluster, service)
                    if self._settings.direct == "node_port" or _load_balancer(service):
                        self._changed()
                        return
                await asyncio.sleep(ASK_SECONDS)
        finally:
            self._asking.discard(cluster)


def _node_port(service: dict[str, Any], pod: Pod | None) -> str | None:
    # Any machine would do; the scheduler's own needs no second hop, and listing machines is not ours to do.
    host = ((pod or {}).get("status") or {}).get("hostIP")
    port = service["spec"]["ports"][0].get("nodePort")
    return _join(host, port) if host and port else None


def _load_balancer(service: dict[str, Any]) -> str | None:
    for ingress in ((service.get("status") or {}).get("loadBalancer") or {}).get("ingress") or []:
        host = ingress.get("hostname") or ingress.get("ip")
        if host:
            return _join(host, SCHEDULER_PORT)
    return None


def _join(host: str, port: int) -> str:
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"
