"""Which headers pass between browsers and dashboards. Dashboards show what user code made: they are not trusted."""

from __future__ import annotations

from collections.abc import Iterable
from urllib.parse import urlsplit

Headers = list[tuple[bytes, bytes]]

MAX_BYTES = 32 * 1024
"""Of a request's headers; browsers and servers commonly allow 8 to 64 KiB."""

_HOP_BY_HOP = frozenset(
    {
        *(b"connection", b"keep-alive", b"proxy-authenticate", b"proxy-authorization", b"proxy-connection", b"te"),
        *(b"trailer", b"transfer-encoding", b"upgrade"),
    }
)
"""RFC 9110, section 7.6.1."""

_NOT_FOR_DASHBOARDS = frozenset({b"cookie", b"authorization", b"host", b"origin", b"referer", b"forwarded", b"expect"})
"""What tells them who looks, or from where; host and origin are replaced."""

_NOT_FROM_DASHBOARDS = frozenset(
    {
        *(b"set-cookie", b"set-cookie2", b"clear-site-data", b"service-worker-allowed", b"strict-transport-security"),
        *(b"alt-svc", b"server", b"nel", b"report-to", b"reporting-endpoints", b"x-frame-options", b"referrer-policy"),
        *(b"date", b"x-content-type-options", b"cross-origin-opener-policy", b"cross-origin-resource-policy"),
    }
)
"""What would change more than the page itself, and what we say instead."""


def to_dashboard(headers: Iterable[tuple[bytes, bytes]], authority: str) -> Headers:
    """Return a browser's headers as the dashboard may see them: from its own loopback address, from nobody."""
    given = [(name.lower(), value) for name, value in headers]
    dropped = _HOP_BY_HOP | _NOT_FOR_DASHBOARDS | _named_by_connection(given)
    kept = [(n, v) for n, v in given if n not in dropped and not n.startswith((b"x-forwarded-", b"sec-websocket-"))]
    kept.append((b"host", authority.encode()))
    if any(name == b"origin" for name, _ in given):
        kept.append((b"origin", f"http://{authority}".encode()))
    if any(name == b"transfer-encoding" for name, _ in given):
        kept.append((b"transfer-encoding", b"chunked"))
    return kept


def from_dashboard(headers: Iterable[tuple[bytes, bytes]], authority: str, prefix: str, server: str) -> Headers:
    """Return a dashboard's headers as the browser may see them.

    Args:
        headers: The dashboard's.
        authority: What the dashboard takes for its host.
        prefix: Path of the browser's below which this dashboard is.
        server: Origin of the server, which alone may frame dashboards.
    """
    given = [(name.lower(), value) for name, value in headers]
    dropped = _HOP_BY_HOP | _NOT_FROM_DASHBOARDS | _named_by_connection(given)
    kept = [(n, v) for n, v in given if n not in dropped and not n.startswith(b"access-control-")]
    kept = [(n, _location(v, authority, prefix) if n == b"location" else v) for n, v in kept]
    return [*kept, *guards(server)]


def guards(server: str) -> Headers:
    """Return the headers of everything on a dashboard's origin."""
    return [
        (b"content-security-policy", f"frame-ancestors {server}".encode()),
        (b"x-content-type-options", b"nosniff"),
        (b"referrer-policy", b"no-referrer"),
        (b"cross-origin-opener-policy", b"same-origin"),
        (b"cross-origin-resource-policy", b"same-origin"),
    ]


def from_own_page(headers: dict[bytes, bytes], method: str) -> bool:
    """Return whether a request comes from a page of the same origin, or from a person who follows a link.

    Clusters' origins are one *site* to browsers, which send cookies from one to the other; so the cookie alone does not
    say that the request is wanted.
    """
    origin = headers.get(b"origin")
    if origin is not None and urlsplit(origin.decode("latin-1")).netloc.lower() != host(headers):
        return False
    site = headers.get(b"sec-fetch-site", b"same-origin" if origin is not None or method in _SAFE else b"cross-site")
    if site in (b"same-origin", b"none"):
        return True
    navigates = headers.get(b"sec-fetch-mode") == b"navigate" and headers.get(b"sec-fetch-dest") in _DOCUMENTS
    return navigates and method in _SAFE


_SAFE = ("GET", "HEAD")
_DOCUMENTS = (b"document", b"iframe")


def host(headers: dict[bytes, bytes]) -> str:
    """Return the request's host, with port."""
    return headers.get(b"host", b"").decode("latin-1").lower()


def _named_by_connection(headers: Headers) -> frozenset[bytes]:
    values = b",".join(value for name, value in headers if name == b"connection")
    return frozenset(token.strip().lower() for token in values.split(b","))


def _location(value: bytes, authority: str, prefix: str) -> bytes:
    text = value.decode("latin-1")
    parts = urlsplit(text)
    if parts.netloc == authority:
        text = text.partition(authority)[2] or "/"
    return (prefix + text if text.startswith("/") and not text.startswith("//") else text).encode("latin-1")
