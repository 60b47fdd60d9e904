"""Compressing large pages, without telling those who can count bytes on the way what is in them.

Who can make a browser load a page with words of their choosing, and sees how long the compressed answer is, can guess
a secret in it letter by letter (the attack BREACH). The one secret of a page is what its forms carry, so that looks
different each time it is sent.
"""

from __future__ import annotations

import gzip
import secrets
from typing import TYPE_CHECKING

from fastapi.responses import HTMLResponse

if TYPE_CHECKING:
    from fastapi import Request, Response

__all__ = ["LEAST_BYTES", "mask", "pack", "unmask"]

LEAST_BYTES = 8_000
"""Smaller pages fit into the first few packets of a connection anyway."""
LEVEL = 4
"""Of gzip: a page of a thousand clusters in some 10 ms; higher levels take twice that for a tenth less."""


def pack(request: Request, response: Response) -> Response:
    """Compress a large page for a browser that takes that."""
    large = isinstance(response, HTMLResponse) and len(response.body) >= LEAST_BYTES
    if not large or "gzip" not in request.headers.get("accept-encoding", ""):
        return response
    response.body = gzip.compress(bytes(response.body), LEVEL, mtime=0)
    response.headers["Content-Encoding"] = "gzip"
    response.headers["Content-Length"] = str(len(response.body))
    response.headers["Vary"] = "Accept-Encoding"
    return response


def mask(token: str) -> str:
    """Return *token*, hexadecimal digits, in one of its many disguises."""
    plain = bytes.fromhex(token)
    pad = secrets.token_bytes(len(plain))
    return (pad + bytes(a ^ b for a, b in zip(pad, plain, strict=True))).hex()


def unmask(given: str) -> str:
    """Return what :func:`mask` was given; what it did not make comes back as it is."""
    try:
        both = bytes.fromhex(given)
    except ValueError:
        return given
    half = len(both) // 2
    return bytes(a ^ b for a, b in zip(both[:half], both[half:], strict=True)).hex() if len(both) == 64 else given
