"""ECS tasks as real containers, closer to Fargate than ministack's: limits, entry point, user, network, images.

Images come from the engine's own store, or from what was pushed to ECR here; nothing is ever pulled from anywhere.
``AWS_DOUBLE_NETWORK`` names the engine's network, ``AWS_DOUBLE_GATEWAY`` this machine's address in it.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import tarfile
from collections.abc import Callable, Mapping
from typing import Any

from ministack.services import ecr, ecs, ecs_metadata

from tests.support.aws_double import interfaces
from tests.support.aws_double.patching import demand, replace

_ENDPOINTS = ("AWS_ENDPOINT_URL", "AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_CONTAINER_AUTHORIZATION_TOKEN")


def install() -> None:
    """Change how ministack starts containers, where it has an engine at all."""
    network = os.environ.get("AWS_DOUBLE_NETWORK")
    if not network:
        return
    demand(ecs_metadata, "_LOCK", "_TASKS")
    replace(ecs, "_build_run_kwargs", lambda build: _arguments(build, network))
    replace(ecs, "_register_metadata", _metadata)
    replace(ecs, "_record_task_ip", lambda _: _record_address)
    replace(ecs, "_run_docker_container", lambda _: _start)
    replace(ecs, "reset", _reset)


def _reset(reset: Callable[[], None]) -> Callable[[], None]:
    def all_gone() -> None:
        _loaded.clear()
        reset()

    return all_gone


def _arguments(build: Callable[..., dict[str, Any]], network: str) -> Callable[..., dict[str, Any]]:
    def arguments(cdef: Mapping[str, Any], td: Mapping[str, Any], env: Any, *rest: Any) -> dict[str, Any]:
        wanted = build(cdef, td, env, *rest)
        wanted.pop("platform", None)  # one machine, one architecture: an ARM64 definition runs here, too
        wanted.pop("extra_hosts", None)
        cpu, memory = int(td.get("cpu") or 1024), int(td.get("memory") or 2048)
        wanted |= {"network": network, "nano_cpus": cpu * 1_000_000_000 // 1024, "mem_limit": f"{memory}m"}
        wanted |= {"memswap_limit": f"{memory}m"}
        if cdef.get("entryPoint"):
            wanted["entrypoint"] = cdef["entryPoint"]
        for ours, theirs in {"user": "user", "workingDirectory": "working_dir"}.items():
            if cdef.get(ours):
                wanted[theirs] = cdef[ours]
        if (cdef.get("linuxParameters") or {}).get("initProcessEnabled"):
            wanted["init"] = True
        return wanted

    return arguments


def _metadata(register: Callable[..., str]) -> Callable[..., str]:
    """Serve metadata on the network's address; Fargate hands no endpoint out, and credentials only with a role."""

    def registered(*given: Any) -> str:
        *facts, _ = given
        env = facts[5]
        token = register(*facts, os.environ["AWS_DOUBLE_GATEWAY"])
        for name in _ENDPOINTS:
            env.pop(name, None)
        return token

    return registered


def _record_address(record: dict[str, Any], container: Any, network: str) -> None:
    address = ecs._container_ip(container, network)
    if not address:
        return
    with interfaces.changing:
        new = not record.get("_interface") and record["lastStatus"] != "STOPPED"
        if new:
            interfaces.attach(record, address)
    if new:
        # ministack's metadata lack the network ("Task metadata available for Amazon ECS tasks on Fargate").
        with ecs_metadata._LOCK:
            for told in ecs_metadata._TASKS.get(record["taskArn"], {}).get("Containers", ()):
                told["Networks"] = [{"NetworkMode": "awsvpc", "IPv4Addresses": [address]}]


def _start(docker: Any, cdef: Mapping[str, Any], arguments: dict[str, Any], **_: Any) -> Any:
    from docker.errors import ImageNotFound  # noqa: PLC0415 - only where there is an engine

    image = _loaded.get(cdef["image"], cdef["image"])
    try:
        docker.images.get(image)
    except ImageNotFound:
        archive = _pushed(image)
        if archive is None:
            message = f"ref pull has been retried 1 time(s): failed to resolve reference {image!r}: not found"
            raise ecs._ImagePullError(message) from None
        image = _loaded[image] = docker.images.load(archive)[0].id
    return docker.containers.run(image, **arguments)


_loaded: dict[str, str] = {}
"""Ids in the engine of images that were pushed here. There they have no names: the engine lives longer than a test, and
another may push something else under the same."""


def _pushed(image: str) -> bytes | None:
    """Return a ``docker load`` archive of an image that was pushed to ECR here."""
    registry, _, rest = image.partition("/")
    if ".dkr.ecr." not in registry:
        return None
    name, _, tag = rest.partition("@") if "@" in rest else rest.partition(":")
    found = ecr._find_image(name, {"imageDigest": tag} if tag.startswith("sha256:") else {"imageTag": tag or "latest"})
    return _archive(name, json.loads(found["imageManifest"])) if found else None


def _archive(name: str, manifest: Mapping[str, Any]) -> bytes:
    stored = ecr._layer_blobs[name]
    config = stored[manifest["config"]["digest"]]
    files = {f"{hashlib.sha256(config).hexdigest()}.json": config}
    layers = []
    for number, layer in enumerate(manifest["layers"]):
        files[f"{number}/layer.tar"] = stored[layer["digest"]]
        layers.append(f"{number}/layer.tar")
    listing = [{"Config": next(iter(files)), "RepoTags": [], "Layers": layers}]
    files["manifest.json"] = json.dumps(listing).encode()
    return _tar(files)


def _tar(files: Mapping[str, bytes]) -> bytes:
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode="w") as archive:
        for path, content in files.items():
            info = tarfile.TarInfo(path)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return output.getvalue()
