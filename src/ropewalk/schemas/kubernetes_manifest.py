"""What a namespace's owner applies so that Ropewalk can use it, made from the permissions table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from ropewalk.schemas.kubernetes_permissions import rules

SERVICE_ACCOUNT = "ropewalk"
SCHEDULER_PORT = 8786
_LABELS = {"app.kubernetes.io/name": "ropewalk", "app.kubernetes.io/managed-by": "ropewalk"}
_NODES = {"app.kubernetes.io/managed-by": "ropewalk", "app.kubernetes.io/name": "dask"}

Manifest = Mapping[str, Any]


def manifest(
    namespace: str,
    *,
    service_account: str = SERVICE_ACCOUNT,
    create_namespace: bool = True,
    network_policy: bool = False,
    quota: Mapping[str, str] | None = None,
) -> Sequence[Manifest]:
    """Return the objects, in the order in which they can be applied.

    Args:
        namespace: Where clusters will run.
        service_account: Name of who Ropewalk is there.
        create_namespace: Whether the namespace is among them, asking for pod security level ``restricted``.
        network_policy: Whether nodes of clusters accept connections from nodes, and schedulers from anybody, only.
        quota: Hard limits of a ResourceQuota, such as ``{"requests.cpu": "100"}``.
    """
    found: list[Manifest] = [_namespace(namespace)] if create_namespace else []
    found += [_service_account(namespace, service_account), _role(namespace), _binding(namespace, service_account)]
    if network_policy:
        found += _policies(namespace)
    if quota:
        found.append(_quota(namespace, quota))
    return found


def _metadata(namespace: str, name: str) -> dict[str, Any]:
    return {"name": name, "namespace": namespace, "labels": dict(_LABELS)}


def _namespace(name: str) -> Manifest:
    labels = {**_LABELS, "pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def _service_account(namespace: str, name: str) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ServiceAccount",
        "metadata": _metadata(namespace, name),
        "automountServiceAccountToken": False,
    }


def _role(namespace: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "Role",
        "metadata": _metadata(namespace, "ropewalk"),
        "rules": [{key: list(value) for key, value in rule.items()} for rule in rules()],
    }


def _binding(namespace: str, service_account: str) -> Manifest:
    return {
        "apiVersion": "rbac.authorization.k8s.io/v1",
        "kind": "RoleBinding",
        "metadata": _metadata(namespace, "ropewalk"),
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "ropewalk"},
        "subjects": [{"kind": "ServiceAccount", "name": service_account, "namespace": namespace}],
    }


def _policies(namespace: str) -> Sequence[Manifest]:
    nodes = {"podSelector": {"matchLabels": dict(_NODES)}}
    port = [{"port": SCHEDULER_PORT, "protocol": "TCP"}]
    return [
        _policy(namespace, "ropewalk-nodes", _NODES, [{"from": [nodes]}]),
        # Load balancers and port-forwards come from addresses outside; TLS says who may do what.
        _policy(
            namespace, "ropewalk-schedulers", {**_NODES, "app.kubernetes.io/component": "scheduler"}, [{"ports": port}]
        ),
    ]


def _policy(namespace: str, name: str, pods: Mapping[str, str], ingress: Sequence[Manifest]) -> Manifest:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": _metadata(namespace, name),
        "spec": {"podSelector": {"matchLabels": dict(pods)}, "policyTypes": ["Ingress"], "ingress": list(ingress)},
    }


def _quota(namespace: str, hard: Mapping[str, str]) -> Manifest:
    return {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": _metadata(namespace, "ropewalk"),
        "spec": {"hard": dict(hard)},
    }
