"""A cluster's metrics, for a Prometheus that has a token instead of a browser."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpcore
from starlette.responses import Response

from ropewalk.errors import ClusterError

if TYPE_CHECKING:
    from ropewalk.server.gateway.passes import Visit
    from ropewalk.server.gateway.upstreams import Upstreams

MAX_BYTES = 16 * 2**20
"""Prometheus's own advice is to stay below a tenth of that."""


async def read(upstreams: Upstreams, visit: Visit) -> Response:
    """Return the scheduler's ``/metrics``.

    Raises:
        ClusterError: the scheduler does not answer, or with more than a scheduler would.
    """
    upstream = await upstreams.get(visit)
    headers = [(b"host", b"localhost"), (b"accept", b"text/plain")]
    found = bytearray()
    try:
        with upstream.in_use():
            async with upstream.request(None, "GET", b"/metrics", headers, None) as response:
                async for data in response.aiter_stream():
                    found += data
                    if len(found) > MAX_BYTES:
                        raise ClusterError("The cluster's metrics are too large.")
                kind = next((v.decode("latin-1") for n, v in response.headers if n.lower() == b"content-type"), None)
                if response.status != 200 or not (kind or "").startswith("text/plain"):
                    raise ClusterError(
                        "The cluster's scheduler has no metrics.",
                        advice="Install prometheus-client in its environment.",
                    )
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError) as exc:
        raise ClusterError("The cluster's scheduler does not answer.", advice="Ask again in a moment.") from exc
    return Response(bytes(found), media_type=kind)
