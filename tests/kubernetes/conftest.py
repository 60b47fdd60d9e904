from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from ropewalk.backends.kubernetes.backend import KubernetesBackend
from ropewalk.backends.port import Place
from ropewalk.schemas.kubernetes import KubernetesCredentials
from tests.kubernetes.nodes import STUCK
from tests.support.kube_plane import Plane
from tests.support.kube_proxy import Proxy
from tests.support.kube_space import Space


@pytest.fixture
def space(plane: Plane) -> Iterator[Space]:
    """A namespace of the test's own, with what ``ropewalk kubernetes manifest`` prints in it."""
    made = Space(plane)
    yield made
    made.remove()


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
