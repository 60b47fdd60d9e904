"""Clients of aiobotocore that take nothing from this machine but what they are given.

Importing aiobotocore takes a second and reading a service's description up to 0.1 s, so both happen in a thread; the
descriptions are read once for the process, and a client is made once per service and :class:`Sessions`.
"""

from __future__ import annotations

import asyncio
import importlib
from collections.abc import Awaitable, Callable
from functools import cache
from typing import Any

from ropewalk.schemas.aws import AwsCredentials

__all__ = ["Keys", "Sessions"]

Keys = Callable[[], Awaitable[dict[str, str]]]
"""Gives temporary credentials in botocore's words: access_key, secret_key, token, expiry_time (ISO 8601)."""

CONNECT_TIMEOUT = 10.0  # seconds; for a busy server, too
READ_TIMEOUT = 30.0  # seconds; the slowest calls are answered within a few
UPLOAD_TIMEOUT = 300.0  # seconds for 20 MiB, the largest part of a layer, over a slow line
POOL = 50  # connections per service: the check and large launches send this many requests at once


@cache
def _loader() -> Any:
    return importlib.import_module("botocore.loaders").create_loader()


def _read(service: str) -> None:
    importlib.import_module("aiobotocore.session")
    loader = _loader()
    loader.load_service_model(service, "service-2")
    loader.load_service_model(service, "endpoint-rule-set-1")
    for common in ("partitions", "endpoints", "sdk-default-configuration"):
        loader.load_data(common)


class Sessions:
    """Makes clients for one credential in one region; *keys* replaces the static key by temporary ones."""

    def __init__(self, credentials: AwsCredentials, region: str, endpoint_url: str | None, keys: Keys | None) -> None:
        self._credentials = credentials
        self._region = region
        self._endpoint_url = endpoint_url
        self._keys = keys
        self._clients: dict[str, asyncio.Task[Any]] = {}
        self._session: Any = None
        self.closed = False

    async def client(self, service: str) -> Any:
        """Return the client of a service; concurrent callers share one creation."""
        task = self._clients.get(service)
        if task is None or (task.done() and (task.cancelled() or task.exception() is not None)):
            task = self._clients[service] = asyncio.create_task(self._open(service))
        return await asyncio.shield(task)

    async def close(self) -> None:
        """Close all connections."""
        self.closed = True
        clients, self._clients = self._clients, {}
        for opened in await asyncio.gather(*clients.values(), return_exceptions=True):
            if not isinstance(opened, BaseException):
                await opened.close()

    async def _open(self, service: str) -> Any:
        await asyncio.to_thread(_read, service)
        if self._session is None:
            self._session = self._new_session()
        config = importlib.import_module("aiobotocore.config").AioConfig(
            retries={"total_max_attempts": 1, "mode": "standard"},  # retries are ours: they go through the limiter
            connect_timeout=CONNECT_TIMEOUT,
            read_timeout=UPLOAD_TIMEOUT if service == "ecr" else READ_TIMEOUT,
            max_pool_connections=POOL,
            ignore_configured_endpoint_urls=True,  # the operator's setting is the only way to another endpoint
            user_agent_extra="ropewalk",
        )
        context = self._session.create_client(
            service, region_name=self._region, endpoint_url=self._endpoint_url, config=config
        )
        return await context.__aenter__()

    def _new_session(self) -> Any:
        """Return a session that never looks at profiles, the environment's keys or the machine's metadata."""
        module = importlib.import_module("aiobotocore.session")
        nothing = (None, None, None, None)
        session = module.AioSession(
            session_vars={"profile": nothing, "config_file": nothing, "credentials_file": nothing}
        )
        session.register_component("data_loader", _loader())
        if self._keys is None:
            key = self._credentials
            session.set_credentials(key.access_key_id, key.secret_access_key.get_secret_value())
        else:
            kind = importlib.import_module("aiobotocore.credentials").AioDeferredRefreshableCredentials
            session._credentials = kind(self._keys, "assume-role")  # noqa: SLF001 - aiobotocore has no public way
        return session
