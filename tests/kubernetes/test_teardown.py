"""After everything has ended the namespace is as it was."""

from __future__ import annotations

from pathlib import Path

import pytest

from ropewalk.backends.port import Answer, Resource
from ropewalk.errors import FixItError
from tests.kubernetes.nodes import STUCK, handle, request, until
from tests.support.kube_plane import Plane
from tests.support.kube_space import Space
from tests.support.waiting import eventually

KINDS = ("pods", "services", "secrets", "configmaps", "endpoints", "serviceaccounts", "persistentvolumeclaims")


def contents(space: Space) -> dict[str, set[str]]:
    return {kind: space.names(kind) for kind in KINDS}


async def test_of_a_cluster_leaves_the_namespace_as_it_was(space: Space, tmp_path: Path) -> None:
    await eventually(lambda: len(space.names("secrets")) == 2)  # tokens of service accounts, as 1.20 makes them
    before = contents(space)
    backend = space.backend(tmp_path, image=STUCK)
    await backend.launch(request("s", "w1", "w2"))
    await backend.stop([handle(name) for name in ("s", "w1", "w2")])
    await until(backend, "s", Answer.GONE)
    await eventually(lambda: contents(space) == before)
    await backend.close()


async def test_of_a_cloud_account_removes_what_crashes_left(space: Space, tmp_path: Path) -> None:
    await eventually(lambda: len(space.names("secrets")) == 2)
    before = contents(space)
    first = space.backend(tmp_path)
    await first._launcher._secrets(request("s"), await first._launcher._owner(request("s")))
    await first.close()
    assert contents(space) != before
    second = space.backend(tmp_path)
    stored = [Resource("namespace", space.namespace)]
    assert [resource async for resource in second.teardown(stored)] == stored
    await eventually(lambda: contents(space) == before)
    await second.close()


async def test_is_refused_while_nodes_run(space: Space, tmp_path: Path) -> None:
    backend = space.backend(tmp_path, image=STUCK)
    await backend.launch(request("s"))
    with pytest.raises(FixItError) as caught:
        [resource async for resource in backend.teardown([])]
    assert "still run" in caught.value.message
    await backend.close()


async def test_leaves_what_is_of_other_installations(space: Space, plane: Plane, tmp_path: Path) -> None:
    body = {"metadata": {"name": "ropewalk-theirs"}, "spec": {"ports": [{"port": 1, "protocol": "TCP"}]}}
    plane.ask("POST", space.path("services"), json=body)
    backend = space.backend(tmp_path)
    assert [resource async for resource in backend.teardown([])] == []
    await backend.close()
    assert space.names("services") == {"ropewalk-theirs"}
