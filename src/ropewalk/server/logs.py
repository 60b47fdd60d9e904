"""Logs: one line per fact, for people or as JSON, on standard error, without secrets.

Everything goes through one pipeline: structlog's loggers, and those of the standard library that our parts use.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from typing import Any, Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

HIDDEN = "********"

_SECRET_NAME = re.compile(
    r"(?i)(^|_|-)(password|passwd|secret|token|authorization|cookie|credentials?|private_key|encryption_key|code|pem|environ)s?$"
)
_HARMLESS_NAME = frozenset({"code", "exit_code", "status_code", "error_code", "stop_code", "event_code"})
"""Codes that say what happened; a ``setup_code``, ``device_code`` or ``user_code`` opens doors."""

_SECRET_TEXT: tuple[tuple[re.Pattern[str], str], ...] = (
    (re.compile(r"(rw[ti])_[A-Za-z0-9_\-]+"), r"\1_" + HIDDEN),
    (re.compile(r"(?i)\b(bearer|basic)\s+[A-Za-z0-9._~+/=\-]{8,}"), r"\1 " + HIDDEN),
    (re.compile(r"(://[^\s:/@]*:)[^\s/@]+@"), r"\1" + HIDDEN + "@"),
    (re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*?(-----END [A-Z ]*PRIVATE KEY-----|\Z)", re.DOTALL), HIDDEN),
)


def redact_text(text: str) -> str:
    """Return *text* without tokens, passwords in URLs, and private keys."""
    for pattern, replacement in _SECRET_TEXT:
        text = pattern.sub(replacement, text)
    return text


def _redact(name: str, value: Any) -> Any:
    if value is not None and name not in _HARMLESS_NAME and _SECRET_NAME.search(name):
        return HIDDEN
    if isinstance(value, str):
        return redact_text(value)
    if isinstance(value, Mapping):
        return {key: _redact(str(key), item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_redact("", item) for item in value]
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    return value


def redact(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """Hide secrets, by the name of the field and by what they look like. A structlog processor; the last but one."""
    return {name: _redact(name, value) for name, value in event.items()}


_SHARED: tuple[Processor, ...] = (
    structlog.contextvars.merge_contextvars,
    structlog.stdlib.add_logger_name,
    structlog.stdlib.add_log_level,
    structlog.stdlib.PositionalArgumentsFormatter(),
    structlog.processors.TimeStamper(fmt="iso", utc=True),
    structlog.processors.StackInfoRenderer(),
)


def configure_logs(level: str, form: Literal["text", "json"], stream: TextIO | None = None) -> None:
    """Send all logs of this process to *stream* (standard error).

    Args:
        level: Least level of our own lines: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``text`` or ``json``.
        stream: Where to.
    """
    stream = stream or sys.stderr
    structlog.configure(
        processors=[structlog.stdlib.filter_by_level, *_SHARED, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: Processor = (
        structlog.processors.JSONRenderer(default=str)
        if form == "json"
        else structlog.dev.ConsoleRenderer(
            colors=stream.isatty(), exception_formatter=structlog.dev.plain_traceback, pad_event_to=0
        )
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=_SHARED,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                # Before redaction: a traceback is text like any other.
                structlog.processors.format_exc_info,
                redact,
                renderer,
            ],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    logging.captureWarnings(True)
    _quieten(logging.getLevelName(level.upper()))


def _quieten(level: int) -> None:
    """Let libraries speak of problems only; what they do is in our own lines."""
    for name in (
        "uvicorn",
        "uvicorn.error",
        "uvicorn.access",
        "asyncio",
        "alembic",
        "sqlalchemy",
        "aiosqlite",
        "httpx",
    ):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel(max(level, logging.WARNING))
