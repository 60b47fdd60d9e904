"""Adaptive scaling: the number of workers follows the work. The scheduler itself decides, on the server's side."""

from __future__ import annotations

from collections.abc import Generator, Mapping
from typing import TYPE_CHECKING, Any

from ropewalk.errors import InputError

if TYPE_CHECKING:
    from ropewalk.client.control import ClusterControl

__all__ = ["RemoteAdaptive", "adaptive_range"]

_ELSEWHERE = frozenset({"Adaptive", "interval", "wait_count", "target_duration", "worker_key"})
"""What Dask's own ``adapt`` takes and means for a loop that runs in the client."""


def adaptive_range(minimum: Any, maximum: Any, others: Mapping[str, Any]) -> list[Any]:
    """Return ``[minimum, maximum]``.

    Raises:
        InputError: an argument has no meaning here, or there is no maximum.
    """
    for name in others:
        why = (
            "is for adaptive scaling that runs in the client" if name in _ELSEWHERE else "is not an argument of adapt()"
        )
        raise InputError(
            f"{name}= {why}; here the scheduler itself adapts the cluster, and goes on when this program ends.",
            advice="Give minimum= and maximum= only.",
            field=name,
        )
    if maximum is None or maximum == float("inf"):
        raise InputError(
            "adapt() needs a maximum: the limits of your account and the cost depend on it.",
            advice="For example cluster.adapt(minimum=0, maximum=10).",
            field="maximum",
        )
    return [0 if minimum is None else minimum, maximum]


class RemoteAdaptive:
    """A cluster that adapts between ``minimum`` and ``maximum`` workers, until :meth:`stop` or ``cluster.scale(n)``.

    In coroutines, ``await cluster.adapt(...)`` waits until the server has accepted it.
    """

    def __init__(self, cluster: ClusterControl, minimum: int, maximum: int, accepted: Any = None) -> None:
        self.minimum = minimum
        self.maximum = maximum
        self._cluster = cluster
        self._accepted = accepted

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._cluster.name!r}: {self.minimum} to {self.maximum} workers>"

    def stop(self) -> Any:
        """Keep the number of workers that is wanted now. Awaitable in coroutines."""
        return self._cluster.scale(self._cluster.detail.n_workers)

    def __await__(self) -> Generator[Any, Any, RemoteAdaptive]:
        if self._accepted is not None:
            yield from self._accepted.__await__()
        return self
