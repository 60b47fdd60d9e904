"""A server with clusters in memory, whose dashboards are a web server that tells what it was asked."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass

import httpx
import pytest
from fastapi import FastAPI
from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets
from tornado.web import Application, RequestHandler, stream_request_body
from tornado.websocket import WebSocketHandler

from ropewalk.backends.memory import MemoryBackend, MemoryCloud
from ropewalk.server.cloud_accounts.registry import Backends
from tests.support.api import Api, Person
from tests.support.waiting import eventually


class Echo(RequestHandler):
    """Says what it was asked, and tries what a dashboard must not be able to do."""

    def get(self) -> None:
        self.set_header("Set-Cookie", "planted=1; Domain=localhost")
        self.add_header("Set-Cookie", "ropewalk_dashboard=stolen")
        self.set_header("Access-Control-Allow-Origin", "*")
        self.set_header("Service-Worker-Allowed", "/")
        self.set_header("Clear-Site-Data", '"cookies"')
        self.set_header("X-Frame-Options", "ALLOWALL")
        self.set_header("Content-Type", "application/json")
        self.finish(json.dumps({"path": self.request.uri, "headers": dict(self.request.headers)}))


@stream_request_body
class Upload(RequestHandler):
    """Counts what is sent."""

    size = 0

    def data_received(self, chunk: bytes) -> None:
        self.size += len(chunk)

    def post(self) -> None:
        self.finish(str(self.size))


class Large(RequestHandler):
    """Sends as many bytes as are asked for, as fast as they are taken; ``sent`` counts them."""

    sent = 0
    over = asyncio.Event()

    async def get(self, size: str) -> None:
        type(self).sent = 0
        try:
            while type(self).sent < int(size):
                self.write(b"x" * 65536)
                await self.flush()
                type(self).sent += 65536
        finally:
            self.over.set()


class Leave(RequestHandler):
    """Sends browsers elsewhere."""

    def get(self) -> None:
        self.redirect(self.get_argument("to").replace("HOST", self.request.host))


class Socket(WebSocketHandler):
    """Returns what it gets; says hello first, with what it knows of the browser."""

    def check_origin(self, origin: str) -> bool:
        return origin == f"http://{self.request.host}"

    def select_subprotocol(self, subprotocols: list[str]) -> str | None:
        return subprotocols[0] if subprotocols else None

    def open(self, *_: str) -> None:
        self.write_message(json.dumps({"path": self.request.uri, "headers": dict(self.request.headers)}))

    def on_message(self, message: str | bytes) -> None:
        self.write_message(message, binary=isinstance(message, bytes))


@dataclass
class Dashboards:
    """The application with a person, and what there is to look at."""

    api: Api
    cloud: MemoryCloud
    ada: Person
    port: int

    async def cluster(self, name: str = "c", account: str = "ada") -> str:
        """Make a cluster that is ready; returns its id."""
        path = f"/api/v1/accounts/{account}/clusters"
        made = await self.ada.client.post(path, json={"name": name, "n_workers": 0})
        assert made.status_code == 201, made.text
        cluster_id: str = made.json()["id"]
        self.cloud.set_status(cluster_id, dashboard_port=self.port)
        self.cloud.set_dashboard(cluster_id, "127.0.0.1", self.port)

        async def there() -> bool:
            shown = (await self.ada.client.get(f"{path}/{name}")).json()
            return shown["dashboard_link"] is not None and shown["state"] == "ready"

        await eventually(there)
        return cluster_id

    async def link(self, name: str = "c", account: str = "ada") -> httpx.URL:
        """Return a link with a ticket."""
        answer = await self.ada.client.post(f"/api/v1/accounts/{account}/clusters/{name}/dashboard")
        assert answer.status_code == 201, answer.text
        return httpx.URL(answer.json()["url"])

    async def browser(self, link: httpx.URL | None = None) -> httpx.AsyncClient:
        """Return a client on the link's origin, which has opened it."""
        client = await self.api.connect()
        client.cookies.clear()
        if link is not None:
            client.base_url = link.copy_with(path="/", query=None)
            assert (await client.get(link)).status_code == 303
        return client


@pytest.fixture
def cloud() -> MemoryCloud:
    return MemoryCloud()


@pytest.fixture
def backends(cloud: MemoryCloud) -> Backends:
    return Backends(overrides={"local": MemoryBackend(cloud)})


@pytest.fixture
async def web_server() -> AsyncIterator[int]:
    """The port of a web server that stands for dashboards."""
    routes = [
        ("/upload", Upload),
        (r"/large/(\d+)", Large),
        ("/leave", Leave),
        (r"(.*)/ws", Socket),
        (r"/.*", Echo),
    ]
    server = HTTPServer(Application(routes))
    sockets = bind_sockets(0, "127.0.0.1")
    server.add_sockets(sockets)
    yield sockets[0].getsockname()[1]
    server.stop()
    await server.close_all_connections()


@pytest.fixture
async def dashboards(app: FastAPI, cloud: MemoryCloud, web_server: int) -> AsyncIterator[Dashboards]:
    async with AsyncExitStack() as stack:
        api = await stack.enter_async_context(Api(app))
        yield Dashboards(api, cloud, await api.person("ada"), web_server)


@pytest.fixture
def large() -> type[Large]:
    Large.over = asyncio.Event()
    return Large
