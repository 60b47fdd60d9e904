"""What every request to the double passes before and after ministack answers it."""

from __future__ import annotations

import contextlib
import contextvars
import functools
import json
from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from xml.sax.saxutils import escape

from ministack import app as application
from ministack.core import iam_actions
from ministack.core.responses import get_account_id, get_region
from ministack.core.router import detect_service, extract_access_key_id

from tests.support.aws_double.control import Control, Fault, OverError, control
from tests.support.aws_double.patching import demand, replace
from tests.support.aws_double.rates import Rate, buckets, rate_of

Answer = tuple[int, dict[str, str], bytes]

request_headers: contextvars.ContextVar[Mapping[str, str]] = contextvars.ContextVar("request_headers")
request_action: contextvars.ContextVar[str] = contextvars.ContextVar("request_action")
request_params: contextvars.ContextVar[Mapping[str, Any]] = contextvars.ContextVar("request_params")
_drop: contextvars.ContextVar[dict[str, bool]] = contextvars.ContextVar("drop")


class DroppedError(Exception):
    """The connection is cut without an answer."""


def install() -> None:
    """Put the gate in front of ministack."""
    demand(application, "_routing_params", "app", "_reset_all_state")
    replace(application, "_dispatch_service_request", _gate)


def error(action: str, code: str, message: str, status: int) -> Answer:
    """Return an error as the service of the action writes it."""
    service = action.partition(":")[0]
    if service == "ec2":
        body = (
            f"<Response><Errors><Error><Code>{escape(code)}</Code><Message>{escape(message)}</Message></Error></Errors>"
            "<RequestID>double</RequestID></Response>"
        )
        return status, {"Content-Type": "text/xml"}, body.encode()
    if service in {"iam", "sts"}:
        body = (
            f"<ErrorResponse><Error><Type>Sender</Type><Code>{escape(code)}</Code><Message>{escape(message)}</Message>"
            "</Error><RequestId>double</RequestId></ErrorResponse>"
        )
        return status, {"Content-Type": "text/xml"}, body.encode()
    return (
        status,
        {"Content-Type": "application/x-amz-json-1.1"},
        json.dumps({"__type": code, "message": message}).encode(),
    )


def throttled(action: str) -> Answer:
    """Return what the service says above its rate limit."""
    if action.startswith("ec2:"):
        return error(action, "RequestLimitExceeded", "Request limit exceeded.", 503)
    if action.startswith(("iam:", "sts:")):
        return error(action, "Throttling", "Rate exceeded", 400)
    return error(action, "ThrottlingException", "Rate exceeded", 400)


def unknown_key(action: str) -> Answer:
    """Return what the service says of an access key that it does not know."""
    message = "The security token included in the request is invalid."
    if action.startswith("ec2:"):
        return error(action, "AuthFailure", "AWS was not able to validate the provided access credentials", 401)
    if action.startswith(("iam:", "sts:")):
        return error(action, "InvalidClientTokenId", message, 403)
    return error(action, "UnrecognizedClientException", message, 400)


def outcome(answer: Answer) -> str:
    """Return ``ok``, or the error code of an answer."""
    status, _, body = answer
    if status < 400:
        return "ok"
    text = body.decode(errors="replace")
    if "<Code>" in text:
        return text.partition("<Code>")[2].partition("</Code>")[0]
    try:
        return str(json.loads(text).get("__type", status)).rpartition("#")[2]
    except ValueError:
        return str(status)


def _gate(dispatch: Callable[..., Awaitable[Answer]]) -> Callable[..., Awaitable[Answer]]:
    @functools.wraps(dispatch)
    async def gated(
        method: str, path: str, headers: dict[str, str], body: bytes, query: dict[str, Any], request_id: str
    ) -> Answer:
        params = application._routing_params(method, path, headers, body, query)
        service = detect_service(method, path, headers, params)
        action = iam_actions.extract_iam_action(service, method, path, headers, body, params) or f"{service}:{path}"
        request_headers.set(headers)
        request_action.set(action)
        request_params.set(_parameters(body, params))
        key = extract_access_key_id(headers, query) or ""

        async def answer() -> Answer:
            return await dispatch(method, path, headers, body, query, request_id)

        try:
            if latency := control.settings["latency"]:
                await control.wait(latency)
            result, what = await _answer(control, action, key, answer)
            control.note(action, what or outcome(result), key)
        except OverError:
            _drop.get()["now"] = True
            return error(action, "Reset", "The double was reset.", 500)
        return result

    return gated


def _parameters(body: bytes, params: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters of a JSON request; of a query request, the first value of each."""
    if body[:1] == b"{":
        try:
            return dict(json.loads(body))
        except ValueError:
            return {}
    return {name: value[0] if isinstance(value, list) and value else value for name, value in params.items()}


def within(rate: Rate, tokens: float = 1) -> bool:
    """Take tokens of the caller's account and region; False if it called too often."""
    if not control.settings["throttle"]:
        return True
    return buckets.take(f"{get_account_id()}/{get_region()}", rate, tokens, refill=control.settings["refill"])


async def _answer(
    state: Control, action: str, key: str, answer: Callable[[], Awaitable[Answer]]
) -> tuple[Answer, str | None]:
    rate = rate_of(action)
    if rate and not within(rate):
        return throttled(action), "throttled"
    if not state.visible(f"key/{key}", "key_visible_after"):
        return unknown_key(action), None
    fault = state.fault(action, key)
    if fault is None:
        return await answer(), None
    return await _faulty(fault, action, answer), fault.kind


async def _faulty(fault: Fault, action: str, answer: Callable[[], Awaitable[Answer]]) -> Answer:
    refusal = error(action, fault.code, fault.message, fault.status)
    if fault.kind == "error":
        return refusal
    if fault.kind == "broken":
        _drop.get()["now"] = True
        return refusal
    if fault.kind == "delay":
        await control.wait(fault.seconds)
        return await answer()
    result = await answer()
    if fault.kind == "error_after":
        return refusal
    if fault.kind == "lost":
        _drop.get()["now"] = True
    if fault.kind == "hang":
        await control.wait(fault.seconds or 3600)
    return result


def droppable(
    app: Callable[..., Awaitable[None]],
) -> Callable[[dict[str, Any], Callable[..., Any], Callable[..., Any]], Awaitable[None]]:
    """Let a fault cut the connection in place of an answer."""

    async def asgi(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
        if scope["type"] != "http":
            await app(scope, receive, send)
            return
        flag: dict[str, bool] = {}
        _drop.set(flag)

        async def sending(message: dict[str, Any]) -> None:
            if flag.get("now"):
                # send is HTTPStream.app_send of hypercorn; what it writes to is the connection.
                stream = getattr(send, "__self__")  # noqa: B009 - a plain callable has no such attribute for mypy
                stream.send.__self__.send.__self__.writer.transport.abort()
                raise DroppedError
            await send(message)

        with contextlib.suppress(DroppedError), control.answering():
            await app(scope, receive, sending)

    return asgi
