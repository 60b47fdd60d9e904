"""The few requests that Ropewalk makes of an API server, all inside one namespace.

Objects are plain dictionaries as the API sends them: models of every kind would cost a second at import and most of
the time of each answer.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
from collections.abc import AsyncIterator, Coroutine, Mapping
from typing import Any
from urllib.parse import quote, urlencode

import aiohttp

from ropewalk.backends.kubernetes.connection import open_pool
from ropewalk.backends.kubernetes.refusals import Call, refusal, status_of, unreachable
from ropewalk.errors import BackendError, TryAgainError
from ropewalk.schemas.kubernetes import KubernetesCredentials

__all__ = ["Api", "end_websocket"]

REQUEST_SECONDS = 30.0
CONNECT_SECONDS = 10.0
TRIES = 4
"""How often a request is sent when the answer is 429 or 5xx or none. All may be: names make writes idempotent."""
LONGEST_WAIT = 20.0
"""Seconds that a request waits here because of Retry-After; above that, the caller is told."""
PARALLEL = 32
"""Requests at a time. API servers allow some 400 in flight for all their users together."""

CLOSE_SECONDS = 1.0
"""For the event loop to close a socket, which takes it one turn, and for requests that nobody waits for any more."""

METHODS = {"get": "GET", "list": "GET", "watch": "GET", "create": "POST", "delete": "DELETE"}

_REVIEWS = "selfsubjectaccessreviews"


class Wire:
    """The connection of an answer that is about to be closed, which forgets it.

    aiohttp closes TLS politely and waits for nobody, so the socket would stay open until the other side says goodbye.
    """

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        protocol = response.connection.protocol if response.connection is not None else None
        self._transport = protocol.transport if protocol is not None else None
        self._lost = protocol.closed if protocol is not None else None

    async def cut(self) -> None:
        """Return when the socket is closed."""
        if self._transport is not None:
            self._transport.abort()
        if self._lost is not None:
            done, _ = await asyncio.wait([self._lost], timeout=CLOSE_SECONDS)
            for lost in done:
                lost.exception()  # taken note of: that it is lost is what was asked for


async def end_websocket(channel: aiohttp.ClientWebSocketResponse) -> None:
    """Close a WebSocket and its socket."""
    wire = Wire(channel._response)  # noqa: SLF001 - there is no other way to its connection
    try:
        await channel.close()
    finally:
        await wire.cut()


def _hang_up(request: asyncio.Future[aiohttp.ClientResponse]) -> None:
    """Close an answer that nobody waits for any more."""
    if not request.cancelled() and request.exception() is None:
        request.result().close()


class Api:
    """One namespace of one API server.

    Opens its connections at the first request; belongs to the event loop of that.
    """

    def __init__(self, credentials: KubernetesCredentials, namespace: str) -> None:
        self._credentials = credentials
        self.namespace = namespace
        self.server = credentials.server
        self._pool: Any = None
        self._slots = asyncio.Semaphore(PARALLEL)
        self._tasks: set[asyncio.Task[None]] = set()
        self._requests: set[asyncio.Future[aiohttp.ClientResponse]] = set()
        """That have no answer yet."""

    def spawn(self, work: Coroutine[Any, Any, None], name: str) -> asyncio.Task[None]:
        """Run something that holds a connection, until :meth:`close` at the latest."""
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def close(self) -> None:
        """Close all connections."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._requests:
            await asyncio.wait(self._requests, timeout=CLOSE_SECONDS)
        pool, self._pool = self._pool, None
        if pool is not None:
            await pool.close()

    async def call(
        self,
        verb: str,
        resource: str,
        name: str | None = None,
        *,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Make a request; returns the object that the API server answers with.

        Raises:
            BackendError: see :mod:`ropewalk.backends.kubernetes.refusals`.
        """
        call = Call(verb, resource, name)
        answer = await self._answer(call, self.path(resource, name), body, query)
        try:
            found = json.loads(answer)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise TryAgainError(f"The API server's answer to {call} is not JSON.", delay=5.0)
        return found

    async def text(self, verb: str, resource: str, name: str, query: Mapping[str, Any]) -> bytes:
        """Make a request whose answer is not JSON."""
        return await self._answer(Call(verb, resource, name), self.path(resource, name), None, query)

    async def version(self) -> dict[str, Any]:
        """Return the API server's version."""
        found: dict[str, Any] = json.loads(await self._answer(Call("get", "version"), "/version", None, None))
        return found

    async def review(self, verb: str, resource: str) -> bool:
        """Ask whether the credentials have a permission."""
        main, _, sub = resource.partition("/")
        attributes = {"namespace": self.namespace, "verb": verb, "group": "", "resource": main, "subresource": sub}
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SelfSubjectAccessReview",
            "spec": {"resourceAttributes": attributes},
        }
        return bool((await self.call("create", _REVIEWS, body=body)).get("status", {}).get("allowed"))

    @contextlib.asynccontextmanager
    async def stream(
        self, verb: str, resource: str, name: str | None, query: Mapping[str, Any], *, silence: float
    ) -> AsyncIterator[aiohttp.StreamReader]:
        """Open an answer that goes on; *silence*: seconds without a byte after which it counts as broken.

        Raises:
            BackendError: it was refused, or broke.
        """
        call = Call(verb, resource, name)
        timeout = aiohttp.ClientTimeout(connect=CONNECT_SECONDS, sock_connect=CONNECT_SECONDS, sock_read=silence)
        with _translated(call, self.server):
            response = await self._send(call, self.path(resource, name), None, query, timeout)
            try:
                if response.status >= 300:
                    raise refusal(call, response.status, await response.read(), _retry_after(response), self.namespace)
                yield response.content
            finally:
                wire = Wire(response)
                response.close()
                await wire.cut()

    async def websocket(self, resource: str, name: str, query: Mapping[str, Any], protocol: str) -> Any:
        """Open a WebSocket of a subresource.

        Raises:
            BackendError: it was refused.
        """
        call = Call("get", resource, name)
        url = self._url(self.path(resource, name), query)
        headers = {**self._headers(), "Sec-WebSocket-Protocol": protocol}
        with _translated(call, self.server):
            try:
                async with asyncio.timeout(CONNECT_SECONDS):
                    return await self._session().ws_connect(
                        url,
                        headers=headers,
                        max_msg_size=0,
                        autoclose=True,
                        server_hostname=self._credentials.tls_server_name,
                    )
            except aiohttp.WSServerHandshakeError as exc:
                # Its body, which says why, was thrown away by aiohttp.
                raise refusal(call, exc.status, str(exc.message).encode(), None, self.namespace) from exc

    def path(self, resource: str, name: str | None) -> str:
        """Return the path of a resource; ``pods/log`` is a subresource of the pod *name*."""
        if resource == _REVIEWS:
            return f"/apis/authorization.k8s.io/v1/{_REVIEWS}"
        main, _, sub = resource.partition("/")
        if main == "namespaces":
            return f"/api/v1/namespaces/{self.namespace}"
        path = f"/api/v1/namespaces/{self.namespace}/{main}"
        return path + (f"/{quote(name, safe='')}" if name else "") + (f"/{sub}" if sub else "")

    def _url(self, path: str, query: Mapping[str, Any] | None) -> str:
        return self.server + path + (f"?{urlencode(query)}" if query else "")

    def _headers(self) -> dict[str, str]:
        headers = {"User-Agent": "ropewalk", "Accept": "application/json, */*"}
        if self._credentials.token is not None:
            headers["Authorization"] = f"Bearer {self._credentials.token.get_secret_value()}"
        return headers

    def _session(self) -> aiohttp.ClientSession:
        if self._pool is None:
            self._pool = open_pool(self._credentials)
        session: aiohttp.ClientSession = self._pool.pool_manager
        return session

    async def _answer(
        self, call: Call, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any] | None
    ) -> bytes:
        for attempt in range(1, TRIES + 1):
            try:
                async with self._slots:
                    return await self._once(call, path, body, query)
            except TryAgainError as error:
                wait = error.delay if status_of(error) == 429 else 0.2 * 2**attempt
                if attempt == TRIES or wait > LONGEST_WAIT or error.details.get("reason") == "QuotaExceeded":
                    raise
            # Not all at once again: that is how an overloaded server stays overloaded.
            await asyncio.sleep(wait * random.uniform(1, 1.3))  # noqa: S311 - spreads load, no secret
        raise AssertionError  # pragma: no cover - the last try returns or raises

    async def _once(
        self, call: Call, path: str, body: Mapping[str, Any] | None, query: Mapping[str, Any] | None
    ) -> bytes:
        with _translated(call, self.server):
            timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS, connect=CONNECT_SECONDS)
            response = await self._send(call, path, body, query, timeout)
            try:
                content: bytes = await response.read()
            finally:
                response.release()
            if response.status >= 300:
                raise refusal(call, response.status, content, _retry_after(response), self.namespace)
            return content

    async def _send(
        self,
        call: Call,
        path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, Any] | None,
        timeout: aiohttp.ClientTimeout,  # noqa: ASYNC109 - aiohttp's own object: it tells connecting from reading
    ) -> aiohttp.ClientResponse:
        self._session()
        request: asyncio.Future[aiohttp.ClientResponse] = asyncio.ensure_future(
            self._pool.request(
                METHODS[call.verb],
                self._url(path, query),
                headers=self._headers(),
                body=dict(body) if body is not None else None,
                _preload_content=False,
                _request_timeout=timeout,
            )
        )
        self._requests.add(request)
        request.add_done_callback(self._requests.discard)
        try:
            return await asyncio.shield(request)
        except asyncio.CancelledError:
            # Python forgets a connection whose TLS has not begun when it is cancelled; so it comes up, and is closed.
            request.add_done_callback(_hang_up)
            raise


@contextlib.contextmanager
def _translated(call: Call, server: str) -> Any:
    try:
        yield
    except BackendError:
        raise
    except (aiohttp.ClientError, OSError, ValueError) as exc:  # a line longer than aiohttp takes is a ValueError
        raise unreachable(call, server, exc) from exc


def _retry_after(response: aiohttp.ClientResponse) -> float | None:
    given = response.headers.get("Retry-After", "")
    return float(given) if given.isascii() and given.isdigit() and len(given) < 6 else None
