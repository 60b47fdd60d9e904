"""The first message of a TLS connection, read far enough to learn whom it is for. Nothing is decrypted or answered."""

from __future__ import annotations

import asyncio
import ssl

__all__ = ["NotTlsError", "read_hello"]

MAX_BYTES = 16 * 1024 + 5
"""One TLS record, with its header (RFC 8446, section 5.1): a greeting that is longer is not from a client of ours."""


class NotTlsError(Exception):
    """What came is not the beginning of a TLS connection."""


async def read_hello(reader: asyncio.StreamReader) -> tuple[str | None, bytes]:
    """Return the server name that a client asks for (None: no name), and all bytes read so far.

    Raises:
        NotTlsError: it speaks something else, or ended first.
        OSError: the connection broke.
    """
    hello = _Hello()
    read = bytearray()
    while not hello.complete:
        data = await reader.read(MAX_BYTES - len(read))
        if not data:
            raise NotTlsError("the connection ended, or went on too long, before it asked for anything")
        read += data
        hello.feed(data)
    return hello.name, bytes(read)


class _Hello:
    """OpenSSL itself reads the message, as a server would; it is stopped once it has found the name."""

    def __init__(self) -> None:
        self.name: str | None = None
        self.complete = False
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.sni_callback = self._found
        self._incoming = ssl.MemoryBIO()
        self._tls = context.wrap_bio(self._incoming, ssl.MemoryBIO(), server_side=True)

    def feed(self, data: bytes) -> None:
        self._incoming.write(data)
        try:
            self._tls.do_handshake()
        except ssl.SSLWantReadError:
            return
        except ssl.SSLError as exc:
            if not self.complete:
                raise NotTlsError(exc.reason or "not TLS") from None

    def _found(self, _tls: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        self.name, self.complete = name, True
        return ssl.ALERT_DESCRIPTION_UNRECOGNIZED_NAME  # ends the handshake here; nobody is sent this
