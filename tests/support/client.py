"""What tests of the client share: answers of a server that is not there."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import dask.config
import httpx

from ropewalk.schemas.common import Event

TOKEN = "rw_canary_5c8d1f"
SERVER = "http://ropewalk.test"

ME = {
    "user": {
        "username": "ada",
        "email": None,
        "operator": False,
        "disabled": False,
        "created_at": "2026-01-02T03:04:05Z",
    },
    "accounts": [
        {
            "slug": slug,
            "kind": "personal" if slug == "ada" else "team",
            "role": "admin",
            "core_limit": None,
            "cores_used": 0,
            "created_at": "2026-01-02T03:04:05Z",
        }
        for slug in ("ada", "team")
    ],
    "default_account": "ada",
    "server_version": "0.1.0",
}

Handler = Callable[[httpx.Request], httpx.Response]


@contextmanager
def dask_config_restored() -> Iterator[None]:
    """Undo every change of Dask's configuration, also those made for good."""
    before = copy.deepcopy(dask.config.config)
    try:
        yield
    finally:
        dask.config.config.clear()
        dask.config.config.update(before)


def event(number: int, code: str = "node.ready", **fields: Any) -> dict[str, Any]:
    """An event as the server sends it."""
    return {
        "id": number,
        "time": "2026-01-02T03:04:05Z",
        "code": code,
        "level": "info",
        "message": f"Event {number}.",
        "cluster": "c-1",
        "node": None,
        "details": {},
        **fields,
    }


def stream(*codes: str) -> httpx.Response:
    """Return a stream with an event of each code, which then stays open."""
    events = [Event.model_validate(event(number, code)) for number, code in enumerate(codes, 1)]

    async def content() -> AsyncIterator[bytes]:
        for each in events:
            yield f"id: {each.id}\ndata: {each.model_dump_json()}\n\n".encode()
        await asyncio.Event().wait()

    return httpx.Response(200, headers={"Content-Type": "text/event-stream"}, content=content())


def node(name: str = "c-1-scheduler", role: str = "scheduler", state: str = "ready", **fields: Any) -> dict[str, Any]:
    """A node as the server sends it."""
    return {
        "name": name,
        "role": role,
        "state": state,
        "reason": None,
        "address": None,
        "cpu": 1,
        "memory": 2**30,
        "exit_code": None,
        "created_at": "2026-01-02T03:04:05Z",
        "ready_at": None,
        "stopped_at": None,
        **fields,
    }


def cluster(state: str = "ready", **fields: Any) -> dict[str, Any]:
    """A cluster as the server sends it."""
    return {
        "id": "c-1",
        "name": "mine",
        "account": "ada",
        "creator": "ada",
        "cloud_kind": "hosted",
        "backend": "local",
        "state": state,
        "reason": None,
        "n_workers": 2,
        "minimum": None,
        "maximum": None,
        "workers_ready": 0,
        "cores": 3,
        "memory": 2**30,
        "cost": {"currency": "USD", "per_hour": 0, "so_far": 0},
        "tags": {},
        "software": None,
        "scheduler_address": "tls://127.0.0.1:1",
        "dashboard_link": None,
        "created_at": "2026-01-02T03:04:05Z",
        "ready_at": None,
        "stopped_at": None,
        "spec": {"n_workers": 2},
        "nodes": [node()],
        **fields,
    }
