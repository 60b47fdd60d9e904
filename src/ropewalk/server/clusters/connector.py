"""How a scheduler is reached: the backend carries the bytes, TLS proves both sides, then Dask's handshake."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
import tempfile
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

from ropewalk.backends import wire
from ropewalk.backends.port import Backend, NodeHandle
from ropewalk.server.clusters.certificates import server_name

CONNECT_SECONDS = 10.0


def tls_context(tls: Mapping[str, str]) -> ssl.SSLContext:
    """Return a context that proves who we are and accepts only that cluster's own scheduler."""
    context = ssl.create_default_context(ssl.Purpose.SERVER_AUTH, cadata=tls["ca"])
    with tempfile.TemporaryDirectory(prefix="ropewalk-") as folder:
        # The ssl module reads keys from files only; the folder is ours alone and gone at once.
        path = Path(folder) / "pair.pem"
        path.touch(mode=0o600)
        path.write_text(tls["cert"] + tls["key"], "utf-8")
        context.load_cert_chain(path)
    return context


class Connector:
    """Opens connections to one scheduler, as the control plane.

    Args:
        backend: Carries the bytes.
        scheduler: The node to reach.
        address: Its contact address.
        tls: PEM texts of the control plane's certificate for it.
    """

    def __init__(self, backend: Backend, scheduler: NodeHandle, address: str, tls: Mapping[str, str]) -> None:
        self.address = address
        self.scheduler = scheduler
        self._backend = backend
        self._server_name = server_name(scheduler.cluster)
        self._context = tls_context(tls)

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """Return a connection on which messages can be exchanged; whoever asked aborts its transport.

        Raises:
            OSError: the scheduler is not there, or not that cluster's.
            TimeoutError: it did not answer.
            BackendError: the backend cannot reach it.
        """
        async with asyncio.timeout(CONNECT_SECONDS):
            reader, writer = await self._backend.connect(self.scheduler, self.address)
            try:
                await writer.start_tls(self._context, server_hostname=self._server_name)
                await wire.handshake(reader, writer)
            except BaseException:
                writer.transport.abort()
                raise
        return reader, writer

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[tuple[asyncio.StreamReader, asyncio.StreamWriter]]:
        """As :meth:`connect`, for the time of a ``with`` block."""
        reader, writer = await self.connect()
        try:
            yield reader, writer
        finally:
            # Nothing of ours is still to be sent, and a hung peer must not hold us: no orderly TLS end.
            writer.transport.abort()
