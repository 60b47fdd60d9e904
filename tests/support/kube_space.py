"""A namespace as its owner prepares it for Ropewalk, and backends that run in it."""

from __future__ import annotations

import base64
import json
from itertools import count
from pathlib import Path
from typing import Any

from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.kubernetes.kubeconfig import parse_kubeconfig
from ropewalk.backends.port import Place
from ropewalk.schemas.kubernetes import KubernetesCredentials, KubernetesSettings
from ropewalk.schemas.kubernetes_manifest import SERVICE_ACCOUNT, manifest
from tests.support.kube_plane import Plane, kubeconfig

IMAGE = "registry.test/dask:1"
_NUMBERS = count(1)


class Space:
    def __init__(self, plane: Plane, installation: str = "inst-test", **facts: Any) -> None:
        self.plane = plane
        self.installation = installation
        self.namespace = f"team-{next(_NUMBERS)}"
        self.user = f"system:serviceaccount:{self.namespace}:{SERVICE_ACCOUNT}"
        plane.apply(manifest(self.namespace, **facts))
        self.token = plane.token(self.namespace, SERVICE_ACCOUNT)

    def kubeconfig(self, token: str | None = None) -> str:
        authority = base64.b64encode(self.plane.pki.path("ca.crt").read_bytes()).decode()
        return json.dumps(kubeconfig(self.plane.server, authority, token or self.token, self.namespace))

    def parsed(self, token: str | None = None) -> tuple[KubernetesCredentials, KubernetesSettings]:
        return parse_kubeconfig(self.kubeconfig(token))

    def backend(self, archive: Path | None = None, token: str | None = None, **settings: Any) -> KubernetesBackend:
        credentials, parsed = self.parsed(token)
        place = Place(self.installation, "cloud-1", "team")
        changed = parsed.model_copy(update={"image": IMAGE, **settings})
        return KubernetesBackend(place, changed, credentials, [], archive=archive)

    def path(self, resource: str, name: str | None = None) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def names(self, resource: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.plane.get(self.path(resource))["items"]}

    def pod(self, name: str) -> Any:
        return self.plane.get(self.path("pods", name))

    def requests(self) -> list[dict[str, Any]]:
        return self.plane.audit(self.user)

    def remove(self) -> None:
        self.plane.admin.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
