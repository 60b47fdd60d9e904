"""Reading from and writing to a real registry, also when things go wrong on the way."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from ropewalk.errors import FixItError, InputError, TryAgainError
from ropewalk.schemas.images import PART_BYTES
from ropewalk.server.environments.oci.access import Access
from ropewalk.server.environments.oci.blobs import Blobs, digest_of
from ropewalk.server.environments.oci.image import CONFIG_TYPE, Descriptor, Made
from ropewalk.server.environments.oci.layers import MEDIA_TYPE, Layer
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.push import Early, push
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Repository
from tests.images.conftest import layer, opened, put_image, put_index
from tests.support import registry as registries
from tests.support.registry import HASHED, PASSWORD, USERNAME, Proxy, Registry, Tokens

AMD64 = Platform("amd64")


def image(blobs: Blobs, *contents: bytes) -> Made:
    """Return an image of blobs with these contents; a registry looks at digests only."""
    described = [Descriptor(MEDIA_TYPE, blobs.keep(data), len(data)) for data in contents]
    config = b'{"os":"linux","architecture":"amd64","rootfs":{"type":"layers","diff_ids":[]}}'
    found = Descriptor(CONFIG_TYPE, blobs.keep(config), len(config))
    parts = ",".join(
        f'{{"mediaType":"{d.media_type}","digest":"{d.digest}","size":{d.size}}}' for d in (found, *described)
    )
    first, _, rest = parts.partition("},")
    manifest = f'{{"schemaVersion":2,"config":{first}}},"layers":[{rest}]}}'
    return Made(manifest.encode(), found, tuple(described))


class TestPush:
    async def test_only_what_is_missing_is_sent_and_all_of_it_can_be_read(
        self, repository: Repository, proxy: Proxy, blobs: Blobs, tmp_path: Path
    ) -> None:
        shared, large = os.urandom(1000), os.urandom(PART_BYTES + 1000)
        await push(repository, image(blobs, shared), blobs, "first")
        made = image(blobs, shared, large)
        pushed = await push(repository, made, blobs, "second")
        assert pushed.blobs == (digest_of(large),)
        assert pushed.sent == len(large)
        assert proxy.count("PATCH") == 2 + 2  # two small ones, and a large one in two parts
        assert pushed.image.reference == f"{proxy.host}/team/images@{made.digest}"
        again = await push(repository, made, blobs, "second")
        assert again.sent == 0
        there = Blobs(tmp_path / "there")
        found = await repository.find("second")
        assert found is not None
        assert found.data == made.manifest
        for each in (*made.layers, made.config):
            await repository.fetch(each.digest, there)
            assert there.read(each.digest) == blobs.read(each.digest)

    async def test_layers_are_sent_while_others_are_made_and_what_fails_is_left_to_the_push(
        self, repository: Repository, proxy: Proxy, blobs: Blobs
    ) -> None:
        made = image(blobs, os.urandom(1000), os.urandom(2000), os.urandom(3000))
        layers = [Layer(each.digest, each.size, "", str(each.size)) for each in made.layers]
        sent: list[set[str]] = []
        proxy.inject("status", "POST", status=403)
        for number in (0, 1, 1):
            async with asyncio.TaskGroup() as group:
                early = Early(repository, blobs, group, lambda _: None)
                early.add(layers[number])
            sent.append(set(early.sent))
        assert sent == [set(), {layers[1].digest}, set()], "one was refused, and what is there is not sent again"
        pushed = await push(repository, made, blobs, "early")
        assert set(pushed.blobs) - {made.config.digest} == {layers[0].digest, layers[2].digest}

    async def test_layers_of_another_repository_are_taken_over_without_sending_them(
        self, repository: Repository, proxy: Proxy, blobs: Blobs
    ) -> None:
        content = os.urandom(5000)
        base = opened(proxy.host, "team/base")
        await push(base, image(blobs, content), blobs, "1")
        await base.aclose()
        before = proxy.sent
        made = image(blobs, content)
        pushed = await push(
            repository, made, blobs, "mounted", mount=lambda digest: repository.mount(digest, base.reference)
        )
        assert pushed.sent == 0
        assert proxy.sent - before == len(made.manifest)

    async def test_a_registry_that_cannot_take_over_is_sent_the_layer(
        self, repository: Repository, blobs: Blobs
    ) -> None:
        made = image(blobs, os.urandom(500))
        elsewhere = Reference(repository.reference.registry, "team/never-there")
        pushed = await push(repository, made, blobs, "sent", mount=lambda d: repository.mount(d, elsewhere))
        assert len(pushed.blobs) >= 1

    @pytest.mark.parametrize("method", ["HEAD", "POST", "PATCH", "PUT", "GET"])
    async def test_a_passing_fault_is_waited_for(
        self, repository: Repository, proxy: Proxy, blobs: Blobs, method: str
    ) -> None:
        made = image(blobs, os.urandom(3000))
        proxy.inject("status", method, status=503)
        proxy.inject("status", method, status=429)
        await push(repository, made, blobs, "patient")
        await repository.fetch(made.layers[0].digest, Blobs(blobs.folder.parent / f"there-{method}"))

    @pytest.mark.parametrize("method", ["POST", "PATCH", "PUT"])
    async def test_an_answer_that_is_lost_harms_nothing(
        self, repository: Repository, proxy: Proxy, blobs: Blobs, method: str
    ) -> None:
        made = image(blobs, os.urandom(PART_BYTES + 10))
        proxy.inject("lose", method)
        await push(repository, made, blobs, f"lost-{method.lower()}")
        await repository.fetch(made.layers[0].digest, Blobs(blobs.folder.parent / "there"))

    async def test_what_arrives_damaged_is_sent_again(self, repository: Repository, proxy: Proxy, blobs: Blobs) -> None:
        made = image(blobs, os.urandom(3000))
        fault = proxy.inject("flip-sent", "PATCH")
        await push(repository, made, blobs, "damaged")
        assert fault.used == 1
        await repository.fetch(made.layers[0].digest, Blobs(blobs.folder.parent / "there"))

    async def test_a_registry_that_damages_everything_is_told_as_that(
        self, repository: Repository, proxy: Proxy, blobs: Blobs
    ) -> None:
        proxy.inject("flip-sent", "PATCH", times=99)
        with pytest.raises(TryAgainError, match="other bytes than were sent"):
            await push(repository, image(blobs, os.urandom(3000)), blobs, "damaged-for-ever")
        assert await repository.find("damaged-for-ever") is None

    async def test_a_registry_that_is_down_is_told_with_advice(self, blobs: Blobs) -> None:
        repository = opened("127.0.0.1:1", "team/images")
        with pytest.raises(TryAgainError, match=r"127\.0\.0\.1:1 cannot be reached") as caught:
            await push(repository, image(blobs, b"x"), blobs, "nowhere")
        assert caught.value.advice
        assert "tried again" not in str(caught.value), "who tries again says so"
        await repository.aclose()

    async def test_a_host_that_does_not_exist_is_told_at_once(self, blobs: Blobs) -> None:
        repository = opened("registry.invalid", "team/images")
        with pytest.raises(FixItError, match=r"registry\.invalid cannot be reached: there is no such host") as caught:
            await push(repository, image(blobs, b"x"), blobs, "nowhere")
        assert caught.value.advice
        await repository.aclose()

    async def test_a_cache_that_lost_a_blob_is_told_as_that(self, repository: Repository, blobs: Blobs) -> None:
        made = image(blobs, os.urandom(3000))
        blobs.path(made.layers[0].digest).write_bytes(b"")
        with pytest.raises(TryAgainError, match="cut off"):
            await push(repository, made, blobs, "cut")
        assert not blobs.has(made.layers[0].digest)


class TestPull:
    async def test_a_line_that_breaks_is_gone_on_with(self, repository: Repository, proxy: Proxy, blobs: Blobs) -> None:
        made = image(blobs, os.urandom(200_000))
        await push(repository, made, blobs, "long")
        proxy.inject("cut", "GET", "/blobs/")
        proxy.requests.clear()
        there = Blobs(blobs.folder.parent / "there")
        await repository.fetch(made.layers[0].digest, there)
        assert there.read(made.layers[0].digest) == blobs.read(made.layers[0].digest)
        assert proxy.count("GET", "/blobs/") == 2

    async def test_bytes_that_changed_on_the_way_are_never_kept(
        self, repository: Repository, proxy: Proxy, blobs: Blobs
    ) -> None:
        made = image(blobs, os.urandom(3000))
        digest = made.layers[0].digest
        await push(repository, made, blobs, "flipped")
        there = Blobs(blobs.folder.parent / "there")
        proxy.inject("flip", "GET", "/blobs/")
        await repository.fetch(digest, there)
        assert there.read(digest) == blobs.read(digest)
        there.forget(digest)
        proxy.inject("flip", "GET", "/blobs/", times=2)
        with pytest.raises(TryAgainError, match="not those of"):
            await repository.fetch(digest, there)
        assert not there.has(digest)

    async def test_what_was_pulled_is_not_pulled_again(
        self, repository: Repository, proxy: Proxy, blobs: Blobs
    ) -> None:
        made = image(blobs, os.urandom(100))
        await push(repository, made, blobs, "kept")
        proxy.requests.clear()
        await repository.fetch(made.layers[0].digest, blobs)
        assert proxy.requests == []

    async def test_an_image_for_another_platform_is_refused(self, registry: Registry) -> None:
        inner = put_image(registry.host, "team/many:arm", [layer([("x", b"x")])], "arm64")
        put_index(registry.host, "team/many:all", {"arm64": inner})
        repository = opened(registry.host, "team/many")
        repository.reference = Reference.parse(f"{registry.host}/team/many:all")
        assert (await repository.image(Platform("arm64"))).digest == inner
        with pytest.raises(FixItError, match="not for linux/amd64; it is for: arm64"):
            await repository.image(AMD64)
        await repository.aclose()

    async def test_an_image_that_is_not_there_is_told(self, registry: Registry) -> None:
        repository = opened(registry.host, "team/none")
        with pytest.raises(FixItError, match="There is no image") as caught:
            await repository.image(AMD64)
        assert caught.value.field == "container"
        await repository.aclose()


class TestAccess:
    async def test_tokens_are_asked_for_and_asked_for_again_when_they_no_longer_hold(
        self, tmp_path: Path, blobs: Blobs
    ) -> None:
        tokens = Tokens(tmp_path / "tokens")
        with (
            tokens.serving() as realm,
            registries.running(tmp_path / "registry", tokens.config(realm)) as registry,
            registries.proxied(registry) as proxy,
        ):
            repository = opened(proxy.host, "team/images", Access(USERNAME, PASSWORD))
            made = image(blobs, os.urandom(PART_BYTES + 10))
            forgotten = [proxy.inject("forget-login", method) for method in ("PATCH", "PUT", "GET")]
            forgotten.append(proxy.inject("forget-login", "PATCH", skip=1))
            await push(repository, made, blobs, "1")
            await repository.fetch(made.layers[0].digest, Blobs(tmp_path / "there"))
            assert all(fault.used == 1 for fault in forgotten)
            assert len(tokens.given) > 1
            await repository.aclose()
            stranger = opened(proxy.host, "team/images", Access(USERNAME, "wrong-" + PASSWORD))
            with pytest.raises(FixItError, match="refuses") as caught:
                await stranger.find("1")
            assert PASSWORD not in f"{caught.value!r} {caught.value} {caught.value.details} {stranger._http!r}"
            await stranger.aclose()

    async def test_a_password_is_given_to_a_registry_that_asks_for_it(self, tmp_path: Path, blobs: Blobs) -> None:
        (tmp_path / "htpasswd").write_text(f"{USERNAME}:{HASHED}\n")
        auth = {"htpasswd": {"realm": "tests", "path": str(tmp_path / "htpasswd")}}
        with registries.running(tmp_path / "registry", auth) as registry:
            repository = opened(registry.host, "team/images", Access(USERNAME, PASSWORD))
            await push(repository, image(blobs, b"content"), blobs, "1")
            await repository.aclose()
            stranger = opened(registry.host, "team/images")
            with pytest.raises(FixItError, match="no credentials") as caught:
                await stranger.find("1")
            assert f"Store some for http://{registry.host}" in str(caught.value.advice)
            await stranger.aclose()

    async def test_a_registry_is_trusted_by_the_authority_that_was_given(self, tmp_path: Path, blobs: Blobs) -> None:
        cert, key = registries.certificate(tmp_path / "tls")
        other, _ = registries.certificate(tmp_path / "other")
        with registries.running(tmp_path / "registry", tls={"certificate": str(cert), "key": str(key)}) as registry:
            repository = opened(registry.host, "team/images", Access(ca=cert.read_text()))
            await push(repository, image(blobs, b"content"), blobs, "1")
            await repository.aclose()
            stranger = opened(registry.host, "team/images", Access(ca=other.read_text()))
            with pytest.raises(FixItError, match="certificate that is not trusted") as caught:
                await stranger.find("1")
            assert caught.value.field == "ca"
            await stranger.aclose()

    def test_plain_http_is_for_this_machine_or_by_permission(self) -> None:
        assert Access().base("registry.example.com") == "https://registry.example.com"
        assert Access().base("127.0.0.1:5000") == "http://127.0.0.1:5000"
        assert Access().base("127.0.0.1.example.com") == "https://127.0.0.1.example.com"
        assert Access(plain=True).base("registry.lan:5000") == "http://registry.lan:5000"
        assert Access(ca="PEM").base("127.0.0.1:5000") == "https://127.0.0.1:5000"

    def test_passwords_are_not_shown(self) -> None:
        assert PASSWORD not in repr(Access(USERNAME, PASSWORD))


class TestReference:
    @pytest.mark.parametrize(
        ("text", "whole", "host"),
        [
            ("python:3.12-slim", "docker.io/library/python:3.12-slim", "registry-1.docker.io"),
            ("daskdev/dask", "docker.io/daskdev/dask", "registry-1.docker.io"),
            ("localhost:5000/a/b", "localhost:5000/a/b", "localhost:5000"),
            (f"ghcr.io/a/b:1@sha256:{'0' * 64}", f"ghcr.io/a/b:1@sha256:{'0' * 64}", "ghcr.io"),
        ],
    )
    def test_names_mean_what_docker_means_by_them(self, text: str, whole: str, host: str) -> None:
        found = Reference.parse(text)
        assert (str(found), found.host) == (whole, host)

    @pytest.mark.parametrize("text", ["", "A/b", "a:b:c", "a@sha256:12", "a b", "reg.io/", "../x", "a:", "a@"])
    def test_what_is_no_name_is_refused(self, text: str) -> None:
        with pytest.raises(InputError):
            Reference.parse(text)
