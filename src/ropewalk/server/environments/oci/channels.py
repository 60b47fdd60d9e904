"""How conda channels are asked: with the credentials that are meant for them, and what it means when they refuse.

py-rattler reads and downloads. What was read with credentials is cached apart from what anybody may read.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.schemas.environments import covers
from ropewalk.server.environments.builder import Credential

__all__ = ["BEARER", "IN_PATH", "Channels", "explain", "rattler", "without_tokens"]

BEARER = "__token__"
"""User name of credentials whose password is a token: sent as such, and not as a password."""
IN_PATH = "__conda__"
"""User name of credentials whose password is a token as anaconda.org has them: a part of the address, ``/t/TOKEN/``."""
_TOKEN = re.compile(r"/t/[^/\s]+/")


def rattler() -> Any:
    """Return py-rattler.

    Raises:
        FixItError: It is not installed.
    """
    try:
        import rattler  # noqa: PLC0415 - 30 MB, for environments from conda only
        import rattler.exceptions  # noqa: PLC0415 - as above
        import rattler.networking  # noqa: PLC0415 - as above
        import rattler.package  # noqa: PLC0415 - as above
        import rattler.package_streaming  # noqa: PLC0415 - as above
    except ImportError:
        raise FixItError(
            "The server cannot build environments from conda packages: py-rattler is not installed.",
            advice="An operator runs, in the server's checkout of Ropewalk: pip install '.[server]', and restarts it.",
            field="conda",
        ) from None
    return rattler


@dataclass(frozen=True, slots=True)
class Channels:
    """What is needed to read channels and to download from them."""

    cache: Path
    """Folder; one for each account that has credentials, as what they open is in it."""
    credentials: Sequence[Credential] = field(default=(), repr=False)

    def gateway(self, channels: Sequence[str]) -> Any:
        """Return what reads *channels*.

        Raises:
            FixItError: Credentials could get to another server on the host that they are for.
        """
        self._refuse_mixed(channels)
        library = rattler()
        headers = library.networking.AddHeadersMiddleware(self._headers)
        client = library.Client([headers, *(_rewriting(each) for each in self.credentials if each.username == IN_PATH)])
        return library.Gateway(cache_dir=self.cache / "channels", client=client)

    def downloader(self, url: str) -> Any:
        """Return what downloads *url*. A server that it is sent on to gets no credentials if it has another name."""
        found = next((each for each in self.credentials if covers(each.url, url)), None)
        if found is not None and found.username == IN_PATH:
            return rattler().Client([_rewriting(found)])
        return rattler().Client(headers=None if found is None else _header(found))

    def _headers(self, host: str, path: str) -> dict[str, str] | None:
        """Return the headers of a request; py-rattler names neither its scheme nor its port."""
        for each in self.credentials:
            parts = urlsplit(each.url)
            if each.username != IN_PATH and parts.hostname == host and covers(parts.path or "/", path):
                return _header(each)
        return None

    def _refuse_mixed(self, channels: Sequence[str]) -> None:
        for each in self.credentials:
            own = urlsplit(each.url)
            for channel in map(urlsplit, channels):
                if channel.hostname == own.hostname and (channel.scheme, channel.netloc) != (own.scheme, own.netloc):
                    raise FixItError(
                        f"The credentials {each.name!r} are for {own.scheme}://{own.netloc}, and the channel "
                        f"{channel.geturl()} is on another server of that host, which could not be kept from them.",
                        advice="Write scheme and port of the channel as in the credentials, or leave it out.",
                        field="credentials",
                    )


def _rewriting(credential: Credential) -> Any:
    """Return what puts the token into addresses as they are asked for: no package has it in the address it is from."""
    url = credential.url.rstrip("/") + "/"
    parts = urlsplit(url)
    secret = parts._replace(path=f"/t/{quote(credential.password, safe='')}{parts.path}").geturl()
    return rattler().networking.MirrorMiddleware({url: [secret]})


def _header(credential: Credential) -> dict[str, str]:
    if credential.username == BEARER:
        return {"Authorization": f"Bearer {credential.password}"}
    pair = base64.b64encode(f"{credential.username}:{credential.password}".encode()).decode()
    return {"Authorization": f"Basic {pair}"}


def without_tokens(text: str) -> str:
    """Return what py-rattler says without the tokens that addresses hold."""
    return _TOKEN.sub("/t/***/", text)


def explain(error: Exception, channels: Sequence[str]) -> BackendError:
    """Return the error for channels that could not be read."""
    text, named = without_tokens(str(error)), " or ".join(channels)
    if "401" in text or "403" in text:
        return FixItError(
            f"The conda channel {named} refused access.",
            advice="Store credentials for it with `ropewalk env credentials set`, and name them in the environment.",
            field="credentials",
        )
    if "404" in text or "410" in text:
        return FixItError(
            f"There is no conda channel {named}: {text.splitlines()[0]}.",
            advice="Check its name or address; a name alone is one on conda.anaconda.org.",
            field="conda",
        )
    return TryAgainError(f"A conda channel could not be read: {' '.join(text.split())}.", delay=10.0, field="conda")
