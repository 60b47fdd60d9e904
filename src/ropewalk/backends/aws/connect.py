"""Opening a byte stream to a scheduler's address, and saying why not."""

from __future__ import annotations

import asyncio
import ipaddress

from ropewalk.errors import TryAgainError

__all__ = ["connect", "join", "split"]

CONNECT_SECONDS = 10.0
"""A TCP connection takes at most a second round the world; this allows three repetitions of a lost packet."""


def join(host: str, port: int) -> str:
    """Return the contact address of a host's port."""
    return f"tls://[{host}]:{port}" if ":" in host else f"tls://{host}:{port}"


def split(address: str) -> tuple[str, int]:
    """Return host and port of a contact address."""
    host, _, port = address.rpartition("://")[2].rpartition(":")
    return host.strip("[]"), int(port)


async def connect(name: str, address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to *address*, that of the scheduler *name*.

    Raises:
        TryAgainError: it cannot be reached; says what usually is the cause.
    """
    host, port = split(address)
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            return await asyncio.open_connection(host, port)
    except TimeoutError:
        why = f"{host}:{port} did not answer within {CONNECT_SECONDS:g} s"
        raise _unreachable(name, why, _dropped(host)) from None
    except ConnectionRefusedError:
        why = f"{host}:{port} refused the connection"
        advice = "It may still be starting, or have ended; its log says which."
        raise _unreachable(name, why, advice) from None
    except OSError as exc:
        why = f"no connection to {host}:{port} ({exc.strerror or exc})"
        raise _unreachable(name, why, _dropped(host)) from exc


def _unreachable(name: str, why: str, advice: str) -> TryAgainError:
    return TryAgainError(f"The scheduler {name} cannot be reached: {why}.", advice=advice)


def _dropped(host: str) -> str:
    if ipaddress.ip_address(host).is_private:
        return (
            "That is a private address: the server has to be in the same network or in a peered one (`peering`), and "
            "routes and security groups have to let it through."
        )
    return (
        "The security group lets only the addresses in allow_ingress_from reach port 8786: add the server's own with "
        "`ropewalk cloud-account set aws` and run prepare again. A firewall of the server may be in the way, too."
    )
