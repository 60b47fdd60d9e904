"""dask-kubernetes' operator as the other side of a benchmark, in a virtual environment of its own.

It is installed from PyPI into ``.cache``, once, and runs beside the API server with all rights, as its chart gives it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from tests.support.kube_plane import OPERATOR_TOKEN, Plane, kubeconfig

from benchmarks.program import ended_with_us

CACHE = Path(__file__).parents[1] / ".cache" / "dask-kubernetes"
VERSION = "2026.3.0"
REQUIREMENTS = (f"dask-kubernetes=={VERSION}",)
INSTALL_SECONDS, READY_SECONDS = 600.0, 60.0
NAMESPACE = "operator"
GROUP = "/apis/kubernetes.dask.org/v1/namespaces"
PODS = f"/api/v1/namespaces/{NAMESPACE}/pods"


def environment() -> Path:
    """Return the folder of the virtual environment, made anew when it has not what is required."""
    env, made = CACHE / "env", CACHE / "made.json"
    wanted = json.dumps([sys.version, *REQUIREMENTS])
    if made.exists() and made.read_text() == wanted:
        return env
    CACHE.mkdir(parents=True, exist_ok=True)
    made.unlink(missing_ok=True)
    venv = [sys.executable, "-m", "venv", "--clear", str(env)]
    pip = [str(env / "bin" / "python"), "-m", "pip", "install", "--quiet", *REQUIREMENTS]
    for command in (venv, pip):
        subprocess.run(command, check=True, timeout=INSTALL_SECONDS)  # noqa: S603 - our own command
    made.write_text(wanted)
    return env


@contextmanager
def operator(plane: Plane) -> Iterator[None]:
    """Run the operator for all namespaces, its resource types being there."""
    env = environment()
    (crds,) = env.glob("lib/python*/site-packages/dask_kubernetes/operator/deployment/helm/*/crds")
    for file in sorted(crds.glob("*.yaml")):
        for each in yaml.safe_load_all(file.read_text()):
            plane.ask("POST", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions", json=each)
    # What is not served yet when the operator looks for it may go unseen.
    _until(lambda: plane.admin.get(f"{GROUP}/default/daskworkergroups").is_success, READY_SECONDS)
    _until(lambda: plane.admin.get(f"{GROUP}/default/daskclusters").is_success, READY_SECONDS)
    plane.ask("POST", "/api/v1/namespaces", json={"metadata": {"name": NAMESPACE}})
    config = plane.home / "operator.conf"
    config.write_text(json.dumps(kubeconfig(plane.server, plane.authority(), OPERATOR_TOKEN, NAMESPACE)))
    command = [str(env / "bin" / "kopf"), "run", "-m", "dask_kubernetes.operator.controller", "--all-namespaces"]
    environ = {**os.environ, "KUBECONFIG": str(config)}
    with (plane.home / "operator.log").open("wb") as log:
        process = subprocess.Popen(command, env=environ, stdout=log, stderr=log)  # noqa: S603 - our own command
    with ended_with_us(process):
        _until(lambda: len(plane.audit("operator")) > 5, READY_SECONDS)
        yield


def cluster(name: str, workers: int) -> dict[str, Any]:
    """Return a DaskCluster as the documentation of dask-kubernetes writes it."""
    image = "registry.test/dask:1"
    worker = {"name": "worker", "image": image, "args": ["dask-worker", "--name", "$(DASK_WORKER_NAME)"]}
    scheduler = {
        "name": "scheduler",
        "image": image,
        "args": ["dask-scheduler"],
        "ports": [{"name": "tcp-comm", "containerPort": 8786, "protocol": "TCP"}],
    }
    service = {
        "type": "ClusterIP",
        "selector": {"dask.org/cluster-name": name, "dask.org/component": "scheduler"},
        "ports": [{"name": "tcp-comm", "protocol": "TCP", "port": 8786, "targetPort": "tcp-comm"}],
    }
    return {
        "apiVersion": "kubernetes.dask.org/v1",
        "kind": "DaskCluster",
        "metadata": {"name": name},
        "spec": {
            "worker": {"replicas": workers, "spec": {"containers": [worker]}},
            "scheduler": {"spec": {"containers": [scheduler]}, "service": service},
        },
    }


def once(plane: Plane, name: str, workers: int, seconds: float) -> tuple[float, float]:
    """Return the seconds and requests from nothing to all pods of one cluster running."""
    before = len(plane.audit("operator"))
    version = plane.get(PODS)["metadata"]["resourceVersion"]
    began = time.monotonic()
    plane.ask("POST", f"{GROUP}/{NAMESPACE}/daskclusters", json=cluster(name, workers))
    _wait_running(plane, version, workers + 1, seconds)
    took = time.monotonic() - began
    requests = len(plane.audit("operator")) - before
    plane.ask("DELETE", f"{GROUP}/{NAMESPACE}/daskclusters/{name}")
    _until(lambda: not plane.get(PODS)["items"], seconds)
    return took, requests


def _wait_running(plane: Plane, version: str, wanted: int, seconds: float) -> None:
    """Watch until *wanted* pods run: listing them again and again would slow down what is measured."""
    query = {"watch": "true", "resourceVersion": version, "timeoutSeconds": str(int(seconds))}
    found: set[str] = set()
    with plane.admin.stream("GET", PODS, params=query, timeout=seconds) as answer:
        for line in answer.iter_lines():
            pod = json.loads(line)["object"]
            if pod["status"].get("phase") == "Running":
                found.add(pod["metadata"]["uid"])
            if len(found) == wanted:
                return
    raise RuntimeError(f"Of {wanted} pods {len(found)} ran within {seconds:.0f} seconds.")


def _until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise RuntimeError(f"dask-kubernetes' operator did not get there within {seconds:.0f} seconds.")
        time.sleep(0.2)
