"""How a registry is reached, and the answers to its challenges."""

from __future__ import annotations

import re
import ssl
from dataclasses import dataclass, field

import httpx

from ropewalk.errors import FixItError
from ropewalk.server.environments.oci.reference import is_loopback

__all__ = ["Access", "Challenge"]

_PARAMETER = re.compile(r'([a-zA-Z_]+)=(?:"([^"]*)"|([^\s,]+))')


@dataclass(frozen=True, slots=True)
class Access:
    """What is needed to talk to one registry."""

    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca: str | None = None
    """Certificates (PEM) to trust in place of the system's."""
    plain: bool = False
    """The operator allows it without TLS. This machine's own addresses need no such permission."""

    def base(self, host: str) -> str:
        """Return the address of the registry at *host*."""
        plain = self.ca is None and (self.plain or is_loopback(host))
        return f"{'http' if plain else 'https'}://{host}"

    def tls(self) -> ssl.SSLContext:
        """Return how to verify the registry.

        Raises:
            FixItError: The certificates cannot be read.
        """
        context = httpx.create_ssl_context()
        if self.ca is not None:
            try:
                context = ssl.create_default_context(cadata=self.ca)
            except (ssl.SSLError, ValueError):
                raise FixItError(
                    "The certificates of the registry are no certificates in PEM form.", field="ca"
                ) from None
        return context

    def basic(self) -> httpx.BasicAuth | None:
        if self.username is None or self.password is None:
            return None
        return httpx.BasicAuth(self.username, self.password)

    def may_ask(self, address: httpx.URL) -> bool:
        """Whether credentials may be sent to *address*: over TLS, or where the registry itself may do without."""
        return address.scheme == "https" or (address.scheme == "http" and (self.plain or is_loopback(address.host)))


@dataclass(frozen=True, slots=True)
class Challenge:
    """What a registry wants before it answers (``WWW-Authenticate``)."""

    scheme: str
    parameters: dict[str, str]

    @classmethod
    def parse(cls, header: str) -> Challenge:
        scheme, _, rest = header.strip().partition(" ")
        found = {name.lower(): quoted or bare for name, quoted, bare in _PARAMETER.findall(rest)}
        return cls(scheme.lower(), found)
