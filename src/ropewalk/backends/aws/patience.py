"""Waiting for AWS: with growing pauses, up to a limit, without a clock of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from ropewalk.backends.aws.api import aws_code
from ropewalk.errors import BackendError

__all__ = ["SETTLING", "Patience", "not_there"]

SETTLING = 60.0
"""Seconds within which what was made is seen by all parts of AWS: "Eventual consistency in the Amazon EC2 API" (EC2
developer guide) advises growing pauses and names no limit; roles take up to 30 s to be seen everywhere."""

_Value = TypeVar("_Value")


def not_there(error: BaseException) -> bool:
    """Whether AWS says that what a call is about does not exist."""
    code = aws_code(error) or ""
    return code.endswith(("NotFound", "NotFoundException")) or code in {"NoSuchEntity", "NoSuchEntityException"}


@dataclass(frozen=True, slots=True)
class Patience:
    """How to wait. Times are seconds of waiting; what the calls between take comes on top.

    ``sleep`` can be replaced in tests.
    """

    sleep: Callable[[float], Awaitable[object]] = asyncio.sleep
    first: float = 1.0
    growth: float = 1.5
    longest: float = 15.0

    def pauses(self, within: float) -> Iterator[float]:
        """Yield growing pauses that last *within* together."""
        pause, left = self.first, within
        while left > 0:
            yield min(pause, left)
            left -= pause
            pause = min(pause * self.growth, self.longest)

    async def until(self, look: Callable[[], Awaitable[_Value | None]], within: float) -> _Value | None:
        """Return the first answer of *look* that is not None; None if there is none in time."""
        if (found := await look()) is not None:
            return found
        for pause in self.pauses(within):
            await self.sleep(pause)
            if (found := await look()) is not None:
                return found
        return None

    async def insist(
        self,
        do: Callable[[], Awaitable[_Value]],
        when: Callable[[BackendError], bool] = not_there,
        within: float = SETTLING,
    ) -> _Value:
        """Return what *do* returns; repeat it while it raises an error for which *when* is true, then raise that."""
        pauses = self.pauses(within)
        while True:
            try:
                return await do()
            except BackendError as error:
                pause = next(pauses, None)
                if not when(error) or pause is None:
                    raise
            await self.sleep(pause)
