"""Names of images: ``registry/repository:tag@sha256:…``."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, replace

from ropewalk.errors import InputError

__all__ = ["Reference", "is_loopback"]

_HUB, _HUB_HOST = "docker.io", "registry-1.docker.io"
"""What people call Docker's registry, and where it is."""

_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*)*")
_TAG = re.compile(r"[a-zA-Z0-9_][a-zA-Z0-9._-]{0,127}")
_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
_REGISTRY = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9.-]*[a-zA-Z0-9])?(?::\d{1,5})?|\[[0-9a-f:]+\](?::\d{1,5})?")


@dataclass(frozen=True, slots=True)
class Reference:
    """An image, or with neither tag nor digest the repository of images."""

    registry: str
    """Host, with a port if it is not 443."""
    repository: str
    tag: str | None = None
    digest: str | None = None

    @classmethod
    def parse(cls, text: str, field: str | None = None) -> Reference:
        """Parse what people write, ``python:3.12-slim`` included.

        Raises:
            InputError: It is no such name.
        """
        rest, _, digest = text.partition("@")
        first, slash, remaining = rest.partition("/")
        if slash and ("." in first or ":" in first or first == "localhost"):
            registry, rest = first, remaining
        else:
            registry = _HUB
        name, colon, tag = rest.rpartition(":")
        repository, tag = (name, tag) if colon and "/" not in tag else (rest, "")
        if registry == _HUB and "/" not in repository:
            repository = f"library/{repository}"
        found = cls(registry, repository, tag or None, digest or None)
        if not found._valid or ("@" in text and not digest) or (colon and rest.endswith(":")):
            raise InputError(
                f"{text[:200]!r} is not the name of an image.",
                advice="Write it as registry.example.com/team/image:tag, or with @sha256:… in place of a tag.",
                field=field,
            )
        return found

    @property
    def _valid(self) -> bool:
        return bool(
            _REGISTRY.fullmatch(self.registry)
            and _REPOSITORY.fullmatch(self.repository)
            and (self.tag is None or _TAG.fullmatch(self.tag))
            and (self.digest is None or _DIGEST.fullmatch(self.digest))
        )

    @property
    def host(self) -> str:
        """Where the registry is."""
        return _HUB_HOST if self.registry == _HUB else self.registry

    @property
    def target(self) -> str:
        """What to ask the registry for: a digest rather than a tag, since a tag may move."""
        return self.digest or self.tag or "latest"

    def at(self, digest: str) -> Reference:
        """Return the same image, named by digest alone."""
        return replace(self, tag=None, digest=digest)

    def __str__(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        digest = f"@{self.digest}" if self.digest else ""
        return f"{self.registry}/{self.repository}{tag}{digest}"


def is_loopback(host: str) -> bool:
    """Whether *host* (with or without a port) is this machine, by its name alone."""
    name = host.rpartition(":")[0] if re.search(r":\d+$", host) else host
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name.strip("[]")).is_loopback
    except ValueError:
        return False
