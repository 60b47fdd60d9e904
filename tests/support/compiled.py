"""Statements are compiled once for all databases of a test process, as a server compiles them once for all requests.

SQLAlchemy keeps compiled statements by engine. Here each test has an engine of its own, and compiling what the
application says at its start and at the first requests took a fifth of the time of the tests of the server.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import pytest
from sqlalchemy.engine.default import DefaultDialect
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.util import LRUCache

STATEMENTS = 5000
"""More than the application has, for both databases."""


@contextmanager
def compiled_once() -> Iterator[None]:
    """Let all engines that are made in the block share what they compile."""
    shared: LRUCache[Any, Any] = LRUCache(STATEMENTS)
    making = partial(create_async_engine, execution_options={"compiled_cache": shared})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("ropewalk.server.db.engine.create_async_engine", making)
        # Part of the keys, of this cache and of the mappers' own. All servers of a kind are of one version here.
        patch.setattr(DefaultDialect, "__hash__", lambda self: hash(type(self)))
        patch.setattr(DefaultDialect, "__eq__", lambda self, other: type(self) is type(other))
        yield
