"""Images for Kubernetes go to the registry that the team named, with the credentials that it stored."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from ropewalk.backends.memory import MemoryBackend
from ropewalk.errors import FixItError, InputError
from ropewalk.server.cloud_accounts.registry import Backends
from ropewalk.server.db.models import Account, CloudAccount
from ropewalk.server.environments.builder import Target
from ropewalk.server.environments.builders import find_builder, image_builder
from ropewalk.server.environments.oci.blobs import Blobs, digest_of
from ropewalk.server.environments.oci.image import CONFIG_TYPE, Descriptor, Made
from ropewalk.server.environments.oci.push import push
from ropewalk.server.environments.places import asked_platform, platform_of
from tests.support import registry as registries
from tests.support.api import Api
from tests.support.registry import HASHED, PASSWORD, USERNAME, Registry


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    """A registry with a password."""
    (tmp_path / "htpasswd").write_text(f"{USERNAME}:{HASHED}\n")
    auth = {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}
    with registries.running(tmp_path / "registry", auth) as running:
        yield running


@pytest.fixture
def backends() -> Backends:
    return Backends({"kubernetes": MemoryBackend()})


@pytest.mark.parametrize(
    ("backend", "settings", "options", "asked", "otherwise"),
    [
        ("aws", {}, {}, None, "linux/amd64"),
        ("aws", {"architecture": "ARM64"}, {}, None, "linux/arm64"),
        ("aws", {"architecture": "ARM64"}, {"architecture": "X86_64"}, "linux/amd64", "linux/arm64"),
        ("kubernetes", {}, {"node_selector": {"kubernetes.io/arch": "arm64"}}, "linux/arm64", "linux/amd64"),
        ("kubernetes", {}, {"node_selector": {"pool": "batch"}}, None, "linux/amd64"),
        ("local", {}, {}, None, "linux/amd64"),
    ],
)
def test_clusters_say_what_processors_their_environment_is_for(
    backend: str, settings: dict[str, Any], options: dict[str, Any], asked: str | None, otherwise: str
) -> None:
    cloud = CloudAccount(backend=backend, settings=settings)
    assert (asked_platform(cloud, options), platform_of(cloud)) == (asked, otherwise)


def test_an_environment_is_one_image_for_scheduler_and_workers() -> None:
    options = {"worker": {"node_selector": {"kubernetes.io/arch": "arm64"}}}
    with pytest.raises(InputError, match="one image") as caught:
        asked_platform(CloudAccount(backend="kubernetes", settings={}), options)
    assert caught.value.field == "backend_options.node_selector"


async def test_images_of_kubernetes_go_to_the_registry_that_was_named(
    api: Api, registry: Registry, tmp_path: Path
) -> None:
    ada = await api.person("ada")
    wish = {"url": f"http://{registry.host}", "username": USERNAME, "password": PASSWORD}
    answer = await ada.client.put("/api/v1/accounts/ada/index-credentials/ours", json=wish)
    assert answer.is_success, answer.text
    now = api.context.clock.now()
    async with api.context.db.transaction() as session:
        account = (await session.scalars(select(Account).where(Account.slug == "ada"))).one()
        facts: dict[str, Any] = {"account_id": account.id, "kind": "kubernetes", "backend": "kubernetes"}
        facts |= {"created_at": now, "updated_at": now}
        named = {"image_registry": f"{registry.host}/team/dask", "image_registry_credentials": "ours"}
        with_one = CloudAccount(id="ca-with", settings=named, **facts)
        without = CloudAccount(id="ca-without", settings={}, **facts)
        wrong = CloudAccount(id="ca-wrong", settings={**named, "image_registry_credentials": "gone"}, **facts)
        session.add_all([with_one, without, wrong])
    assert await find_builder(api.context, without, account.id) is None
    found = await find_builder(api.context, with_one, account.id)
    assert found is not None
    assert found[1] == Target("ca-with", "ca-with", account.id, "linux/amd64")
    places = image_builder(api.context).places
    blobs = Blobs(tmp_path / "blobs")
    config = os.urandom(100)
    described = Descriptor(CONFIG_TYPE, blobs.keep(config), len(config))
    manifest = f'{{"schemaVersion":2,"config":{{"digest":"{digest_of(config)}","size":100}},"layers":[]}}'
    text = manifest.replace('"config":{', f'"config":{{"mediaType":"{CONFIG_TYPE}",')
    made = Made(text.encode(), described, ())
    async with places.open(found[1]) as place:
        assert not await place.has(made.digest)
        await push(place.store, made, blobs, "env")
        assert await place.has(made.digest)
        assert str(place.reference) == f"{registry.host}/team/dask"
    with pytest.raises(FixItError, match="names no registry"):
        async with places.open(Target("ca-without", "ca-without", account.id, "linux/amd64")):
            pass
    with pytest.raises(FixItError, match="no credentials that are called 'gone'") as caught:
        async with places.open(Target("ca-wrong", "ca-wrong", account.id, "linux/amd64")):
            pass
    assert caught.value.field == "image_registry_credentials"
