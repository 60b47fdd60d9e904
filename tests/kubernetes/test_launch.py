"""What is made for a cluster, on a real API."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.backends.kubernetes.refusals import Call, refusal
from ropewalk.backends.port import Answer, NodeShape
from ropewalk.errors import FixItError, TryAgainError
from tests.kubernetes.nodes import SHAPE, handle, reason, request, seen, until
from tests.support.kube_plane import ADMIN_TOKEN, Plane, until_gone
from tests.support.kube_space import Space
from tests.support.waiting import eventually, wait_until


def spec(space: Space, name: str) -> Any:
    return space.pod(name)["spec"]


class TestObjects:
    async def test_are_one_service_a_secret_for_each_role_and_the_pods(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", "w1", "w2"))
        await backend.close()
        assert space.names("services") == {"ropewalk-c1"}
        assert sum(name.startswith("ropewalk-c1-") for name in space.names("secrets")) == 2
        assert space.names("pods") == {"s", "w1", "w2"}
        made = [event for event in space.requests() if event["verb"] == "create"]
        assert len(made) == 1 + 2 + 3

    async def test_go_with_the_service_although_ropewalk_is_dead(self, space: Space, plane: Plane) -> None:
        backend = space.backend()
        await backend.launch(request("s", "w1"))
        await backend.close()
        plane.ask("DELETE", space.path("services", "ropewalk-c1"))
        for name in ("s", "w1"):
            until_gone(plane, space.path("pods", name))
        await eventually(lambda: not any(n.startswith("ropewalk-c1") for n in space.names("secrets")))

    async def test_of_more_workers_are_only_their_pods(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", "w1"))
        before = space.names("secrets")
        await backend.launch(request("w2", scheduler="tls://x:8786"))
        assert space.names("secrets") == before
        assert spec(space, "w2")["volumes"] == spec(space, "w1")["volumes"]
        await backend.close()

    async def test_carry_labels_that_kubectl_users_expect(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", tags={"project": "x y"}))
        await backend.close()
        meta = space.pod("s")["metadata"]
        expected = {
            "app.kubernetes.io/name": "dask",
            "app.kubernetes.io/instance": "c1",
            "app.kubernetes.io/component": "scheduler",
            "app.kubernetes.io/managed-by": "ropewalk",
            "app.kubernetes.io/part-of": "ropewalk",
            "ropewalk.dev/cluster": "c1",
            "ropewalk.dev/account": "team",
            "ropewalk.dev/role": "scheduler",
        }
        assert expected.items() <= meta["labels"].items()
        assert meta["annotations"]["ropewalk.dev/cluster-name"] == "name-of-c1"
        assert json.loads(meta["annotations"]["ropewalk.dev/tags"]) == {"project": "x y"}

    async def test_a_secret_holds_the_program_and_keys_and_a_pod_does_not(self, space: Space, plane: Plane) -> None:
        backend = space.backend()
        await backend.launch(request("s"))
        await backend.close()
        (volume,) = (v for v in spec(space, "s")["volumes"] if "secret" in v)
        data = plane.get(space.path("secrets", volume["secret"]["secretName"]))["data"]
        assert set(data) == {"main.py", "boot.py", "node.json"}
        assert "PRIVATE" in base64.b64decode(data["node.json"]).decode()
        assert "PRIVATE" not in json.dumps(space.pod("s"))


class TestPods:
    async def test_meet_the_restricted_level_of_pod_security(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", "w1"))
        await backend.close()
        for name in ("s", "w1"):
            pod = spec(space, name)
            assert pod["automountServiceAccountToken"] is False
            assert not any("token" in volume["name"] for volume in pod["volumes"])
            assert pod["securityContext"]["runAsNonRoot"] is True
            assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
            (container,) = pod["containers"]
            assert container["securityContext"]["allowPrivilegeEscalation"] is False
            assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
            allowed = {"configMap", "emptyDir", "secret", "persistentVolumeClaim"}
            assert all(set(volume) - {"name"} <= allowed for volume in pod["volumes"])
            assert not any(pod.get(key) for key in ("hostNetwork", "hostPID", "hostIPC"))

    async def test_request_what_they_may_use(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", shape=NodeShape(0.5, 3 * 2**28)))
        await backend.close()
        resources = spec(space, "s")["containers"][0]["resources"]
        assert resources["requests"] == resources["limits"]
        assert resources["limits"]["cpu"] == "500m"
        assert space.pod("s")["status"]["qosClass"] == "Guaranteed"

    async def test_are_spread_over_zones(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", *(f"w{i}" for i in range(7))))
        await backend.close()

        def zones() -> dict[str, int] | None:
            nodes = [p["spec"].get("nodeName") for p in space.plane.get(space.path("pods"))["items"]]
            return {node: nodes.count(node) for node in set(nodes)} if all(nodes) else None

        assert await eventually(zones) == {"node-0": 4, "node-1": 4}

    async def test_follow_a_users_template(self, space: Space) -> None:
        options = {
            "node_selector": {"pool": "dask"},
            "tolerations": [{"key": "dask", "operator": "Exists", "effect": "NoSchedule"}],
            "affinity": {"podAntiAffinity": {}},
            "image_pull_secrets": ["registry"],
            "env_from_secrets": ["settings"],
            "env": {"PASSWORD": {"secret": "db", "key": "password"}},
            "volumes": [
                {"mount_path": "/data", "persistent_volume_claim": "data", "sub_path": "x"},
                {"mount_path": "/scratch", "empty_dir": "1Gi"},
            ],
            "annotations": {"example.org/a": "b"},
            "worker": {"labels": {"tier": "batch"}},
        }
        backend = space.backend(image_pull_secrets=["account-registry"])
        await backend.launch(request("s", "w1", options=options))
        await backend.close()
        pod, container = spec(space, "w1"), spec(space, "w1")["containers"][0]
        assert pod["nodeSelector"] == {"pool": "dask"}
        assert {"key": "dask", "operator": "Exists", "effect": "NoSchedule"} in pod["tolerations"]
        assert [each["name"] for each in pod["imagePullSecrets"]] == ["account-registry", "registry"]
        assert container["envFrom"] == [{"secretRef": {"name": "settings"}}]
        assert {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "db", "key": "password"}}} in container[
            "env"
        ]
        mounts = {mount["mountPath"]: mount for mount in container["volumeMounts"]}
        assert mounts["/data"]["readOnly"] is True
        assert mounts["/data"]["subPath"] == "x"
        assert "readOnly" not in mounts["/scratch"]
        assert space.pod("w1")["metadata"]["labels"]["tier"] == "batch"
        assert "tier" not in space.pod("s")["metadata"]["labels"]

    async def test_use_the_clusters_image_before_the_accounts(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", image="mine:2"))
        await backend.close()
        assert spec(space, "s")["containers"][0]["image"] == "mine:2"


class TestRefusals:
    async def test_without_any_image_nothing_is_made(self, space: Space) -> None:
        backend = space.backend(image=None)
        with pytest.raises(FixItError) as caught:
            await backend.launch(request("s"))
        await backend.close()
        assert caught.value.field == "container"
        assert space.names("services") == set()

    async def test_of_the_api_name_what_it_did_not_like(self, space: Space) -> None:
        backend = space.backend()
        options = {
            "affinity": {"nodeAffinity": {"no_such_thing": 1, "preferredDuringSchedulingIgnoredDuringExecution": 3}}
        }
        (result,) = await backend.launch(request("s", options=options))
        await backend.close()
        assert isinstance(result.error, FixItError)

    async def test_a_used_up_quota_is_tried_again_and_says_which(self, spaces: Callable[..., Space]) -> None:
        space = spaces(quota={"pods": "2"})
        backend = space.backend()
        await eventually(space.takes)  # until its status is known, no pod is taken
        results = await backend.launch(request("s", "w1", "w2", "w3"))
        errors = [result.error for result in results if result.error is not None]
        assert len(errors) == 2
        for error in errors:
            assert isinstance(error, TryAgainError)
            assert error.delay >= 10
            assert "pods=2" in error.message
            assert "describe resourcequota" in (error.advice or "")
        await backend.close()

    def test_a_quota_of_what_pods_do_not_name_says_who_can_name_it(self, plane: Plane) -> None:
        """Our pods name processors and memory; where something changes pods on the way, they may not."""
        space = Space(plane, quota={"limits.cpu": "10"})
        pod = {"metadata": {"name": "bare"}, "spec": {"containers": [{"name": "bare", "image": "none"}]}}

        def refused() -> bytes:
            answer = plane.admin.request("POST", space.path("pods"), params={"dryRun": "All"}, json=pod)
            return answer.content if b"failed quota" in answer.content else b""

        error = refusal(Call("create", "pods"), 403, wait_until(refused), None, space.namespace)
        assert isinstance(error, FixItError)
        assert "limits.cpu" in error.message
        assert "LimitRange" in (error.advice or "")
        space.remove()

    async def test_a_namespace_that_is_being_deleted_is_told(self, space: Space, plane: Plane) -> None:
        # Its own rights go with the namespace, perhaps before the launch.
        backend = space.backend(token=ADMIN_TOKEN)
        blocker = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "blocker", "namespace": space.namespace, "finalizers": ["example.org/stay"]},
        }
        plane.apply([blocker])
        plane.admin.request("DELETE", f"/api/v1/namespaces/{space.namespace}")
        with pytest.raises(FixItError) as caught:
            await backend.launch(request("s"))
        assert caught.value.field == "namespace"
        assert "is being deleted" in caught.value.message
        await backend.close()
        path = space.path("configmaps", "blocker")
        plane.ask(
            "PATCH",
            path,
            json={"metadata": {"finalizers": None}},
            headers={"Content-Type": "application/merge-patch+json"},
        )

    async def test_a_pod_of_somebody_else_with_the_name_is_left_alone(self, space: Space, plane: Plane) -> None:
        backend = space.backend()
        await backend.launch(request("s", cluster="c2"))
        uid = space.pod("s")["metadata"]["uid"]
        (result,) = await backend.launch(request("s"))
        assert isinstance(result.error, FixItError)
        assert "not of this cluster" in result.error.message
        await backend.stop([handle("s")])
        assert space.pod("s")["metadata"]["uid"] == uid
        await backend.close()

    async def test_workers_of_a_cluster_whose_service_was_deleted_are_refused(self, space: Space, plane: Plane) -> None:
        backend = space.backend()
        with pytest.raises(FixItError) as caught:
            await backend.launch(request("w1", scheduler="tls://x:1"))
        assert "somebody deleted it" in caught.value.message
        await backend.close()


class TestUnknownMachines:
    async def test_a_pod_that_fits_nowhere_says_so(self, space: Space) -> None:
        backend = space.backend()
        await backend.launch(request("s", shape=NodeShape(1, 2**44)))
        sighting = await reason(backend, "s", "No machine has room for it")
        assert sighting.answer is Answer.RUNNING
        assert "Insufficient memory" in (sighting.reason or "")
        await backend.close()

    async def test_an_image_that_is_missing_says_so(self, space: Space) -> None:
        backend = space.backend(image="missing/dask:1")
        await backend.launch(request("s"))
        assert "missing/dask:1" in ((await reason(backend, "s", "cannot be pulled")).reason or "")
        await backend.close()

    async def test_what_only_events_tell_is_asked_for(self, space: Space) -> None:
        backend = space.backend(image="stuck/dask:1")
        await backend.launch(request("s"))
        await reason(backend, "s", "FailedMount")
        await backend.close()


async def test_many_nodes_at_once_cost_one_request_each(space: Space) -> None:
    backend = space.backend(image="stuck/dask:1")
    names = [f"w{i}" for i in range(60)]
    results = await backend.launch(request("s", *names, shape=SHAPE))
    assert all(result.error is None for result in results)
    await asyncio.gather(*(seen(backend, name) for name in names))
    await backend.stop([handle(name) for name in ("s", *names)])
    await until(backend, "s", Answer.GONE)
    await backend.close()
    made = [event for event in space.requests() if event["verb"] == "create"]
    assert len(made) == len(names) + 4
    listed = [
        event for event in space.requests() if event["verb"] in ("list", "watch") and "pods" in event["requestURI"]
    ]
    assert len(listed) <= 2
