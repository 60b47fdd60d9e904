"""Every error of the API in one shape: ``{"error": ErrorBody}`` with the request's id."""

from __future__ import annotations

import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

import structlog
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from ropewalk.errors import (
    InputError,
    InternalError,
    NotFoundError,
    RopewalkError,
    TryAgainError,
)
from ropewalk.schemas.common import ErrorResponse

if TYPE_CHECKING:
    from collections.abc import Sequence

    from fastapi import FastAPI
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["MAX_PROBLEMS", "add_handlers", "internal_error", "respond", "validation_error"]

MAX_PROBLEMS = 10
"""Problems of one request that are told; a person corrects no more at a time."""
RETRY_SECONDS = 2
"""What Retry-After says where the error does not know better."""

_PLAIN: Mapping[int, tuple[str, str, str | None]] = {
    # status: code, message, advice
    400: ("invalid_input", "The request is not valid.", None),
    405: ("method_not_allowed", "This address does not take the method {method}.", "See /api/v1/openapi.json."),
    413: ("too_large", "The request is larger than this server accepts.", "Send less in one request."),
    415: ("invalid_input", "The request has a content type that this address does not take.", "Send JSON."),
}

log = structlog.get_logger(__name__)


def respond(error: RopewalkError, request_id: str | None, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """Return the answer that tells *error*."""
    body = ErrorResponse.model_validate({"error": {**error.body(), "request_id": request_id}})
    sent = dict(headers or {})
    if error.http_status == HTTPStatus.UNAUTHORIZED:
        sent.setdefault("WWW-Authenticate", "Bearer")
    if error.http_status in (HTTPStatus.SERVICE_UNAVAILABLE, HTTPStatus.TOO_MANY_REQUESTS):
        sent.setdefault("Retry-After", str(_wait(error)))
    return JSONResponse(body.model_dump(mode="json"), error.http_status, sent)


def _wait(error: RopewalkError) -> int:
    seconds = error.delay if isinstance(error, TryAgainError) else error.details.get("retry_after", RETRY_SECONDS)
    return max(1, math.ceil(seconds)) if isinstance(seconds, int | float) else RETRY_SECONDS


def internal_error(request_id: str | None) -> InternalError:
    """Return what people are told about a defect; the log has the rest."""
    return InternalError(
        "The server ran into a defect of its own. What happened is in its log.",
        advice=f"Tell an operator this request id: {request_id}.",
    )


def validation_error(errors: Sequence[Mapping[str, Any]], body: object = None) -> InputError:
    """Turn pydantic's errors into one that names each field, in plain words."""
    problems: dict[str, list[str]] = {}
    for error in errors:
        field, message = _problem(error, body)
        messages = problems.setdefault(field, [])
        if message not in messages:
            messages.append(message)
    told = [{"field": field, "message": ", or ".join(found)} for field, found in problems.items()][:MAX_PROBLEMS]
    text = "; ".join(f"{p['field']}: {p['message']}" if p["field"] else p["message"] for p in told)
    more = len(problems) - len(told)
    return InputError(
        f"The request is not valid. {text}{f'; and {more} more' if more else ''}.",
        field=told[0]["field"] or None,
        details={"problems": told},
    )


def _problem(error: Mapping[str, Any], body: object) -> tuple[str, str]:
    kind, message = str(error["type"]), str(error["msg"])
    if kind == "json_invalid":
        where = error["loc"][-1] if error.get("loc") else "?"
        return "", f"the body is not JSON: {error.get('ctx', {}).get('error', message)} at character {where}"
    if kind == "model_attributes_type" and len(error["loc"]) == 1:
        return "", "the body must be a JSON object, sent as application/json"
    field = _path(error["loc"], kind, body)
    if kind == "missing":
        return field, "is missing" if field else "the body is missing"
    if kind == "extra_forbidden":
        return field, "is not a known field"
    message = message.removeprefix("Value error, ").rstrip(".")
    return field, message[:1].lower() + message[1:]


def _path(loc: Sequence[str | int], kind: str, body: object) -> str:
    """Return the field's path in the request, without what only pydantic knows: names of types of a union."""
    if not loc or loc[0] != "body":
        return ".".join(str(part) for part in loc[1:])
    parts: list[str] = []
    here = body
    for part in loc[1:]:
        if _holds(here, part):
            here = here[part]  # type: ignore[index] # _holds looked
        elif kind != "missing" or part != loc[-1]:
            continue
        parts.append(str(part))
    return ".".join(parts)


def _holds(container: object, part: str | int) -> bool:
    if isinstance(container, list):
        return isinstance(part, int) and part < len(container)
    return isinstance(container, Mapping) and part in container


def add_handlers(app: FastAPI) -> None:
    """Answer every error of *app* in our shape."""

    @app.exception_handler(RopewalkError)
    async def known(request: Request, exc: RopewalkError) -> Response:
        if exc.http_status >= HTTPStatus.INTERNAL_SERVER_ERROR:
            serious = exc.http_status == HTTPStatus.INTERNAL_SERVER_ERROR
            log.warning("request.failed", code=exc.code, error=exc.message, exc_info=exc if serious else None)
        return respond(exc, _id(request))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        return respond(validation_error(exc.errors(), exc.body), _id(request))

    @app.exception_handler(HTTPException)
    async def http(request: Request, exc: HTTPException) -> Response:
        if exc.status_code == HTTPStatus.NOT_FOUND:
            return respond(
                NotFoundError(
                    f"There is nothing at {request.url.path[:200]}.",
                    advice="The API is described at /api/v1/openapi.json.",
                ),
                _id(request),
            )
        return _plain(request, exc)


def _plain(request: Request, exc: HTTPException) -> Response:
    """Answer an error that starlette raised by itself."""
    code, message, advice = _PLAIN.get(exc.status_code, ("error", str(exc.detail), None))
    error = {
        "code": code,
        "message": message.format(method=request.method),
        "advice": advice,
        "request_id": _id(request),
    }
    body = ErrorResponse.model_validate({"error": error})
    return JSONResponse(body.model_dump(mode="json"), exc.status_code, exc.headers)


def _id(request: Request) -> str | None:
    found: str | None = request.scope.get("ropewalk.request_id")
    return found
