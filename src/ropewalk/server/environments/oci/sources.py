"""Opening repositories of registries, as the operator's settings and the credentials of a build say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass

import httpx

from ropewalk.server.environments.builder import Credential
from ropewalk.server.environments.oci.access import Access
from ropewalk.server.environments.oci.http import RegistryHttp, Sleep
from ropewalk.server.environments.oci.reference import Reference
from ropewalk.server.environments.oci.registry import Repository

__all__ = ["Registries"]


@dataclass(frozen=True, slots=True)
class Registries:
    """What the operator says about registries."""

    ca: str | None = None
    """Certificates (PEM) to trust in place of the system's."""
    plain: tuple[str, ...] = ()
    """Hosts, with their ports, that are spoken to without TLS."""
    sleep: Sleep = asyncio.sleep
    """How to wait before another try."""

    @asynccontextmanager
    async def open(self, reference: Reference, credentials: Sequence[Credential] = ()) -> AsyncIterator[Repository]:
        """Open a repository; of *credentials*, those are used whose address covers it."""
        found = next((each for each in credentials if _covers(each.url, reference)), None)
        plain = reference.registry in self.plain
        access = Access(
            username=found.username if found else None,
            password=found.password if found else None,
            ca=None if plain else self.ca,
            plain=plain,
        )
        http = RegistryHttp(reference.host, access, self.sleep)
        try:
            yield Repository(http, reference)
        finally:
            await http.aclose()


def _covers(address: str, reference: Reference) -> bool:
    """Whether credentials for *address* (``https://registry.example.com/team``) are meant for a repository."""
    url = httpx.URL(address)
    host = f"{url.host}:{url.port}" if url.port is not None else url.host
    below = url.path.strip("/")
    inside = not below or reference.repository == below or reference.repository.startswith(f"{below}/")
    return host in (reference.registry, reference.host) and inside
