"""Images: layers upon those of a base, the configuration, and the manifest that holds them together."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ropewalk.server.environments.oci import layers
from ropewalk.server.environments.oci.blobs import Blobs, digest_of
from ropewalk.server.environments.oci.layers import Layer
from ropewalk.server.environments.oci.platform import Platform

__all__ = ["Descriptor", "Made", "compose", "write_layout"]

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
_CREATED = "1980-01-01T00:00:00Z"
"""As in :data:`layers.EPOCH`: a true time would make every image another one."""

_OCI_NAMES = {"application/vnd.docker.image.rootfs.diff.tar.gzip": layers.MEDIA_TYPE}
"""The same bytes have other names in Docker's own manifests."""


@dataclass(frozen=True, slots=True)
class Descriptor:
    """A blob as a manifest names it."""

    media_type: str
    digest: str
    size: int

    @classmethod
    def of(cls, value: Mapping[str, Any]) -> Descriptor:
        kind = str(value["mediaType"])
        return cls(_OCI_NAMES.get(kind, kind), str(value["digest"]), int(value["size"]))

    @property
    def value(self) -> dict[str, Any]:
        return {"mediaType": self.media_type, "digest": self.digest, "size": self.size}


@dataclass(frozen=True, slots=True)
class Made:
    """An image whose blobs are in a folder, but for those of its base."""

    manifest: bytes
    config: Descriptor
    layers: tuple[Descriptor, ...]
    media_type: str = MANIFEST_TYPE

    @property
    def digest(self) -> str:
        return digest_of(self.manifest)


def compose(
    base_config: Mapping[str, Any],
    base_layers: Sequence[Descriptor],
    added: Sequence[Layer],
    blobs: Blobs,
    *,
    platform: Platform,
    environ: Mapping[str, str],
) -> Made:
    """Put *added* upon a base; *environ* is set in its containers. The same input gives the same bytes."""
    config = dict(base_config)
    config |= {"os": "linux", "architecture": platform.architecture, "created": _CREATED}
    inner = dict(config.get("config") or {})
    inner["Env"] = _environ(inner.get("Env") or (), environ)
    known = [str(each) for each in (config.get("rootfs") or {}).get("diff_ids", ())]
    history = list(config.get("history") or ())
    if sum(1 for each in history if not each.get("empty_layer")) != len(known):
        history = [{"created": _CREATED, "created_by": "base"} for _ in known]
    config["config"] = inner
    config["rootfs"] = {"type": "layers", "diff_ids": [*known, *(layer.diff_id for layer in added)]}
    config["history"] = [*history, *({"created": _CREATED, "created_by": f"ropewalk: {each.title}"} for each in added)]
    data = _json(config)
    described = Descriptor(CONFIG_TYPE, blobs.keep(data), len(data))
    every = (*base_layers, *(Descriptor(layers.MEDIA_TYPE, layer.digest, layer.size) for layer in added))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": described.value,
        "layers": [each.value for each in every],
    }
    return Made(_json(manifest), described, every)


def write_layout(made: Made, blobs: Blobs, target: Path, name: str) -> None:
    """Write an OCI layout, which skopeo, podman, buildah and ``ropewalk image push`` read. All blobs must be there."""
    folder = target / "blobs" / "sha256"
    folder.mkdir(parents=True, exist_ok=True)
    for each in (*made.layers, made.config):
        (folder / each.digest.removeprefix("sha256:")).write_bytes(blobs.read(each.digest))
    (folder / made.digest.removeprefix("sha256:")).write_bytes(made.manifest)
    (target / "oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    entry = {
        **Descriptor(made.media_type, made.digest, len(made.manifest)).value,
        "annotations": {"org.opencontainers.image.ref.name": name},
    }
    (target / "index.json").write_bytes(_json({"schemaVersion": 2, "manifests": [entry]}))


def _environ(before: Sequence[str], added: Mapping[str, str]) -> list[str]:
    values = dict(each.partition("=")[::2] for each in before)
    return [f"{name}={value}" for name, value in {**values, **added}.items()]


def _json(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()
