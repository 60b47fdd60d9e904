"""A real Kubernetes control plane on loopback: etcd, API server, controller manager, scheduler.

``scripts/kubernetes-test-bed`` builds its programs. RBAC is on, and the audit log tells every request that was made.
"""

from __future__ import annotations

import base64
import contextlib
import json
import os
import shutil
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.support.kube_certificates import Pki
from tests.support.ports import Ports
from tests.support.waiting import PATIENCE, wait_until

ROOT = Path(__file__).parents[2]
PROGRAMS = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "ropewalk-tests/kubernetes-1.20.2/bin"
ADMIN_TOKEN = "admin-of-the-test-bed"
OPERATOR_TOKEN = "operator-of-the-test-bed"
"""May do everything, as the administrator; but what it asks is in the audit log."""
POLICY = {
    "apiVersion": "audit.k8s.io/v1",
    "kind": "Policy",
    "omitStages": ["RequestReceived", "ResponseStarted"],
    "rules": [{"level": "None", "users": ["admin", "system:apiserver"]}, {"level": "Metadata"}],
}


@dataclass
class Plane:
    """A running control plane; everything of it is below ``home``."""

    home: Path
    held: Ports = field(default_factory=lambda: Ports(4))
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    nodes: int = 2
    extra: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.pki = Pki(self.home)
        self.ports = self.held.numbers
        self.server = f"https://127.0.0.1:{self.ports[0]}"
        self.admin = httpx.Client(
            base_url=self.server,
            headers={"Authorization": f"Bearer {ADMIN_TOKEN}"},
            verify=ssl.create_default_context(cafile=self.pki.path("ca.crt")),
            timeout=PATIENCE,
            trust_env=False,
        )

    # Its life.

    def start(self) -> None:
        users = ((ADMIN_TOKEN, "admin"), (OPERATOR_TOKEN, "operator"))
        lines = [f'{token},{name},{name},"system:masters"\n' for token, name in users]
        (self.home / "tokens.csv").write_text("".join(lines))
        (self.home / "audit.json").write_text(json.dumps(POLICY))
        self._kubeconfig()
        client, peer = (f"http://127.0.0.1:{port}" for port in self.ports[1:3])
        self.run(
            "etcd",
            f"--data-dir={self.home}/etcd",
            *(f"--listen-client-urls={client}", f"--advertise-client-urls={client}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}"),
            *(f"--initial-cluster=default={peer}", "--unsafe-no-fsync"),
        )
        self.start_api()
        common = (f"--kubeconfig={self.home}/admin.conf", "--leader-elect=false", "--port=0", "--secure-port=0")
        self.run(
            "kube-controller-manager",
            *common,
            f"--service-account-private-key-file={self.pki.path('sa.key')}",
            f"--root-ca-file={self.pki.path('ca.crt')}",
            "--controllers=*,-nodeipam,-cronjob,-csrsigning",
            *("--node-monitor-period=1s", "--node-monitor-grace-period=12s", "--concurrent-gc-syncs=20"),
            *("--kube-api-qps=200", "--kube-api-burst=400"),
        )
        self.run("kube-scheduler", *common, "--kube-api-qps=500", "--kube-api-burst=1000")

    def start_api(self) -> None:
        path = self.pki.path
        self.run(
            "kube-apiserver",
            f"--etcd-servers=http://127.0.0.1:{self.ports[1]}",
            *("--bind-address=127.0.0.1", "--advertise-address=127.0.0.1", "--endpoint-reconciler-type=none"),
            *(f"--secure-port={self.ports[0]}", "--insecure-port=0"),
            f"--tls-cert-file={path('server.crt')}",
            f"--tls-private-key-file={path('server.key')}",
            f"--client-ca-file={path('ca.crt')}",
            f"--token-auth-file={self.home}/tokens.csv",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={path('sa.pub')}",
            f"--service-account-signing-key-file={path('sa.key')}",
            *("--service-account-issuer=https://kubernetes.test", "--api-audiences=https://kubernetes.test"),
            *("--service-cluster-ip-range=10.96.0.0/16", "--kubelet-preferred-address-types=InternalIP"),
            f"--audit-policy-file={self.home}/audit.json",
            f"--audit-log-path={self.home}/audit.log",
            *self.extra.get("kube-apiserver", ()),
        )
        wait_until(self._up, within=90, every=0.1)

    def _up(self) -> bool:
        process = self.processes["kube-apiserver"]
        assert process.poll() is None, (self.home / "kube-apiserver.log").read_text()[-2000:]
        try:
            return self.admin.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def run(self, name: str, *arguments: str, command: Sequence[str] | None = None) -> None:
        log = (self.home / f"{name}.log").open("ab")
        with log:
            self.processes[name] = subprocess.Popen(
                [*(command or [str(PROGRAMS / name)]), *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                cwd=ROOT,
            )

    def end(self, name: str, *, kill: bool = False) -> None:
        process = self.processes.pop(name)
        process.kill() if kill else process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def stop(self) -> None:
        for name in reversed(list(self.processes)):
            self.end(name, kill=name != "agent")
        self.admin.close()
        self.held.close()

    def start_agent(self, *, mark_only: bool = False, nodes: int = 2) -> None:
        settings = {
            "server": self.server,
            "ca": str(self.pki.path("ca.crt")),
            "token": ADMIN_TOKEN,
            "certificate": str(self.pki.path("server.crt")),
            "key": str(self.pki.path("server.key")),
            "port": self.ports[3],
            "home": str(self.home / "agent"),
            "nodes": nodes,
            "mark_only": mark_only,
        }
        (self.home / "agent.json").write_text(json.dumps(settings))
        self.run("agent", str(self.home / "agent.json"), command=[sys.executable, "-m", "tests.support.kube_agent"])
        wait_until(lambda: self._nodes_ready() >= nodes)

    def _nodes_ready(self) -> int:
        assert self.processes["agent"].poll() is None, (self.home / "agent.log").read_text()[-2000:]
        items = self.get("/api/v1/nodes")["items"]
        conditions = [c for node in items for c in (node.get("status") or {}).get("conditions") or []]
        return sum(c["type"] == "Ready" and c["status"] == "True" for c in conditions)

    def _kubeconfig(self) -> None:
        config = kubeconfig(self.server, self.authority(), ADMIN_TOKEN, "default")
        (self.home / "admin.conf").write_text(json.dumps(config))

    # What tests ask of it, as its administrator.

    def authority(self) -> str:
        """Return its authority as a kubeconfig has it."""
        return base64.b64encode(self.pki.path("ca.crt").read_bytes()).decode()

    def get(self, path: str, **query: str) -> Any:
        return self.ask("GET", path, params=query)

    def ask(self, method: str, path: str, **facts: Any) -> Any:
        answer = self.admin.request(method, path, **facts)
        assert answer.status_code < 300, f"{method} {path}: {answer.status_code} {answer.text[:500]}"
        return answer.json()

    def apply(self, manifests: Sequence[Mapping[str, Any]]) -> None:
        """Create objects that do not exist yet."""
        kinds = {"NetworkPolicy": "networkpolicies", "ResourceQuota": "resourcequotas"}
        for each in manifests:
            version, kind = each["apiVersion"], each["kind"]
            plural = kinds.get(kind, kind.lower() + "s")
            base = f"/api/{version}" if version == "v1" else f"/apis/{version}"
            space = each["metadata"].get("namespace")
            path = f"{base}/namespaces/{space}/{plural}" if space else f"{base}/{plural}"
            self.ask("POST", path, json=each)

    def token(self, namespace: str, service_account: str) -> str:
        path = f"/api/v1/namespaces/{namespace}/serviceaccounts/{service_account}/token"
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 7200}}
        return str(self.ask("POST", path, json=body)["status"]["token"])

    def audit(self, user: str) -> list[dict[str, Any]]:
        """Return what a user asked of the API server, as its audit log has it."""
        file = self.home / "audit.log"
        lines = file.read_text().splitlines(keepends=True) if file.exists() else []
        events = [
            json.loads(line) for line in lines if user in line and line.endswith("\n")
        ]  # the last is being written
        return [event for event in events if event["user"]["username"] == user]

    def agent(self, method: str, path: str, **query: Any) -> Any:
        """Ask the node agent to do something to a pod."""
        url = f"https://127.0.0.1:{self.ports[3]}{path}"
        answer = self.admin.request(method, url, params=query)
        assert answer.status_code == 200, answer.text
        return answer.json()


def kubeconfig(server: str, authority: str, token: str, namespace: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "clusters": [{"name": "test", "cluster": {"server": server, "certificate-authority-data": authority}}],
        "users": [{"name": "test", "user": {"token": token}}],
    }


def require_programs() -> None:
    """Skip the test where the control plane was not built."""
    names = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "etcd")
    if not all((PROGRAMS / name).exists() for name in names):
        pytest.skip("Kubernetes is not built here; scripts/kubernetes-test-bed builds it, in some 6 minutes")
    if os.geteuid() != 0:
        pytest.skip("the node agent of the Kubernetes tests needs root for its mounts")


@contextlib.contextmanager
def plane(*, mark_only: bool = False, nodes: int = 2, **facts: Any) -> Iterator[Plane]:
    """Run a control plane with a node agent."""
    require_programs()
    home = Path(tempfile.mkdtemp(prefix="rw-kube-"))
    made = Plane(home, **facts)
    try:
        made.start()
        made.start_agent(mark_only=mark_only, nodes=nodes)
        yield made
    finally:
        made.stop()
        shutil.rmtree(home, ignore_errors=True)


def until_gone(made: Plane, path: str, within: float = 60) -> None:
    """Wait until there is nothing at *path*."""
    wait_until(lambda: made.admin.get(path).status_code == 404, within=within, every=0.1)
