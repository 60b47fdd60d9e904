"""One request to the server and its answer: how it is written, when it is tried again, what a refusal means.

Nothing here waits or connects: that is what :mod:`ropewalk.client.http` adds, in a thread or on an event loop.
"""

from __future__ import annotations

import json
import platform
import random
import ssl
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Any, TypeVar, cast
from urllib.parse import urlsplit

import certifi
import httpx
from pydantic import BaseModel, SecretStr, TypeAdapter, ValidationError

from ropewalk._version import __version__
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

__all__ = ["PREFIX", "TIMEOUT", "USER_AGENT", "Exchange", "RetryPolicy", "check_server_url", "is_stream"]

T = TypeVar("T")

PREFIX = "/api/v1"
USER_AGENT = f"ropewalk/{__version__} python/{platform.python_version()} {platform.system().lower()}"

TIMEOUT = httpx.Timeout(30.0, connect=10.0)
"""Seconds. The server answers from its database, so an answer that takes longer is a fault."""

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


class Exchange:
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


def is_stream(response: httpx.Response) -> bool:
    """Return whether the answer is a stream of events."""
    return response.is_success and _content_type(response) == "text/event-stream"
