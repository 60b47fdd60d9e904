"""Ports that are known before anybody listens on them, or on which nobody ever does."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator


@contextlib.contextmanager
def kept_port() -> Iterator[int]:
    """Yield a port of this machine that is given to nobody else for the length of the block.

    Connections to it are refused until somebody listens there who sets ``SO_REUSEADDR``, as servers do (socket(7)).
    """
    with socket.socket() as four, contextlib.ExitStack() as stack:
        four.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        four.bind(("127.0.0.1", 0))
        port: int = four.getsockname()[1]
        with contextlib.suppress(OSError):  # where there is no IPv6
            six = stack.enter_context(socket.socket(socket.AF_INET6))
            six.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            six.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            six.bind(("::1", port))
        yield port


class Ports:
    """Several such ports, which are kept until they are closed."""

    def __init__(self, count: int) -> None:
        self._held = contextlib.ExitStack()
        self.numbers = [self._held.enter_context(kept_port()) for _ in range(count)]

    def close(self) -> None:
        """Let go of them."""
        self._held.close()
