"""The JSON endpoint ``/_double/…`` by which tests steer the double; see ``control.py`` for what it answers."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable
from typing import Any

from ministack import app as application

from tests.support.aws_double.control import control
from tests.support.aws_double.rates import buckets
from tests.support.aws_double.tasks import end_task

PREFIX = "/_double/"


async def handle(method: str, path: str, wanted: dict[str, Any]) -> Any:
    """Do what a test asks for and return what it is told."""
    answer: Any = {}
    match method, path.removeprefix(PREFIX):
        case "POST", "reset":
            await control.end_calls()
            control.reset()
            await asyncio.to_thread(application._reset_all_state)
            buckets.clear()
        case "POST", "settings":
            answer = control.change(wanted)
        case "POST", "faults":
            answer = {"id": control.inject(wanted).id}
        case "GET", "faults":
            answer = [dataclasses.asdict(fault) for fault in control.faults]
        case "DELETE", "faults":
            control.faults.clear()
        case "GET", "calls":
            answer = {"count": dict(control.count), "log": control.log}
        case "DELETE", "calls":
            control.count.clear()
            control.log.clear()
        case "POST", "tasks":
            answer = end_task(**wanted)
        case _:
            raise ValueError(f"no such endpoint: {method} {path}")
    return answer


def steered(app: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """Answer ``/_double/…`` before *app* sees it."""

    async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            await app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            status, answer = 200, await handle(scope["method"], scope["path"], json.loads(body or b"{}"))
        except (ValueError, TypeError, KeyError) as exc:
            status, answer = 400, {"error": str(exc)}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(answer).encode()})

    return asgi
