from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr

from ropewalk.backends.kubernetes import api, portforward, probe
from ropewalk.backends.kubernetes import backend as kubernetes
from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Place
from ropewalk.schemas.kubernetes import KubernetesCredentials
from tests.kubernetes.nodes import STUCK
from tests.support.kube_plane import Plane
from tests.support.kube_proxy import Proxy
from tests.support.kube_space import Space
from tests.support.waiting import PATIENCE


@pytest.fixture(autouse=True)
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait longer than the product does for what takes no time unless the machine is busy."""
    monkeypatch.setattr(api, "CONNECT_SECONDS", PATIENCE)
    monkeypatch.setattr(portforward, "OPEN_SECONDS", PATIENCE)
    monkeypatch.setattr(kubernetes, "DIRECT_SECONDS", PATIENCE)
    for name in ("WAIT_SECONDS", "LISTEN_SECONDS", "ANSWER_SECONDS"):
        monkeypatch.setattr(probe, name, PATIENCE)


@pytest.fixture
async def spaces(plane: Plane) -> AsyncIterator[Callable[..., Space]]:
    """Makes namespaces. They go with the test, however that ends, and their backends are closed."""
    made: list[Space] = []

    def make(**facts: Any) -> Space:
        made.append(Space(plane, **facts))
        return made[-1]

    yield make
    for each in made:
        await each.close()


@pytest.fixture
def space(spaces: Callable[..., Space]) -> Space:
    """A namespace of the test's own, with what ``ropewalk kubernetes manifest`` prints in it."""
    return spaces()


@pytest.fixture
async def proxy(plane: Plane) -> AsyncIterator[Proxy]:
    """What stands between :func:`backend` and the API server."""
    async with Proxy(plane.server, str(plane.pki.path("ca.crt"))).running() as made:
        yield made


@pytest.fixture
async def backend(space: Space, proxy: Proxy, tmp_path: Path) -> AsyncIterator[KubernetesBackend]:
    """A backend whose requests all go through *proxy*; its pods never start."""
    _, settings = space.parsed()
    credentials = KubernetesCredentials(server=proxy.url, token=SecretStr(space.token))
    settings = settings.model_copy(update={"image": STUCK})
    made = KubernetesBackend(Place("inst-test", "cloud-1", "team"), settings, credentials, archive=tmp_path)
    yield made
    await made.close()
