"""The HTTP client: runs the descriptions of :mod:`ropewalk.client.calls`, in a thread or on an event loop.

It raises only :class:`~ropewalk.errors.RopewalkError`. The token is sent and otherwise kept out of everything: errors,
representations, logs.
"""

from __future__ import annotations

import asyncio
import json
import platform
import random
import ssl
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast
from urllib.parse import urlsplit

import certifi
import httpx
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from ropewalk._version import __version__
from ropewalk.client import calls
from ropewalk.client.calls import Call
from ropewalk.client.sse import EventStream
from ropewalk.errors import (
    AuthenticationError,
    InputError,
    InternalError,
    RopewalkError,
    ServerUnreachableError,
    SettingsError,
    UnavailableError,
    VersionMismatchError,
    error_from_body,
)
from ropewalk.schemas.common import Event

__all__ = ["PREFIX", "USER_AGENT", "Answered", "Api", "AsyncApi", "RetryPolicy", "Steps", "check_server_url"]

T = TypeVar("T")

Steps: TypeAlias = Generator[Call[Any], Any, T]
"""Several calls, of which later ones depend on answers, written once for both clients: see :meth:`Api.drive`."""

PREFIX = "/api/v1"
USER_AGENT = f"ropewalk/{__version__} python/{platform.python_version()} {platform.system().lower()}"

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds. The server answers from its database, so an answer that takes longer is a fault."""

STREAM_SILENCE = 60.0
"""Seconds without a byte after which an event stream is taken for dead and opened again. The server sends a comment
more often than that."""

_PATIENT_STATUS = frozenset({429, 502, 503})
_UNREACHABLE_ADVICE = (
    "Check that it runs (`ropewalk server start`) and that `ropewalk.server` in the configuration, "
    "or DASK_ROPEWALK__SERVER, holds its address."
)


@dataclass(frozen=True)
class RetryPolicy:
    """When and how soon to repeat a call that may be repeated.

    Three more attempts after 0.2, 0.4 and 0.8 s (each varied by a quarter, so that many clients do not return in step)
    pass over a restart of a proxy; somebody who mistyped the address waits 1.4 s for the error.
    """

    attempts: int = 4
    first_delay: float = 0.2
    longest_wait: float = 30.0
    """Seconds. A server that asks to wait longer (Retry-After) is reported at once instead."""
    jitter: Callable[[], float] = random.random

    def delay(self, attempt: int, response: httpx.Response | None) -> float | None:
        """Seconds to wait after failed attempt number *attempt* (from 1); None: give up."""
        if attempt >= self.attempts:
            return None
        own = self.first_delay * 2.0 ** (attempt - 1) * (0.75 + 0.5 * self.jitter())
        asked = None if response is None else _retry_after(response)
        if asked is None:
            return own
        return max(asked, own) if asked <= self.longest_wait else None


def _retry_after(response: httpx.Response) -> float | None:
    """Seconds that the Retry-After header asks for (RFC 9110, section 10.2.3: a number, or a date)."""
    text = response.headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        when = parsedate_to_datetime(text)
    except ValueError:
        return None
    return float(max(0.0, (when.astimezone(UTC) - datetime.now(UTC)).total_seconds()))


def check_server_url(url: object) -> str:
    """Return *url* without a trailing slash, or raise a SettingsError that says what is wrong with it."""
    advice = "Set `ropewalk.server` (DASK_ROPEWALK__SERVER) to something like https://ropewalk.example.com."
    try:
        parts = urlsplit(url if isinstance(url, str) else "")
        usable = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # raises for a port that is no number
    except ValueError:
        usable = False
        parts = urlsplit("")
    if parts.username is not None or parts.password is not None:
        raise SettingsError(
            "The server's address must not contain a user name or password.", advice=advice, field="ropewalk.server"
        )
    if not usable or parts.query or parts.fragment:
        shown = str(url)[:200]
        raise SettingsError(f"{shown!r} is not the address of a server.", advice=advice, field="ropewalk.server")
    return cast("str", url).rstrip("/")


def _ssl_context(server: str) -> ssl.SSLContext:
    """Trust what the machine trusts (or SSL_CERT_FILE, SSL_CERT_DIR name), and the Mozilla list that httpx brings.

    Reading both takes some 50 ms, which an address without TLS has no use for: nothing is trusted there.
    """
    if urlsplit(server).scheme == "http":
        return ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context = ssl.create_default_context()
    context.load_verify_locations(certifi.where())
    return context


def _encode(value: object) -> Any:
    """Make JSON of what request models hold; secrets are revealed here and nowhere else."""
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, datetime | date):
        return value.isoformat()
    raise TypeError(f"{type(value).__name__} cannot be sent as JSON")


def _content(body: BaseModel) -> bytes:
    """Return the fields that were set, so that the server's own defaults and templates fill in the others."""
    try:
        return json.dumps(body.model_dump(exclude_unset=True), default=_encode, allow_nan=False).encode()
    except (TypeError, ValueError) as exc:
        raise InputError(
            f"The request cannot be written as JSON: {exc}.",
            advice="Use text, numbers, booleans, lists and dicts with text keys only.",
        ) from None


class _Core:
    """What the synchronous and the asynchronous client share: everything but the waiting."""

    def __init__(self, server: str, token: str | None = None, *, retry: RetryPolicy | None = None) -> None:
        self.server = check_server_url(server)
        self._token = token
        self._retry = retry or RetryPolicy()

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.server!r})"

    def _settings(self, transport: Any) -> dict[str, Any]:
        loopback = urlsplit(self.server).hostname in ("127.0.0.1", "::1", "localhost")
        return {
            "headers": {"User-Agent": USER_AGENT, "Accept": "application/json"},
            "timeout": TIMEOUT,
            "transport": transport,
            "verify": _ssl_context(self.server),
            # A proxy of the network cannot reach this machine's own loopback interface.
            "trust_env": not loopback,
        }

    def _request(self, client: httpx.Client | httpx.AsyncClient, call: Call[Any], **options: Any) -> httpx.Request:
        headers = dict(options.pop("headers", {}))
        if not call.anonymous and self._token is not None:
            headers["Authorization"] = f"Bearer {self._token}"
        content = None
        if call.body is not None:
            content = _content(call.body)
            headers["Content-Type"] = "application/json"
        elif call.content is not None:
            content = call.content
            headers["Content-Type"] = call.content_type
        if call.seconds is not None:
            options["timeout"] = httpx.Timeout(call.seconds, connect=TIMEOUT.connect)
        url = f"{self.server}{PREFIX}{call.path}"
        try:
            return client.build_request(
                call.method, url, params=dict(call.params), content=content, headers=headers, **options
            )
        except (UnicodeEncodeError, httpx.InvalidURL):
            # The message of the encoder would quote what it could not encode, which may be the token.
            raise SettingsError(
                "The token or the server's address holds characters that cannot be sent.",
                advice="Log in again with `ropewalk login`.",
            ) from None

    def _again(self, call: Call[Any], attempt: int, response: httpx.Response | None) -> float | None:
        if not call.repeatable or (response is not None and response.status_code not in _PATIENT_STATUS):
            return None
        return self._retry.delay(attempt, response)

    def _answer(self, call: Call[T], response: httpx.Response) -> T:
        if not response.is_success:
            raise self._refusal(call, response)
        if call.answer is None:
            return cast("T", None)
        if call.answer is bytes:
            return cast("T", response.content)
        if not _is_json(response):
            raise self._stranger(response)
        try:
            # A newer server may add fields: they are passed over.
            return cast("T", TypeAdapter(call.answer).validate_json(response.content, extra="ignore"))
        except ValidationError as exc:
            first = exc.errors(include_input=False, include_url=False)[0]
            where = ".".join(map(str, first["loc"])) or "the whole"
            raise self._other_version(call, f"its answer cannot be read at {where}: {first['msg']}") from None

    def _refusal(self, call: Call[Any], response: httpx.Response) -> RopewalkError:
        body = _error_body(response)
        if body is not None:
            return self._reported(response, body)
        status = response.status_code
        if status == httpx.codes.UNAUTHORIZED:
            return self._reported(response, {"code": "not_authenticated", "message": "The token was not accepted."})
        if status in (502, 503, 504):
            return UnavailableError(
                f"{self.server} answers with HTTP {status}: the server behind it is not there or is starting.",
                advice="Try again in a moment; if it lasts, look at the server's log.",
            )
        if _is_json(response):
            return self._plain_failure(call, status)
        return self._stranger(response)

    def _plain_failure(self, call: Call[Any], status: int) -> RopewalkError:
        """Explain JSON without our error body: a server that does not know the call, or one that is broken."""
        if status < httpx.codes.INTERNAL_SERVER_ERROR:
            return self._other_version(call, f"it answers {call.method} {PREFIX}{call.path} with HTTP {status}")
        return InternalError(f"{self.server} failed with HTTP {status}.", advice="Look at the server's log.")

    def _reported(self, response: httpx.Response, body: Mapping[str, Any]) -> RopewalkError:
        error = error_from_body(body)
        request_id = body.get("request_id") or response.headers.get("X-Request-Id")
        if request_id:
            error.details.setdefault("request_id", request_id)
        if response.status_code == httpx.codes.UNAUTHORIZED and isinstance(error, AuthenticationError):
            error.message = f"{error.message.rstrip('.')} ({self.server})."
            if "ropewalk login" not in (error.advice or ""):
                error.advice = f"Log in with `ropewalk login --server {self.server}`."
        return error

    def _stranger(self, response: httpx.Response) -> RopewalkError:
        if response.is_redirect:
            return ServerUnreachableError(
                f"{self.server} sends its visitors on to another address ({_shown_location(response)}).",
                advice="Set `ropewalk.server` to the address that finally answers.",
            )
        kind = _content_type(response) or "no content type"
        hint = ""
        if "HTTPS port" in response.text[:2000] or "HTTP request to an HTTPS" in response.text[:2000]:
            hint = " It expects https://."
        return ServerUnreachableError(
            f"Something answers at {self.server}, but it is not a Ropewalk server "
            f"(HTTP {response.status_code}, {kind}).{hint}",
            advice="Perhaps a proxy or a login page stands in between. " + _UNREACHABLE_ADVICE,
        )

    def _other_version(self, call: Call[Any], why: str) -> RopewalkError:
        return VersionMismatchError(
            f"The server at {self.server} and this client (ropewalk {__version__}) do not match: {why}.",
            advice="Install the same version of ropewalk on both; `ropewalk diagnostics` shows them.",
            details={"client": __version__, "call": f"{call.method} {call.path}"},
        )

    def _events(self, call: Call[Any], parser: EventStream, text: str) -> Iterator[Event]:
        try:
            for message in parser.feed(text):
                yield Event.model_validate_json(message.data, extra="ignore")
        except ValueError as exc:  # pydantic's ValidationError is one, too
            raise self._other_version(call, f"an event cannot be read ({type(exc).__name__})") from None

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn the faults of the network into errors that say what to check."""
        try:
            yield
        except httpx.TransportError as exc:
            raise self._unreachable(exc) from exc

    def _unreachable(self, exc: httpx.TransportError) -> ServerUnreachableError:
        tls = next((cause for cause in _causes(exc) if isinstance(cause, ssl.SSLError)), None)
        if tls is not None or "SSL" in str(exc):
            return self._tls_failure(str(tls or exc))
        if isinstance(exc, httpx.ConnectTimeout):
            cause = f"no connection within {TIMEOUT.connect:g} s (firewall, wrong address?)"
        elif isinstance(exc, httpx.TimeoutException):
            waited = exc.request.extensions.get("timeout", {}).get("read", TIMEOUT.read)
            cause = f"no answer within {waited:g} s"
        elif isinstance(exc, httpx.ConnectError):
            cause = _connect_cause(exc)
        elif isinstance(exc, httpx.ProxyError):
            cause = f"the proxy said: {exc}"
        else:
            cause = f"the connection broke off ({exc or type(exc).__name__})"
        return ServerUnreachableError(
            f"No Ropewalk server answers at {self.server}: {cause}.",
            advice=_UNREACHABLE_ADVICE,
            details={"server": self.server},
        )

    def _tls_failure(self, text: str) -> ServerUnreachableError:
        if "WRONG_VERSION_NUMBER" in text or "RECORD_LAYER" in text:
            advice = "The server speaks plain HTTP there: use an address that begins with http://."
        elif "CERTIFICATE_VERIFY_FAILED" in text:
            advice = "If its certificate comes from a private authority, name that in SSL_CERT_FILE (a PEM file)."
        else:
            advice = "Check the certificate of the server, and that a proxy does not stand in between."
        return ServerUnreachableError(
            f"TLS with {self.server} failed: {text}.", advice=advice, details={"server": self.server}
        )


def _causes(exc: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = exc
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _connect_cause(exc: httpx.ConnectError) -> str:
    for cause in _causes(exc):
        if isinstance(cause, ConnectionRefusedError):
            return "the connection was refused, nothing listens there"
    text = str(exc)
    if "Name or service not known" in text or "nodename nor servname" in text or "name resolution" in text:
        return "the host name is not known to DNS"
    if "All connection attempts failed" in text or "Connection refused" in text:
        return "the connection was refused, nothing listens there"
    return text or "the connection failed"


def _content_type(response: httpx.Response) -> str:
    return str(response.headers.get("Content-Type", "")).partition(";")[0].strip().lower()


def _is_json(response: httpx.Response) -> bool:
    return _content_type(response) == "application/json"


def _error_body(response: httpx.Response) -> Mapping[str, Any] | None:
    try:
        body = response.json()["error"]
    except (ValueError, KeyError, TypeError):
        return None
    return body if isinstance(body, dict) and "code" in body else None


def _shown_location(response: httpx.Response) -> str:
    parts = urlsplit(response.headers.get("Location", ""))
    return f"{parts.scheme}://{parts.hostname}" if parts.hostname else "of the same host"


class Api(_Core):
    """The synchronous client, used as ``api(calls.me())``. A context manager; closing frees its connections.

    Args:
        server: ``http://`` or ``https://`` address, with a path if the server is mounted below one.
        token: Sent as a bearer token; None: only anonymous calls will succeed.
        retry: When calls are repeated.
        transport: For tests: where requests go instead of the network.
        sleep: For tests: how to wait.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(server, token, retry=retry)
        self._sleep = sleep
        self._client = httpx.Client(**self._settings(transport))

    def __call__(self, call: Call[T]) -> T:
        """Run *call* and return its answer.

        Raises:
            RopewalkError: what the server reported, or why it could not be asked.
        """
        with self._translated():
            return self._answer(call, self._exchange(call))

    def drive(self, steps: Steps[T]) -> T:
        """Run the calls that *steps* yields, sending it their answers; return what it returns."""
        try:
            call = next(steps)
            while True:
                try:
                    answer = self(call)
                except RopewalkError as exc:
                    call = steps.throw(exc)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            return cast("T", done.value)

    def _exchange(self, call: Call[Any]) -> httpx.Response:
        attempt = 0
        while True:
            attempt += 1
            try:
                response = self._client.send(self._request(self._client, call))
            except httpx.TransportError:
                delay = self._again(call, attempt, None)
                if delay is None:
                    raise
            else:
                delay = self._again(call, attempt, response)
                if delay is None:
                    return response
            self._sleep(delay)

    def follow_events(self, account: str, cluster: str, *, after: int | None = None) -> Iterator[Event]:
        """Yield a cluster's events, those that exist and those to come, until it has stopped.

        A broken connection is opened again, from the last event that was seen.
        """
        events = calls.list_events(account, cluster)
        return self._follow(events, lambda: self(calls.get_cluster(account, cluster)).state.live, after)

    def follow_cloud_account(
        self, account: str, cloud_account: str | None = None, *, after: int | None = None
    ) -> Iterator[Event]:
        """Yield a cloud account's events until no work on it is under way.

        A broken connection is opened again, from the last event that was seen.
        """
        events = calls.list_cloud_account_events(account, cloud_account)
        return self._follow(
            events, lambda: self(calls.get_cloud_account(account, cloud_account)).state.under_way, after
        )

    def _follow(self, events: Call[Any], more: Callable[[], bool], after: int | None) -> Iterator[Event]:
        patience = _Patience(self._retry)
        while True:
            try:
                with self._translated():
                    for event in self._stream(_followed(events, after)):
                        patience.reset()
                        after = event.id
                        yield event
                if not more():
                    return
                self._sleep(patience.short())
            except (ServerUnreachableError, UnavailableError) as exc:
                self._sleep(patience.next_delay(exc))

    def _stream(self, call: Call[Any]) -> Iterator[Event]:
        request = self._request(self._client, call, **_STREAMING)
        response = self._client.send(request, stream=True)
        try:
            if not _is_stream(response):
                response.read()
                raise self._refusal(call, response)
            parser = EventStream()
            for text in response.iter_text():
                yield from self._events(call, parser, text)
        finally:
            response.close()

    def clock_skew(self) -> float | None:
        """Return how many seconds the server's clock is ahead of ours, to about a second; None if it does not say."""
        before = datetime.now(UTC)
        with self._translated():
            response = self._client.get(f"{self.server}/healthz")
        told = _date(response)
        if told is None:
            return None
        middle = before + (datetime.now(UTC) - before) / 2
        # The header is cut off to whole seconds: half of one is the best guess of what is missing.
        return round((told - middle).total_seconds() + 0.5, 1)

    def close(self) -> None:
        self._client.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Answered(Generic[T]):
    """An answer and how it came: after several attempts, the effect may be of an earlier one."""

    answer: T
    status: int
    attempts: int


class AsyncApi(_Core):
    """The asynchronous client, used as ``await api(calls.me())``; see :class:`Api`.

    It may be closed and used again: connections belong to the event loop that runs when they are opened.
    """

    def __init__(
        self,
        server: str,
        token: str | None = None,
        *,
        retry: RetryPolicy | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
        sleep: Callable[[float], Any] = asyncio.sleep,
    ) -> None:
        super().__init__(server, token, retry=retry)
        self._sleep = sleep
        self._transport = transport
        self._opened: httpx.AsyncClient | None = None

    @property
    def _client(self) -> httpx.AsyncClient:
        if self._opened is None:
            self._opened = httpx.AsyncClient(**self._settings(self._transport))
        return self._opened

    async def __call__(self, call: Call[T]) -> T:
        """Run *call* and return its answer.

        Raises:
            RopewalkError: what the server reported, or why it could not be asked.
        """
        return (await self.full(call)).answer

    async def full(self, call: Call[T]) -> Answered[T]:
        """Run *call*; return its answer, the HTTP status (which tells created from found) and the attempts it took."""
        with self._translated():
            response, attempts = await self._exchange(call)
            return Answered(self._answer(call, response), response.status_code, attempts)

    async def drive(self, steps: Steps[T]) -> T:
        """Run the calls that *steps* yields, sending it their answers; return what it returns."""
        try:
            call = next(steps)
            while True:
                try:
                    answer = await self(call)
                except RopewalkError as exc:
                    call = steps.throw(exc)
                else:
                    call = steps.send(answer)
        except StopIteration as done:
            return cast("T", done.value)

    async def _exchange(self, call: Call[Any]) -> tuple[httpx.Response, int]:
        attempt = 0
        while True:
            attempt += 1
            try:
                response = await self._client.send(self._request(self._client, call))
            except httpx.TransportError:
                delay = self._again(call, attempt, None)
                if delay is None:
                    raise
            else:
                delay = self._again(call, attempt, response)
                if delay is None:
                    return response, attempt
            await self._sleep(delay)

    async def follow_events(
        self, account: str, cluster: str, *, after: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield a cluster's events, those that exist and those to come, until it has stopped.

        A broken connection is opened again, from the last event that was seen.
        """

        async def live() -> bool:
            return (await self(calls.get_cluster(account, cluster))).state.live

        async with aclosing(self._follow(calls.list_events(account, cluster), live, after)) as events:
            async for event in events:
                yield event

    async def follow_cloud_account(
        self, account: str, cloud_account: str | None = None, *, after: int | None = None
    ) -> AsyncGenerator[Event, None]:
        """Yield a cloud account's events until no work on it is under way; see :meth:`follow_events`."""

        async def under_way() -> bool:
            return (await self(calls.get_cloud_account(account, cloud_account))).state.under_way

        call = calls.list_cloud_account_events(account, cloud_account)
        async with aclosing(self._follow(call, under_way, after)) as events:
            async for event in events:
                yield event

    async def _follow(
        self, call: Call[Any], more: Callable[[], Awaitable[bool]], after: int | None
    ) -> AsyncGenerator[Event, None]:
        patience = _Patience(self._retry)
        while True:
            try:
                with self._translated():
                    async with aclosing(self._stream(_followed(call, after))) as events:
                        async for event in events:
                            patience.reset()
                            after = event.id
                            yield event
                if not await more():
                    return
                await self._sleep(patience.short())
            except (ServerUnreachableError, UnavailableError) as exc:
                await self._sleep(patience.next_delay(exc))

    async def _stream(self, call: Call[Any]) -> AsyncGenerator[Event, None]:
        request = self._request(self._client, call, **_STREAMING)
        response = await self._client.send(request, stream=True)
        try:
            if not _is_stream(response):
                await response.aread()
                raise self._refusal(call, response)
            parser = EventStream()
            async for text in response.aiter_text():
                for event in self._events(call, parser, text):
                    yield event
        finally:
            await response.aclose()

    async def aclose(self) -> None:
        """Close the connections; the next call opens new ones."""
        client, self._opened = self._opened, None
        if client is not None:
            await client.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.aclose()


_STREAMING: Mapping[str, Any] = {
    "headers": {"Accept": "text/event-stream"},
    "timeout": httpx.Timeout(TIMEOUT.read, connect=TIMEOUT.connect, read=STREAM_SILENCE),
}


class _Patience:
    """How long to keep opening a stream that breaks: over a restart of the server, and not for ever."""

    _GIVE_UP_AFTER = 60.0
    """Seconds of failures in a row; a restart with a database migration takes a few."""

    def __init__(self, policy: RetryPolicy) -> None:
        self._jitter = policy.jitter
        self.reset()

    def reset(self) -> None:
        self._failures = 0
        self._waited = 0.0

    def short(self) -> float:
        """Seconds to wait after the server closed the stream of a live cluster, as it does when it shuts down."""
        return 0.2 * (0.75 + 0.5 * self._jitter())

    def next_delay(self, failure: RopewalkError) -> float:
        """Seconds to wait after *failure*, which is raised when patience is at an end."""
        if self._waited >= self._GIVE_UP_AFTER:
            raise failure
        delay = min(5.0, 0.2 * 2.0**self._failures) * (0.75 + 0.5 * self._jitter())
        self._failures += 1
        self._waited += delay
        return delay


def _followed(call: Call[Any], after: int | None) -> Call[Any]:
    """Return the call that streams what *call* lists, from after that event on."""
    seen = {} if after is None else {"after": after}
    return Call(call.method, call.path, None, params={**call.params, **seen, "follow": "true"})


def _is_stream(response: httpx.Response) -> bool:
    return response.is_success and _content_type(response) == "text/event-stream"


def _date(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return None
