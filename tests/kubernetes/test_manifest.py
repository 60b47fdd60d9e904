"""What is printed for a namespace is enough for everything, and nothing of it is superfluous."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ropewalk.backends.kubernetes.kubeconfig import parse_kubeconfig
from ropewalk.backends.port import Answer
from ropewalk.schemas.kubernetes_manifest import manifest
from ropewalk.schemas.kubernetes_permissions import PERMISSIONS, needed_for, rules
from tests.conformance import harness as conformance
from tests.kubernetes.nodes import handle, until
from tests.support.kube_plane import ADMIN_TOKEN, Plane, kubeconfig
from tests.support.kube_space import Space
from tests.support.waiting import eventually

ON_LATER_VERSIONS = {("create", "pods/portforward")}
"""Asked for by Kubernetes 1.35 and later."""


def permissions_used(space: Space) -> set[tuple[str, str]]:
    used = set()
    for event in space.requests():
        reference = event.get("objectRef")
        if reference is None or reference["resource"] == "selfsubjectaccessreviews":
            continue
        assert reference.get("namespace") == space.namespace, event["requestURI"]
        sub = reference.get("subresource")
        used.add((event["verb"], reference["resource"] + (f"/{sub}" if sub else "")))
    return used


async def test_a_whole_life_uses_every_permission_and_no_other_and_never_leaves_the_namespace(
    spaces: Callable[..., Space], tmp_path: Path
) -> None:
    space = spaces(installation=conformance.INSTALLATION)
    backend = space.backend(tmp_path)
    await backend.identity()
    assert (await backend.check()).ok
    await backend.launch(conformance.request("s", "w1"))
    second = space.backend(tmp_path)
    await second.launch(conformance.request("s"))  # asked again by another server: it looks what is there
    await second.close()

    async def connected() -> bool:
        try:
            _, writer = await backend.connect(conformance.handle("s"), "")
        except Exception:  # noqa: BLE001 - it starts
            return False
        writer.close()
        await writer.wait_closed()
        return True

    await eventually(connected, within=90)
    await backend.logs(handle("s"))
    await backend.inventory()
    await backend.launch(conformance.request("stuck", cluster="c2"))
    await backend.stop([handle("s"), handle("w1"), handle("stuck", "c2")])
    await until(backend, "s", Answer.GONE)
    await until(backend, "w1", Answer.GONE)
    await eventually(lambda: not any(name.startswith("ropewalk-c") for name in space.names("services")))
    await backend.close()
    lost = space.backend()  # knows nothing of these, and asks
    await lost.observe([handle("never")])
    await lost._api.call("list", "events")
    await lost.close()
    allowed = {(permission.verb, permission.resource) for permission in PERMISSIONS}
    # What went on, as a watch does, is written down some time after its end.
    await eventually(lambda: permissions_used(space) >= allowed - ON_LATER_VERSIONS)
    assert permissions_used(space) == allowed - ON_LATER_VERSIONS
    assert {event["responseStatus"]["code"] for event in space.requests()}.isdisjoint({401, 403})


def test_the_role_is_the_table() -> None:
    listed = {(verb, resource) for rule in rules() for resource in rule["resources"] for verb in rule["verbs"]}
    assert listed == {(permission.verb, permission.resource) for permission in PERMISSIONS}


def test_nothing_is_cluster_wide() -> None:
    for each in manifest("team", network_policy=True, quota={"pods": "10"}):
        assert each["kind"] == "Namespace" or each["metadata"]["namespace"] == "team"
        assert "Cluster" not in each["kind"]
        assert "*" not in json.dumps(each)


def test_no_secret_can_be_read() -> None:
    assert [verb for verb, resource in ((p.verb, p.resource) for p in PERMISSIONS) if resource == "secrets"] == [
        "create"
    ]


def test_every_permission_says_what_breaks_without_it() -> None:
    assert all("without that" in needed_for(p.verb, p.resource) for p in PERMISSIONS)
    assert "not among" in needed_for("delete", "nodes")


def test_all_of_it_is_accepted_by_an_api_server(plane: Plane) -> None:
    space = Space(plane, network_policy=True, quota={"requests.cpu": "100"})
    assert plane.get(f"/apis/networking.k8s.io/v1/namespaces/{space.namespace}/networkpolicies")["items"]
    assert plane.get(space.path("resourcequotas"))["items"]
    space.remove()


class TestCommands:
    @pytest.fixture
    def environ(self, plane: Plane, tmp_path: Path) -> dict[str, str]:
        """An administrator of the Kubernetes cluster, with kubectl."""
        authority = base64.b64encode(plane.pki.path("ca.crt").read_bytes()).decode()
        (tmp_path / "admin").write_text(json.dumps(kubeconfig(plane.server, authority, ADMIN_TOKEN, "default")))
        return {**os.environ, "KUBECONFIG": str(tmp_path / "admin")}

    def run(self, environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [str(Path(sys.executable).with_name("ropewalk")), "kubernetes", *arguments]
        return subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=120)

    def test_print_a_manifest_that_kubectl_applies(self, environ: dict[str, str]) -> None:
        printed = self.run(environ, "manifest", "-n", "by-hand", "--network-policy", "--quota", "pods=50")
        assert printed.returncode == 0, printed.stderr
        kinds = [each["kind"] for each in yaml.safe_load_all(printed.stdout)]
        assert kinds == [
            *("Namespace", "ServiceAccount", "Role", "RoleBinding"),
            *("NetworkPolicy", "NetworkPolicy", "ResourceQuota"),
        ]
        applied = subprocess.run(
            ["kubectl", "apply", "-f", "-"],
            env=environ,
            input=printed.stdout,
            capture_output=True,
            text=True,
            check=False,
        )
        assert applied.returncode == 0, applied.stderr

    def test_refuse_a_limit_that_is_none(self, environ: dict[str, str]) -> None:
        printed = self.run(environ, "manifest", "--quota", "pods")
        assert printed.returncode == 2
        assert "requests.cpu=100" in printed.stderr

    @pytest.mark.parametrize("days", [None, 1])
    async def test_make_a_kubeconfig_that_works_and_say_until_when(
        self, environ: dict[str, str], space: Space, tmp_path: Path, days: int | None
    ) -> None:
        limit = () if days is None else ("--days", str(days))
        file = tmp_path / "limited"
        made = self.run(environ, "kubeconfig", "-n", space.namespace, "-o", str(file), *limit)
        assert made.returncode == 0, made.stderr
        assert made.stdout == ""
        assert oct(file.stat().st_mode & 0o777) == "0o600"
        assert ("does not expire" if days is None else "is valid until 20") in made.stderr
        credentials, settings = parse_kubeconfig(file.read_text())
        assert settings.namespace == space.namespace
        assert credentials.token is not None
        assert credentials.token.get_secret_value() not in made.stderr
        backend = space.backend(token=credentials.token.get_secret_value())
        assert (await backend.identity()).name == space.user
        await backend.close()

    def test_say_what_to_apply_first(self, environ: dict[str, str]) -> None:
        made = self.run(environ, "kubeconfig", "-n", "nowhere")
        assert made.returncode == 4
        assert "ropewalk kubernetes manifest" in made.stderr

    def test_say_that_kubectl_is_missing(self, environ: dict[str, str]) -> None:
        made = self.run({**environ, "PATH": "/nonexistent"}, "kubeconfig")
        assert made.returncode == 6
        assert "kubectl was not found" in made.stderr

    def test_say_who_may_when_one_may_not(self, environ: dict[str, str], plane: Plane, tmp_path: Path) -> None:
        space = Space(plane)
        (tmp_path / "limited").write_text(space.kubeconfig())
        made = self.run({**environ, "KUBECONFIG": str(tmp_path / "limited")}, "kubeconfig", "-n", space.namespace)
        assert made.returncode == 3
        assert "administers the namespace" in made.stderr
        space.remove()
