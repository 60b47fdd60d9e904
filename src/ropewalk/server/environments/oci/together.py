"""Errors of things that are done at once: the one that a person should see."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from ropewalk.errors import FixItError

__all__ = ["one_error"]


@contextmanager
def one_error() -> Iterator[None]:
    """Raise, in place of a group of errors, that one of them which does not pass by itself, or else the first."""
    try:
        yield
    except BaseExceptionGroup as errors:
        raise _first(errors) from None


def _first(errors: BaseExceptionGroup[BaseException]) -> BaseException:
    found: BaseException = errors
    while isinstance(found, BaseExceptionGroup):
        lasting = [each for each in found.exceptions if isinstance(each, (FixItError, BaseExceptionGroup))]
        found = (lasting or found.exceptions)[0]
    return found
