"""ECR: layers that are stored, in parts, under their digests; images that need theirs (API reference of ECR)."""

from __future__ import annotations

import base64
import functools
import hashlib
import json
import secrets
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from ministack import app as application
from ministack.core.responses import json_response
from ministack.services import ecr

from tests.support.aws_double.gate import Answer, error, request_action, request_params
from tests.support.aws_double.patching import demand, replace, replace_item

PART_SIZE = 10 * 1024 * 1024
"""What InitiateLayerUpload suggests."""
LARGEST_PART = 20 * 1024 * 1024
_parts: dict[str, bytearray] = {}


def install() -> None:
    """Answer the calls about layers here, and check what PutImage refers to."""
    demand(ecr, "_repositories", "_layer_blobs", "_manifest_blobs", "_images")
    for name, answer in {
        "_batch_check_layer_availability": _available,
        "_initiate_layer_upload": _initiate,
        "_upload_layer_part": _upload,
        "_complete_layer_upload": _complete,
    }.items():
        replace(ecr, name, functools.partial(_instead, answer))
    replace(ecr, "_put_image", _checked_image)
    replace_item(application.SERVICE_HANDLERS, "ecr", _forgetful)


def _instead(answer: Callable[[Mapping[str, Any]], Answer], _: Any) -> Callable[[Mapping[str, Any]], Answer]:
    def answered(data: Mapping[str, Any]) -> Answer:
        name = data.get("repositoryName", "")
        if name not in ecr._repositories:
            message = f"The repository with name '{name}' does not exist in the registry"
            return refuse("RepositoryNotFoundException", message)
        return answer(data)

    return answered


def refuse(code: str, message: str) -> Answer:
    """Return an error of ECR."""
    return error("ecr:", code, message, 400)


def _stored(data: Mapping[str, Any]) -> dict[str, bytes]:
    stored: dict[str, bytes] = ecr._layer_blobs.setdefault(data["repositoryName"], {})
    return stored


def _available(data: Mapping[str, Any]) -> Answer:
    stored, layers = _stored(data), []
    if not 1 <= len(data.get("layerDigests", [])) <= 100:
        return refuse("InvalidParameterException", "layerDigests must have between 1 and 100 elements")
    for digest in data["layerDigests"]:
        there = digest in stored
        size = {"layerSize": len(stored[digest])} if there else {}
        layers.append({"layerDigest": digest, "layerAvailability": "AVAILABLE" if there else "UNAVAILABLE"} | size)
    answer: Answer = json_response({"layers": layers, "failures": []})
    return answer


def _initiate(_: Mapping[str, Any]) -> Answer:
    upload = secrets.token_hex(16)
    _parts[upload] = bytearray()
    answer: Answer = json_response({"uploadId": upload, "partSize": PART_SIZE})
    return answer


def _upload(data: Mapping[str, Any]) -> Answer:
    upload, first, last = data["uploadId"], data["partFirstByte"], data["partLastByte"]
    blob = base64.b64decode(data["layerPartBlob"])
    if upload not in _parts:
        return refuse("UploadNotFoundException", f"The upload '{upload}' does not exist")
    if first != len(_parts[upload]) or last - first + 1 != len(blob):
        return _invalid_part(upload)
    if len(blob) > LARGEST_PART:
        return refuse("InvalidLayerPartException", f"A part has at most {LARGEST_PART} bytes")
    _parts[upload] += blob
    answer: Answer = json_response({"uploadId": upload, "lastByteReceived": len(_parts[upload]) - 1})
    return answer


def _invalid_part(upload: str) -> Answer:
    """Refuse a part that does not follow on the last one, and tell where that ended (InvalidLayerPartException)."""
    status, headers, _ = refuse("InvalidLayerPartException", "")
    said = f"Expected a part that begins at byte {len(_parts[upload])}"
    last = {"lastValidByteReceived": len(_parts[upload]) - 1} if _parts[upload] else {}
    body = {"__type": "InvalidLayerPartException", "message": said, "uploadId": upload, **last}
    return status, headers, json.dumps(body).encode()


def _complete(data: Mapping[str, Any]) -> Answer:
    upload, digest = data["uploadId"], data["layerDigests"][0]
    if upload not in _parts:
        return refuse("UploadNotFoundException", f"The upload '{upload}' does not exist")
    if digest in _stored(data):
        return refuse("LayerAlreadyExistsException", f"The layer with digest {digest} already exists")
    if not _parts[upload]:
        return refuse("EmptyUploadException", "The upload has no parts")
    actual = "sha256:" + hashlib.sha256(_parts[upload]).hexdigest()
    if actual != digest:
        return refuse("InvalidLayerException", f"The layer has digest {actual}, not {digest}")
    _stored(data)[digest] = bytes(_parts.pop(upload))
    answer: Answer = json_response({"uploadId": upload, "layerDigest": digest})
    return answer


def _checked_image(put: Callable[[Mapping[str, Any]], Answer]) -> Callable[[Mapping[str, Any]], Answer]:
    def checked(data: Mapping[str, Any]) -> Answer:
        if data.get("repositoryName") not in ecr._repositories:
            return put(data)
        manifest = json.loads(data["imageManifest"])
        digest = "sha256:" + hashlib.sha256(data["imageManifest"].encode()).hexdigest()
        if data.get("imageDigest", digest) != digest:
            return refuse("ImageDigestDoesNotMatchException", f"The image has digest {digest}")
        needed = [manifest["config"]["digest"], *(layer["digest"] for layer in manifest["layers"])]
        absent = [layer for layer in needed if layer not in _stored(data)]
        if absent:
            return refuse("LayersNotFoundException", f"The following layers do not exist: {', '.join(absent)}")
        for image in ecr._images[data["repositoryName"]]:
            if image["imageDigest"] == digest and data.get("imageTag") in image.get("imageTags", []):
                return refuse("ImageAlreadyExistsException", f"Image with digest {digest} already exists")
        ecr._manifest_blobs.setdefault(data["repositoryName"], {})[digest] = data["imageManifest"].encode()
        return put({**data, "imageDigest": digest})

    return checked


def _forgetful(handler: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    """Forget layers with their repository."""

    async def handled(method: str, path: str, headers: Any, body: bytes, query: Any) -> Answer:
        answer = await handler(method, path, headers, body, query)
        if request_action.get() == "ecr:DeleteRepository" and answer[0] < 400:
            name = request_params.get().get("repositoryName")
            ecr._layer_blobs.pop(name, None)
            ecr._manifest_blobs.pop(name, None)
        return answer

    return handled
