"""The HTTP client: runs the descriptions of :mod:`ropewalk.client.calls`, in a thread or on an event loop.

It raises only :class:`~ropewalk.errors.RopewalkError`. The token is sent and otherwise kept out of everything: errors,
representations, logs.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from types import TracebackType
from typing import Any, Generic, Self, TypeAlias, TypeVar, cast

import httpx

from ropewalk.client import calls
from ropewalk.client.calls import Call
from ropewalk.client.exchange import TIMEOUT, Exchange, RetryPolicy, is_stream
from ropewalk.client.sse import EventStream
from ropewalk.errors import (
    RopewalkError,
    ServerUnreachableError,
    UnavailableError,
)
from ropewalk.schemas.common import Event

__all__ = ["Answered", "Api", "AsyncApi", "Steps"]

T = TypeVar("T")

Steps: TypeAlias = Generator[Call[Any], Any, T]
"""Several calls, of which later ones depend on answers, written once for both clients: see :meth:`Api.drive`."""

STREAM_SILENCE = 60.0
"""Seconds without a byte after which an event stream is taken for dead and opened again. The server sends a comment
more often than that."""


class Api(Exchange):
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
            if not is_stream(response):
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


class AsyncApi(Exchange):
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
            if not is_stream(response):
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


def _date(response: httpx.Response) -> datetime | None:
    try:
        return parsedate_to_datetime(response.headers.get("Date", ""))
    except ValueError:
        return None
