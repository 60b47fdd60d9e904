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
from tests.support.waiting import wait_until

IMAGE = "registry.test/dask:1"
_NUMBERS = count(1)


class Space:
    def __init__(self, plane: Plane, installation: str = "inst-test", **facts: Any) -> None:
        self.plane = plane
        self.installation = installation
        self.namespace = f"team-{next(_NUMBERS)}"
        self.user = f"system:serviceaccount:{self.namespace}:{SERVICE_ACCOUNT}"
        self._backends: list[KubernetesBackend] = []
        plane.apply(manifest(self.namespace, **facts))
        wait_until(self._complete)
        self.token = plane.token(self.namespace, SERVICE_ACCOUNT)

    def _complete(self) -> bool:
        """Return whether Kubernetes has added what it adds to each namespace, and heeds the Role.

        It does so in its own time. Before that, pods may be refused, and what a namespace holds changes by itself.
        """
        accounts = self.plane.get(self.path("serviceaccounts"))["items"]
        tokens = {account["metadata"]["name"] for account in accounts if account.get("secrets")}
        there = {"default", SERVICE_ACCOUNT} <= tokens and "kube-root-ca.crt" in self.names("configmaps")
        return there and self.may("create", "pods")

    def may(self, verb: str, resource: str) -> bool:
        """Return whether the API server lets the service account do it now: it hears of changes a little later."""
        attributes = {"namespace": self.namespace, "verb": verb, "resource": resource}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": self.user, "resourceAttributes": attributes},
        }
        review = self.plane.ask("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", json=body)
        return bool(review["status"]["allowed"])

    def takes(self, **spec: Any) -> bool:
        """Return whether the API server would take a pod with *spec* now; none is made."""
        container = {"name": "bare", "image": "none"}
        pod = {"metadata": {"name": "bare"}, "spec": {"containers": [container], **spec}}
        answer = self.plane.admin.request("POST", self.path("pods"), params={"dryRun": "All"}, json=pod)
        return answer.is_success

    def kubeconfig(self, token: str | None = None) -> str:
        authority = base64.b64encode(self.plane.pki.path("ca.crt").read_bytes()).decode()
        return json.dumps(kubeconfig(self.plane.server, authority, token or self.token, self.namespace))

    def parsed(self, token: str | None = None) -> tuple[KubernetesCredentials, KubernetesSettings]:
        return parse_kubeconfig(self.kubeconfig(token))

    def backend(self, archive: Path | None = None, token: str | None = None, **settings: Any) -> KubernetesBackend:
        credentials, parsed = self.parsed(token)
        place = Place(self.installation, "cloud-1", "team")
        changed = parsed.model_copy(update={"image": IMAGE, **settings})
        made = KubernetesBackend(place, changed, credentials, [], archive=archive)
        self._backends.append(made)
        return made

    def path(self, resource: str, name: str | None = None) -> str:
        return f"/api/v1/namespaces/{self.namespace}/{resource}" + (f"/{name}" if name else "")

    def names(self, resource: str) -> set[str]:
        return {item["metadata"]["name"] for item in self.plane.get(self.path(resource))["items"]}

    def pod(self, name: str) -> Any:
        return self.plane.get(self.path("pods", name))

    def requests(self) -> list[dict[str, Any]]:
        return self.plane.audit(self.user)

    async def close(self) -> None:
        """Close the backends that a test did not come to close, and remove the namespace."""
        for backend in self._backends:
            await backend.close()
        self.remove()

    def remove(self) -> None:
        self.plane.admin.request("DELETE", f"/api/v1/namespaces/{self.namespace}")
