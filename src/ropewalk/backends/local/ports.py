"""A scheduler's port, known before the scheduler runs, so that its workers start together with it."""

from __future__ import annotations

import ipaddress
import socket
from urllib.parse import urlsplit

from ropewalk.backends.local.processes import LINUX
from ropewalk.errors import FixItError

INHERIT = LINUX
"""On Linux a bound socket that does not listen keeps its port from everyone but those who name it with SO_REUSEADDR,
as Dask does; so the node inherits it. Elsewhere it would be in Dask's way, and is closed just before the start."""


def join(host: str, port: int) -> str:
    """Return the address of *host* and *port* as Dask writes it."""
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


def port_of(address: str) -> int:
    """Return the port of ``tls://host:port``.

    Raises:
        FixItError: it is no such address.
    """
    try:
        port = urlsplit(address).port
    except ValueError:
        port = None
    if port is None:
        raise FixItError(f"{address[:100]!r} is not the address of a scheduler.", field="address")
    return port


def reachable(listen_host: str) -> str:
    """Return the host by which this machine itself reaches what listens on *listen_host*."""
    try:
        address = ipaddress.ip_address(listen_host)
    except ValueError:
        return listen_host
    if not address.is_unspecified:
        return listen_host
    return "::1" if address.version == 6 else "127.0.0.1"


def reserve(host: str, wanted: int | None) -> socket.socket:
    """Bind a port of *host* without listening: *wanted* if it is free, else any.

    Raises:
        FixItError: the host is not one of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, 0, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except OSError as exc:
        raise _unusable(host, exc) from exc
    for port in (wanted, 0):
        if port is None:
            continue
        bound = socket.socket(family, kind, protocol)
        try:
            bound.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            bound.bind((address[0], port, *address[2:]))
        except OSError as exc:
            bound.close()
            if port == 0:
                raise _unusable(host, exc) from exc
        else:
            return bound
    raise AssertionError  # the loop above ends with port 0, which returns or raises


def _unusable(host: str, exc: OSError) -> FixItError:
    return FixItError(
        f"Schedulers cannot listen on {host!r}: {exc.strerror or exc}.",
        field="listen_host",
        advice="Set it to an address of this machine.",
    )
