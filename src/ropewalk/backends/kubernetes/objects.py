"""The objects of a cluster, as dictionaries: one Service that owns everything else, Secrets, and pods.

Deleting the Service deletes the cluster, whatever has become of Ropewalk: all else names it as its owner, and
Kubernetes' own garbage collector follows. A pod that is created late, after its Service was deleted, is collected too.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from ropewalk.backends.kubernetes.template import MOUNT_ROOT, PREFIX, PodOptions
from ropewalk.backends.port import SCHEDULER_PORT, ClusterRef, LaunchRequest, NodeHandle, NodeLaunch, Place
from ropewalk.schemas.clusters import NodeRole
from ropewalk.schemas.kubernetes import KubernetesSettings

PROGRAM = Path(__file__).parents[2] / "node" / "main.py"
BOOT = Path(__file__).with_name("boot.py")

GRACE_SECONDS = 10
"""Between asking a node to end and killing it. Dask's Nanny gives its worker 5 s at the most of its own."""
LOST_NODE_SECONDS = 30
"""After so long without its machine a pod is given up; Kubernetes' default of 300 s is for services that come back."""

DOMAIN = "ropewalk.dev"
INSTALLATION, CLOUD_ACCOUNT, ACCOUNT, CLUSTER, ROLE = (
    f"{DOMAIN}/{name}" for name in ("installation", "cloud-account", "account", "cluster", "role")
)
_TAGS = f"{DOMAIN}/tags"
_CLUSTER_NAME = f"{DOMAIN}/cluster-name"


@dataclass(frozen=True, slots=True)
class Owner:
    """The Service of a cluster."""

    name: str
    uid: str

    def reference(self) -> dict[str, Any]:
        """Return what makes an object die with it."""
        return {"apiVersion": "v1", "kind": "Service", "name": self.name, "uid": self.uid}


def service_name(cluster: str) -> str:
    """Return the name of a cluster's Service, by which its workers find their scheduler."""
    return f"{PREFIX}{cluster}"


def internal_address(cluster: str, namespace: str) -> str:
    """Return the scheduler's address inside the Kubernetes cluster, known before anything runs."""
    return f"tls://{service_name(cluster)}.{namespace}.svc:{SCHEDULER_PORT}"


def selector(place: Place) -> str:
    """Return the label selector that all objects of a cloud account meet, and nobody else's."""
    return f"{INSTALLATION}={place.installation},{CLOUD_ACCOUNT}={place.cloud_account}"


def labels(place: Place, cluster: ClusterRef, role: str | None = None) -> dict[str, str]:
    """Return the labels of an object: Kubernetes' recommended ones, and ours."""
    found = {
        "app.kubernetes.io/name": "dask",
        "app.kubernetes.io/instance": cluster.id,
        "app.kubernetes.io/managed-by": "ropewalk",
        "app.kubernetes.io/part-of": "ropewalk",
        INSTALLATION: place.installation,
        CLOUD_ACCOUNT: place.cloud_account,
        ACCOUNT: cluster.account,
        CLUSTER: cluster.id,
    }
    if role is not None:
        found |= {"app.kubernetes.io/component": role, ROLE: role}
    return found


def notes(request: LaunchRequest) -> dict[str, str]:
    """Return what users said, which may be no label."""
    tags = {_TAGS: json.dumps(dict(request.tags), sort_keys=True)} if request.tags else {}
    return {_CLUSTER_NAME: request.cluster.name, **tags}


def service(place: Place, settings: KubernetesSettings, request: LaunchRequest) -> dict[str, Any]:
    """Return the Service of a cluster."""
    kinds = {"load_balancer": "LoadBalancer", "node_port": "NodePort", None: "ClusterIP"}
    kind = kinds[settings.direct]
    spec: dict[str, Any] = {
        "type": kind,
        "selector": {CLUSTER: request.cluster.id, ROLE: NodeRole.SCHEDULER.value},
        "ports": [{"name": "scheduler", "port": SCHEDULER_PORT, "targetPort": SCHEDULER_PORT, "protocol": "TCP"}],
        # Workers wait for their scheduler by connecting again and again: it must have a name before it is ready.
        "publishNotReadyAddresses": True,
    }
    if kind == "LoadBalancer" and settings.allow_ingress_from:
        spec["loadBalancerSourceRanges"] = list(settings.allow_ingress_from)
    metadata = {
        "name": service_name(request.cluster.id),
        "labels": labels(place, request.cluster),
        "annotations": {**settings.service_annotations, **notes(request)},
    }
    return {"apiVersion": "v1", "kind": "Service", "metadata": metadata, "spec": spec}


@cache
def _programs() -> dict[str, str]:
    return {"main.py": PROGRAM.read_text("utf-8"), "boot.py": BOOT.read_text("utf-8")}


def role_config(node: NodeLaunch, cluster: str, namespace: str) -> str:
    """Return the configuration of nodes like *node* as JSON: without its name, so that all workers share one Secret."""
    config = {key: value for key, value in node.config.items() if key != "node"}
    config["port"] = SCHEDULER_PORT if node.role is NodeRole.SCHEDULER else 0
    if node.role is NodeRole.SCHEDULER:
        config["contact"] = internal_address(cluster, namespace)
    else:
        config["scheduler"] = internal_address(cluster, namespace)
    return json.dumps({"config": config, "environ": dict(node.environ)}, sort_keys=True)


def secret(place: Place, request: LaunchRequest, config: str, owner: Owner) -> dict[str, Any]:
    """Return the Secret of nodes with one configuration, named by its content: it never has to be read or changed."""
    content = {**_programs(), "node.json": config}
    digest = hashlib.sha256(json.dumps([content, owner.uid], sort_keys=True).encode()).hexdigest()[:10]
    metadata = {
        "name": f"{service_name(request.cluster.id)}-{digest}",
        "labels": labels(place, request.cluster),
        "ownerReferences": [owner.reference()],
    }
    # `immutable` spares kubelets a watch for each; API servers before 1.21 without the feature drop the field.
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "type": "Opaque",
        "immutable": True,
        "metadata": metadata,
        "stringData": content,
    }


@dataclass(frozen=True, slots=True)
class PodMaker:
    """Makes the pods of one launch."""

    place: Place
    settings: KubernetesSettings
    request: LaunchRequest
    image: str
    owner: Owner

    def pod(self, node: NodeLaunch, secret_name: str, options: PodOptions) -> dict[str, Any]:
        """Return the pod of one node; its name is the node's."""
        metadata = {
            "name": node.name,
            "labels": {**options.labels, **labels(self.place, self.request.cluster, node.role.value)},
            "annotations": {**options.annotations, **notes(self.request)},
            "ownerReferences": [self.owner.reference()],
        }
        return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": self._spec(node, secret_name, options)}

    def _spec(self, node: NodeLaunch, secret_name: str, options: PodOptions) -> dict[str, Any]:
        pull = dict.fromkeys([*self.settings.image_pull_secrets, *options.image_pull_secrets])
        spec: dict[str, Any] = {
            "restartPolicy": "Never",
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "terminationGracePeriodSeconds": GRACE_SECONDS,
            "securityContext": self._pod_security(),
            "imagePullSecrets": [{"name": name} for name in pull],
            "nodeSelector": dict(options.node_selector),
            "tolerations": _tolerations(options),
            "topologySpreadConstraints": [_spread(self.request.cluster.id)],
            "containers": [self._container(node, options)],
            "volumes": _volumes(secret_name, options),
        }
        if options.affinity:
            spec["affinity"] = options.affinity
        if options.priority_class:
            spec["priorityClassName"] = options.priority_class
        if options.runtime_class:
            spec["runtimeClassName"] = options.runtime_class
        return spec

    def _pod_security(self) -> dict[str, Any]:
        user = self.settings.run_as_user
        own = {} if user is None else {"runAsUser": user, "runAsGroup": user, "fsGroup": user}
        return {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}, **own}

    def _container(self, node: NodeLaunch, options: PodOptions) -> dict[str, Any]:
        # Requests equal limits: a pod of the class "Guaranteed" is the last to be evicted.
        size = {"cpu": _cpu(node.shape.cpu), "memory": str(node.shape.memory)}
        return {
            "name": node.role.value,
            "image": self.image,
            "command": ["python", f"{MOUNT_ROOT}/program/boot.py"],
            "env": _env(options),
            "envFrom": [{"secretRef": {"name": name}} for name in options.env_from_secrets],
            "ports": _ports(node.role),
            "resources": {"requests": size, "limits": size},
            "securityContext": {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}},
            "volumeMounts": _mounts(options),
        }


def _cpu(cores: float) -> str:
    return f"{max(1, round(cores * 1000))}m"


def _ports(role: NodeRole) -> list[dict[str, Any]]:
    if role is not NodeRole.SCHEDULER:
        return []
    return [{"name": "scheduler", "containerPort": SCHEDULER_PORT, "protocol": "TCP"}]


def _env(options: PodOptions) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "ROPEWALK_NODE", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "ROPEWALK_POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}},
        {"name": "ROPEWALK_WORK", "value": f"{MOUNT_ROOT}/work"},
        # The user of a restricted pod has no entry in the image's passwd, so no home either.
        {"name": "HOME", "value": f"{MOUNT_ROOT}/work"},
        {"name": "PYTHONUNBUFFERED", "value": "1"},
    ]
    for name, key in options.env.items():
        found.append({"name": name, "valueFrom": {"secretKeyRef": {"name": key.secret, "key": key.key}}})
    return found


def _tolerations(options: PodOptions) -> list[dict[str, Any]]:
    lost = [
        {
            "key": f"node.kubernetes.io/{key}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": LOST_NODE_SECONDS,
        }
        for key in ("not-ready", "unreachable")
    ]
    return [*(toleration.model_dump(exclude_none=True) for toleration in options.tolerations), *lost]


def _spread(cluster: str) -> dict[str, Any]:
    return {
        "maxSkew": 1,
        "topologyKey": "topology.kubernetes.io/zone",
        "whenUnsatisfiable": "ScheduleAnyway",
        "labelSelector": {"matchLabels": {CLUSTER: cluster}},
    }


def _volumes(secret_name: str, options: PodOptions) -> list[dict[str, Any]]:
    # Readable for the pod's group, which is its user's: root owns what a Secret holds.
    own = [
        {"name": "program", "secret": {"secretName": secret_name, "defaultMode": 0o440}},
        {"name": "work", "emptyDir": {}},
    ]
    return [*own, *({"name": f"user-{i}", **volume.source()} for i, volume in enumerate(options.volumes))]


def _mounts(options: PodOptions) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [
        {"name": "program", "mountPath": f"{MOUNT_ROOT}/program", "readOnly": True},
        {"name": "work", "mountPath": f"{MOUNT_ROOT}/work"},
    ]
    for i, volume in enumerate(options.volumes):
        read_only = volume.read_only and volume.empty_dir is None
        mount = {"name": f"user-{i}", "mountPath": volume.mount_path, "readOnly": read_only}
        found.append(mount | ({"subPath": volume.sub_path} if volume.sub_path else {}))
    return found


def handle_of(pod: Mapping[str, Any]) -> NodeHandle | None:
    """Return the node that a pod is; None: it is none."""
    metadata = pod.get("metadata") or {}
    found = metadata.get("labels") or {}
    if found.get(ROLE) not in set(NodeRole) or CLUSTER not in found:
        return None
    return NodeHandle(metadata["name"], found[CLUSTER], NodeRole(found[ROLE]), metadata.get("uid"))


def is_ours(thing: Mapping[str, Any], place: Place, cluster: str) -> bool:
    """Return whether an object is of this cloud account and cluster, by its labels."""
    found: Mapping[str, str] = (thing.get("metadata") or {}).get("labels") or {}
    wanted: Sequence[tuple[str, str]] = (
        (INSTALLATION, place.installation),
        (CLOUD_ACCOUNT, place.cloud_account),
        (CLUSTER, cluster),
    )
    return all(found.get(key) == value for key, value in wanted)
