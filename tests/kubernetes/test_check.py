"""The check finds what would break, and leaves nothing behind."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from ropewalk.backends.kubernetes import probe
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.kubernetes.check import _expiry
from ropewalk.errors import FixItError
from ropewalk.schemas.cloud_accounts import CheckItem, CheckStatus
from ropewalk.schemas.kubernetes import KubernetesCredentials
from ropewalk.schemas.kubernetes_permissions import PERMISSIONS
from tests.support.kube_plane import Plane
from tests.support.kube_proxy import Proxy
from tests.support.kube_space import IMAGE, Space
from tests.support.waiting import eventually


async def check(backend: KubernetesBackend) -> dict[str, CheckItem]:
    report = await backend.check()
    await backend.close()
    return {item.name: item for item in report.items}


def role(space: Space) -> str:
    return f"/apis/rbac.authorization.k8s.io/v1/namespaces/{space.namespace}/roles/ropewalk"


async def test_of_a_namespace_that_is_prepared_is_good_and_leaves_nothing(space: Space) -> None:
    before = {kind: space.names(kind) for kind in ("pods", "services", "secrets", "configmaps")}
    items = await check(space.backend())
    assert {item.status for name, item in items.items() if name != "credentials"} == {CheckStatus.OK}
    assert "v1.20.2" in items["API server"].message
    assert "gateway" in items["reach"].message
    assert "A stream through the API server to a pod works" in items["reach"].message
    assert {kind: space.names(kind) for kind in before} == before


async def test_names_each_permission_that_is_missing_and_what_breaks(space: Space, plane: Plane) -> None:
    found = plane.get(role(space))
    for rule in found["rules"]:
        if rule["resources"] == ["pods"]:
            rule["verbs"] = ["create", "get", "list", "watch"]
    found["rules"] = [rule for rule in found["rules"] if rule["resources"] != ["limitranges"]]
    plane.ask("PUT", role(space), json=found)
    backend = space.backend()

    async def noticed() -> bool:
        return not await backend._api.review("delete", "pods")

    await eventually(noticed)
    items = await check(backend)
    assert items["delete pods"].status is CheckStatus.FAILED
    assert "nodes cannot be stopped" in items["delete pods"].message
    assert items["list limitranges"].status is CheckStatus.WARNING
    assert items["create pods"].status is CheckStatus.OK


async def test_asks_for_every_permission_of_the_table(space: Space) -> None:
    items = await check(space.backend())
    assert {f"{p.verb} {p.resource}" for p in PERMISSIONS} <= set(items)


async def test_tells_of_quota_and_limit_ranges(spaces: Callable[..., Space], plane: Plane) -> None:
    space = spaces(quota={"requests.cpu": "100"})
    limits = {"limits": [{"type": "Container", "max": {"memory": "64Gi"}}]}
    meta = {"name": "limits", "namespace": space.namespace}
    plane.apply([{"apiVersion": "v1", "kind": "LimitRange", "metadata": meta, "spec": limits}])
    path = space.path("resourcequotas", "ropewalk")
    await eventually(lambda: "hard" in plane.get(path).get("status", {}))
    items = await check(space.backend(image=None))  # whose pod would use some of it
    assert "requests.cpu: 0 of 100" in items["resource quota"].message
    assert "Container max memory 64Gi" in items["limit ranges"].message


async def test_tells_that_pods_are_refused_by_admission(spaces: Callable[..., Space], plane: Plane) -> None:
    space = spaces(quota={"pods": "0"})
    path = space.path("resourcequotas", "ropewalk")
    await eventually(lambda: "hard" in plane.get(path).get("status", {}))
    items = await check(space.backend())
    assert items["pod security"].status is not CheckStatus.OK
    assert "quota" in items["pod security"].message


@pytest.mark.parametrize(
    ("image", "status", "words"),
    [
        ("missing/dask:1", CheckStatus.FAILED, "cannot be pulled"),
        (None, CheckStatus.WARNING, "neither an image nor a registry"),
        ("stuck/dask:1", CheckStatus.UNKNOWN, "did not run within"),
    ],
)
async def test_tells_what_is_wrong_with_the_image(
    space: Space, monkeypatch: pytest.MonkeyPatch, image: str | None, status: CheckStatus, words: str
) -> None:
    if image == "stuck/dask:1":
        monkeypatch.setattr(probe, "WAIT_SECONDS", 2.0)
    items = await check(space.backend(image=image))
    assert items["image"].status is status
    assert words in items["image"].message
    assert space.names("pods") == set()


async def test_asked_again_after_a_crash_removes_what_that_left(space: Space, plane: Plane) -> None:
    settings = space.parsed()[1].model_copy(update={"image": "stuck/dask:1"})
    plane.ask("POST", space.path("pods"), json=probe.pod(settings, "ropewalk-check-cloud-1", {}))
    items = await check(space.backend())
    assert items["image"].status is CheckStatus.OK
    assert space.names("pods") == set()


async def test_tells_that_no_stream_gets_through_to_a_pod(
    space: Space, backend: KubernetesBackend, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(probe, "LISTEN_SECONDS", 2)
    backend._settings = space.parsed()[1].model_copy(update={"image": IMAGE})
    proxy.inject("GET", "/portforward", 403, times=99, body={"message": "no upgrades here"})
    items = await check(backend)
    assert items["image"].status is CheckStatus.OK
    assert items["reach"].status is CheckStatus.FAILED
    assert "did not work" in items["reach"].message
    assert "WebSockets" in (items["reach"].advice or "")
    assert space.names("pods") == set()


async def test_of_an_address_where_nobody_answers_says_so_and_stops(space: Space) -> None:
    backend = space.backend()
    backend._api.server = "https://127.0.0.1:1"
    items = await check(backend)
    assert list(items) == ["API server"]
    assert items["API server"].status is CheckStatus.FAILED
    assert "could not be reached" in items["API server"].message


async def test_preparation_is_nothing_but_the_check(space: Space, plane: Plane) -> None:
    backend = space.backend()
    assert [resource async for resource in backend.prepare()] == []
    await backend.close()
    broken = space.backend(image="missing/dask:1")
    with pytest.raises(FixItError) as caught:
        [resource async for resource in broken.prepare()]
    assert "cannot be pulled" in caught.value.message
    await broken.close()


class TestIdentity:
    async def test_is_the_service_account(self, space: Space) -> None:
        backend = space.backend()
        identity = await backend.identity()
        await backend.close()
        assert identity.name == space.user
        assert identity.owner == f"{space.plane.server}/{space.namespace}"
        assert identity.warning is None

    async def test_warns_of_rights_that_are_not_needed(self, space: Space) -> None:
        backend = space.backend(token="admin-of-the-test-bed")
        identity = await backend.identity()
        await backend.close()
        assert "more than Ropewalk needs" in (identity.warning or "")

    async def test_of_a_wrong_token_names_the_field(self, space: Space) -> None:
        backend = space.backend(token="wrong")
        with pytest.raises(FixItError) as caught:
            await backend.identity()
        await backend.close()
        assert caught.value.field == "kubeconfig"
        assert caught.value.details["credentials"] == "invalid"

    async def test_may_be_proven_by_a_certificate(self, space: Space, plane: Plane) -> None:
        certificate, key = plane.pki.client("somebody", "system:masters")
        backend = space.backend()
        facts: dict[str, Any] = {"client_certificate": certificate, "client_key": key, "token": None}
        authority = plane.pki.path("ca.crt").read_text()
        backend._api._credentials = KubernetesCredentials(server=plane.server, certificate_authority=authority, **facts)
        assert await backend._api.review("*", "*")
        await backend.close()

    async def test_by_a_key_of_another_certificate_is_told(self, space: Space, plane: Plane) -> None:
        certificate, _ = plane.pki.client("somebody", "x")
        _, key = plane.pki.client("somebody", "x")
        backend = space.backend()
        backend._api._credentials = KubernetesCredentials(
            server=plane.server, client_certificate=certificate, client_key=key, token=None
        )
        with pytest.raises(FixItError) as caught:
            await backend._api.review("*", "*")
        await backend.close()
        assert caught.value.field == "kubeconfig"
        assert "BEGIN" not in str(caught.value)


def test_a_token_that_says_nothing_of_its_end_is_taken_as_it_is() -> None:
    opaque = KubernetesCredentials(server="https://x", token="a.b")
    assert _expiry(opaque).status is CheckStatus.OK
