"""Requests to one registry: authentication, patience, and errors that say what to do."""

from __future__ import annotations

import asyncio
import random
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import httpx

from ropewalk.errors import BackendError, FixItError, TryAgainError
from ropewalk.server.environments.oci.access import Access, Challenge

__all__ = ["RegistryHttp", "Sleep"]

TRIES = 6
"""Of each request: with the delays below, a registry may be away for some 15 s."""
_DELAY, _MOST_DELAY = 0.5, 8.0
"""Seconds before the second try, doubled for each further one."""
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_REDIRECTS = 5
_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_LONGEST_WAIT = 60.0
"""Seconds: a registry that asks for more is told to the user."""

Sleep = Callable[[float], Awaitable[None]]


class RegistryHttp:
    """Talks to the registry at *host*. Raises only BackendError, which never holds a credential."""

    def __init__(self, host: str, access: Access, sleep: Sleep = asyncio.sleep) -> None:
        self.host = host
        self.base = access.base(host)
        self._access = access
        self._sleep = sleep
        self._client = httpx.AsyncClient(verify=access.tls(), timeout=_TIMEOUT, headers={"User-Agent": "ropewalk"})
        self._tokens: dict[str, str] = {}
        self._basic = False

    async def aclose(self) -> None:
        await self._client.aclose()

    async def send(
        self,
        method: str,
        path: str,
        *,
        scope: str,
        headers: Mapping[str, str] | None = None,
        content: bytes | None = None,
        accept: tuple[int, ...] = (),
        again: bool = True,
    ) -> httpx.Response:
        """Send a request and read the answer: a success, or one of the statuses in *accept*.

        Args:
            method: Of HTTP.
            path: Below the registry, or a complete address that it gave.
            scope: What a token has to be good for: ``repository:NAME:pull,push``.
            headers: Further ones.
            content: The body.
            accept: Statuses beside the successes that are no error.
            again: Whether a request whose answer was lost may be sent again.
        """
        for attempt in range(1, TRIES + 1):
            try:
                async with self._answer(method, path, scope, headers, content) as answer:
                    await answer.aread()
            except httpx.TransportError as exc:
                await self._patience(attempt, self._unreachable(exc), again=again)
                continue
            if answer.status_code in _AGAIN and answer.status_code not in accept:
                await self._patience(attempt, self.refused(answer, method), answer)
                continue
            if answer.is_success or answer.status_code in accept:
                return answer
            raise self.refused(answer, method)
        raise AssertionError  # pragma: no cover - the last attempt raises

    @asynccontextmanager
    async def stream(
        self, path: str, *, scope: str, headers: Mapping[str, str] | None = None
    ) -> AsyncIterator[httpx.Response]:
        """Open an answer to be read bit by bit; tried once. Raises httpx.TransportError, too."""
        async with self._answer("GET", path, scope, headers, None) as answer:
            yield answer

    async def wait(self, attempt: int, error: BackendError) -> None:
        """Wait before another attempt; raise *error* if that was the last."""
        await self._patience(attempt, error)

    async def _patience(
        self, attempt: int, error: BackendError, answer: httpx.Response | None = None, *, again: bool = True
    ) -> None:
        delay = min(_DELAY * 2 ** (attempt - 1), _MOST_DELAY) * random.uniform(0.8, 1.2)  # noqa: S311 - only spreads
        asked = answer.headers.get("Retry-After", "") if answer is not None else ""
        if asked.isdecimal():
            delay = max(delay, float(asked))
        if attempt >= TRIES or not again or delay > _LONGEST_WAIT or not isinstance(error, TryAgainError):
            raise error
        await self._sleep(delay)

    @asynccontextmanager
    async def _answer(
        self, method: str, path: str, scope: str, headers: Mapping[str, str] | None, content: bytes | None
    ) -> AsyncIterator[httpx.Response]:
        """Yield the answer to a request that is authenticated as the registry wishes."""
        for fresh in (True, True, False):  # no credentials yet; those that have expired; the answer stands
            answer = await self._follow(method, self.url(path), scope, headers, content)
            try:
                if answer.status_code == 401 and fresh and await self._authenticate(answer, scope):
                    continue
                yield answer
                return
            finally:
                await answer.aclose()

    def url(self, path: str) -> httpx.URL:
        return httpx.URL(self.base).join(path)

    async def _follow(
        self, method: str, url: httpx.URL, scope: str, headers: Mapping[str, str] | None, content: bytes | None
    ) -> httpx.Response:
        for _ in range(_REDIRECTS):
            own = self._is_own(url)
            request = self._client.build_request(method, url, headers=dict(headers or {}), content=content)
            if own:
                request.headers.update(self._authorization(scope))
            answer = await self._client.send(request, stream=True, auth=None)
            if not answer.has_redirect_location or method not in ("GET", "HEAD"):
                return answer
            await answer.aclose()
            url = url.join(answer.headers["Location"])
            if not self._access.may_ask(url):
                raise FixItError(f"The registry {self.host} sends on to {url.host}, without encryption.")
        raise FixItError(f"The registry {self.host} sends in circles.")

    def _is_own(self, url: httpx.URL) -> bool:
        own = httpx.URL(self.base)
        return (url.scheme, url.host, url.port) == (own.scheme, own.host, own.port)

    def _authorization(self, scope: str) -> dict[str, str]:
        basic = self._access.basic()
        if self._basic and basic is not None:
            request = next(basic.auth_flow(httpx.Request("GET", self.base)))
            return {"Authorization": request.headers["Authorization"]}
        token = self._tokens.get(scope)
        return {"Authorization": f"Bearer {token}"} if token else {}

    async def _authenticate(self, answer: httpx.Response, scope: str) -> bool:
        """Get what the registry asked for; False: there is nothing (more) to offer."""
        challenge = Challenge.parse(answer.headers.get("WWW-Authenticate", ""))
        sent = answer.request.headers.get("Authorization")
        if challenge.scheme == "basic":
            self._basic = True
            return sent is None and self._access.basic() is not None
        if challenge.scheme != "bearer":
            return False
        known = self._tokens.get(scope)
        if known is None or sent == f"Bearer {known}":  # else another request has got a new one meanwhile
            self._tokens[scope] = await self._token(challenge, scope)
        return True

    async def _token(self, challenge: Challenge, scope: str) -> str:
        try:
            url = self.url(challenge.parameters.get("realm", ""))
        except httpx.InvalidURL:
            raise FixItError(f"The registry {self.host} names no place to get a token from.") from None
        if not self._access.may_ask(url):
            raise FixItError(f"The registry {self.host} wants its password sent to {url.host} without encryption.")
        asked = {"scope": scope} | {k: v for k, v in challenge.parameters.items() if k == "service"}
        for attempt in range(1, TRIES + 1):
            try:
                basic = self._access.basic()
                answer = (
                    await self._client.get(url.copy_merge_params(asked), auth=basic)
                    if basic
                    else (await self._client.get(url.copy_merge_params(asked), auth=None))
                )
            except httpx.TransportError as exc:
                await self._patience(attempt, self._unreachable(exc))
                continue
            if answer.status_code in _AGAIN:
                await self._patience(attempt, self.refused(answer, "GET"), answer)
                continue
            return self._token_in(answer)
        raise AssertionError  # pragma: no cover - the last attempt raises

    def _token_in(self, answer: httpx.Response) -> str:
        if not answer.is_success:
            raise self.refused(answer, "GET")
        try:
            body = answer.json()
            token = body.get("token") or body.get("access_token")
        except (ValueError, AttributeError):
            token = None
        if not isinstance(token, str):
            raise FixItError(f"The registry {self.host} answered without a token.")
        return token

    def _unreachable(self, exc: httpx.TransportError) -> BackendError:
        cause: BaseException | None = exc
        while cause is not None:
            if isinstance(cause, ssl.SSLCertVerificationError):
                return FixItError(
                    f"The registry {self.host} shows a certificate that is not trusted: {cause.verify_message}.",
                    advice="Give the certificate of its authority with the registry's settings.",
                    field="ca",
                )
            if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
                return FixItError(
                    f"The registry {self.host} cannot be reached: there is no such host.",
                    advice="Check the name for a slip; if it is right, the server's DNS does not know it.",
                )
            cause = cause.__cause__ or cause.__context__
        return TryAgainError(
            f"The registry {self.host} cannot be reached: {exc or type(exc).__name__}.",
            delay=30.0,
            advice="Is its address right, and does it run?",
        )

    def refused(self, answer: httpx.Response, method: str) -> BackendError:
        """Return the error that an answer means. Its body has been read, or is not told."""
        status, why = answer.status_code, _reason(answer)
        if status in _AGAIN:
            return TryAgainError(f"The registry {self.host} answers {status}{why}.", delay=30.0)
        if status in (401, 403):
            what = "reading" if method in ("GET", "HEAD") else "writing"
            if self._access.basic():
                known, advice = "these credentials", "Check the user name, the password and what they may do there."
            else:
                known = "no credentials"
                advice = (
                    f"Store some for {self.base}, in the browser or with `ropewalk env credentials set`, and name them "
                    "where the registry is named: in the environment, or in the cloud account's settings."
                )
            return FixItError(
                f"The registry {self.host} refuses {what} with {known} ({status}){why}.",
                advice=advice,
                field="password",
                details={"status": status},
            )
        if status == 404:
            return FixItError(
                f"The registry {self.host} has no such image or repository{why}.",
                advice="Check the name and the tag; some registries answer the same to those who may not see it.",
                details={"status": status},
            )
        return FixItError(f"The registry {self.host} answers {status}{why}.", details={"status": status})


def _reason(answer: httpx.Response) -> str:
    """Return what the registry says, as the end of a sentence; nothing, if it says nothing."""
    try:
        first: Any = answer.json()["errors"][0]
        text = f"{first.get('code', '')} {first.get('message', '')}".strip()
    except (ValueError, LookupError, TypeError, AttributeError, httpx.ResponseNotRead, httpx.StreamError):
        return ""
    return f": {text[:300]}" if text else ""
