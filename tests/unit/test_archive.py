"""Reading images out of archives: the right one, whole, and nothing that is not in it."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ropewalk.client.archive import open_source
from ropewalk.errors import InputError

MANIFEST = "application/vnd.oci.image.manifest.v1+json"
INDEX = "application/vnd.oci.image.index.v1+json"


def digest_of(data: bytes) -> str:
    return f"sha256:{hashlib.sha256(data).hexdigest()}"


class Layout:
    """An OCI layout in the making: a map of names to bytes."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {"oci-layout": b'{"imageLayoutVersion": "1.0.0"}'}

    def blob(self, data: bytes) -> dict[str, Any]:
        digest = digest_of(data)
        self.files[f"blobs/sha256/{digest.removeprefix('sha256:')}"] = data
        return {"digest": digest, "size": len(data), "mediaType": "application/octet-stream"}

    def image(self, *layers: bytes, config: bytes = b"{}", **entry: Any) -> dict[str, Any]:
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": self.blob(config),
            "layers": [self.blob(layer) for layer in layers],
        }
        return {**self.blob(json.dumps(manifest).encode()), "mediaType": MANIFEST, **entry}

    def index(self, *entries: dict[str, Any]) -> Layout:
        self.files["index.json"] = json.dumps({"schemaVersion": 2, "manifests": list(entries)}).encode()
        return self

    def folder(self, path: Path) -> Path:
        for name, data in self.files.items():
            (path / name).parent.mkdir(parents=True, exist_ok=True)
            (path / name).write_bytes(data)
        return path

    def tar(self, path: Path, *, prefix: str = "") -> Path:
        path.write_bytes(tar_of({prefix + name: data for name, data in self.files.items()}))
        return path


def tar_of(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, data in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


def contents(path: Path, platform: str | None = None) -> list[bytes]:
    with open_source(path, platform) as source:
        return [blob.read(0, blob.size) for blob in source.blobs]


def failure(path: Path, platform: str | None = None) -> InputError:
    with pytest.raises(InputError) as caught, open_source(path, platform):
        pass
    return caught.value


@pytest.mark.parametrize("form", ["folder", "tar", "tar with ./", "tar.gz"])
def test_an_oci_layout_is_read_whole_in_every_form(tmp_path: Path, form: str) -> None:
    layout = Layout()
    layout.index(layout.image(b"first layer", b"second layer", config=b'{"os": "linux"}'))
    if form == "folder":
        path = layout.folder(tmp_path)
    else:
        path = layout.tar(tmp_path / "image.tar", prefix="./" if "./" in form else "")
    if form == "tar.gz":
        path.write_bytes(gzip.compress(path.read_bytes()))
    assert contents(path) == [b'{"os": "linux"}', b"first layer", b"second layer"]


def test_the_manifest_is_passed_on_byte_for_byte(tmp_path: Path) -> None:
    layout = Layout()
    entry = layout.image(b"layer")
    with open_source(layout.index(entry).folder(tmp_path)) as source:
        assert source.digest == entry["digest"] == digest_of(source.manifest)
        assert source.media_type == MANIFEST


def test_a_blob_can_be_read_in_parts_from_anywhere(tmp_path: Path) -> None:
    layout = Layout()
    data = bytes(range(256)) * 40
    layout.index(layout.image(data))
    for path in (layout.folder(tmp_path / "folder"), layout.tar(tmp_path / "image.tar")):
        with open_source(path) as source:
            blob = source.blobs[-1]
            assert blob.read(100, 50) == data[100:150]
            assert blob.read(len(data) - 3, 1000) == data[-3:]
            assert blob.read(len(data), 10) == b""


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("docker.io/library/dask:2026.8", "dask-2026.8"),
        ("localhost:5000/team/dask", "dask"),
        ("dask:latest", "dask"),
        ("v1.2", "v1.2"),
        ("a b", None),
    ],
)
def test_the_tag_comes_from_the_name_in_the_archive(tmp_path: Path, name: str, tag: str | None) -> None:
    layout = Layout()
    entry = layout.image(b"layer", annotations={"org.opencontainers.image.ref.name": name})
    with open_source(layout.index(entry).folder(tmp_path)) as source:
        assert source.tag == tag


def _two_platforms() -> Layout:
    layout = Layout()
    amd = layout.image(b"amd64 layer", platform={"os": "linux", "architecture": "amd64"})
    arm = layout.image(b"arm64 layer", platform={"os": "linux", "architecture": "arm64"})
    proof = layout.image(b"{}", platform={"os": "unknown", "architecture": "unknown"})
    inner = json.dumps({"schemaVersion": 2, "manifests": [amd, arm, proof]}).encode()
    return layout.index({**layout.blob(inner), "mediaType": INDEX})


def test_of_several_platforms_the_wanted_one_is_taken(tmp_path: Path) -> None:
    path = _two_platforms().folder(tmp_path)
    assert contents(path, "linux/arm64") == [b"{}", b"arm64 layer"]
    assert contents(path, "linux/amd64") == [b"{}", b"amd64 layer"]


def test_of_several_platforms_none_is_guessed(tmp_path: Path) -> None:
    path = _two_platforms().folder(tmp_path)
    assert "linux/amd64, linux/arm64" in failure(path).message
    assert "no image for linux/s390x" in failure(path, "linux/s390x").message


def _docker(tmp_path: Path, links: dict[str, str] | None = None, layers: list[str] | None = None) -> Path:
    entry = {"Config": "abc.json", "RepoTags": ["team/dask:1"], "Layers": layers or ["one/layer.tar", "two/layer.tar"]}
    files = {
        "manifest.json": json.dumps([entry]).encode(),
        "abc.json": b'{"os": "linux"}',
        "one/layer.tar": b"layer one",
    }
    if not links:
        files["two/layer.tar"] = b"layer two"
    path = tmp_path / "saved.tar"
    path.write_bytes(tar_of(files, links))
    return path


def test_what_docker_save_wrote_becomes_an_image_with_compressed_layers(tmp_path: Path) -> None:
    with open_source(_docker(tmp_path)) as source:
        value = json.loads(source.manifest)
        config, *layers = [blob.read(0, blob.size) for blob in source.blobs]
        assert source.tag == "dask-1"
    assert config == b'{"os": "linux"}'
    assert [gzip.decompress(layer) for layer in layers] == [b"layer one", b"layer two"]
    assert [layer["digest"] for layer in value["layers"]] == [digest_of(layer) for layer in layers]
    assert value["config"]["digest"] == digest_of(config)


def test_the_same_archive_gives_the_same_image_each_time(tmp_path: Path) -> None:
    with open_source(_docker(tmp_path)) as first, open_source(_docker(tmp_path)) as second:
        assert first.digest == second.digest


def test_a_layer_that_links_to_another_one_is_that_one(tmp_path: Path) -> None:
    with open_source(_docker(tmp_path, {"two/layer.tar": "../one/layer.tar"})) as source:
        assert len(source.blobs) == 2, "the configuration, and one layer that occurs twice"
        assert len(json.loads(source.manifest)["layers"]) == 2


@pytest.mark.parametrize("target", ["/etc/hostname", "../../../../etc/hostname", "two/layer.tar"])
def test_a_link_never_leads_out_of_the_archive(tmp_path: Path, target: str) -> None:
    assert "two/layer.tar" in failure(_docker(tmp_path, {"two/layer.tar": target})).message


@pytest.mark.parametrize("layer", ["/etc/hostname", "../../../../etc/hostname"])
def test_a_name_never_leads_out_of_the_archive(tmp_path: Path, layer: str) -> None:
    assert layer in failure(_docker(tmp_path, layers=[layer])).message


def test_a_link_in_a_folder_never_leads_out_of_it(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_bytes(b"a secret")
    layout = Layout()
    layout.index(layout.image(b"a secret"))
    path = layout.folder(tmp_path / "layout")
    blob = path / "blobs" / "sha256" / digest_of(b"a secret").removeprefix("sha256:")
    blob.unlink()
    blob.symlink_to(secret)
    assert "is missing" in failure(path).message


def test_a_damaged_blob_is_found_before_anything_is_sent(tmp_path: Path) -> None:
    layout = Layout()
    layout.index(layout.image(b"whole"))
    name = f"blobs/sha256/{digest_of(b'whole').removeprefix('sha256:')}"
    layout.files[name] = b"other"
    assert "damaged" in failure(layout.folder(tmp_path)).message


def test_a_damaged_manifest_is_found(tmp_path: Path) -> None:
    layout = Layout()
    entry = layout.image(b"layer")
    layout.files[f"blobs/sha256/{entry['digest'].removeprefix('sha256:')}"] = b'{"config": {}}'
    assert "damaged" in failure(layout.index(entry).folder(tmp_path)).message


@pytest.mark.parametrize(
    ("files", "said"),
    [
        ({}, "neither an OCI layout"),
        ({"index.json": b"not json"}, "is not JSON"),
        ({"index.json": b"[]"}, "no list of manifests"),
        ({"index.json": b'{"manifests": []}'}, "no image"),
        ({"index.json": b'{"manifests": [1]}'}, "no list of manifests"),
        (
            {"index.json": json.dumps({"manifests": [{"mediaType": MANIFEST, "digest": "../../etc"}]}).encode()},
            "not a sha256 digest",
        ),
        ({"manifest.json": b"[]"}, "several images"),
        ({"manifest.json": b'[{"Config": "gone.json", "Layers": []}]'}, "gone.json"),
    ],
)
def test_what_is_no_image_is_refused_with_what_is_wrong(tmp_path: Path, files: dict[str, bytes], said: str) -> None:
    path = tmp_path / "image.tar"
    path.write_bytes(tar_of(files))
    assert said in failure(path).message


def test_what_is_no_archive_is_refused(tmp_path: Path) -> None:
    (tmp_path / "text").write_text("hello" * 1000)
    (tmp_path / "cut.tar.gz").write_bytes(gzip.compress(tar_of({"index.json": b"{}" * 5000}))[:-20])
    assert "not a tar archive" in failure(tmp_path / "text").message
    assert "not a tar archive" in failure(tmp_path / "cut.tar.gz").message
    assert "There is no file" in failure(tmp_path / "absent").message
