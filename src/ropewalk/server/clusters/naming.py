"""What nodes call themselves, where the cloud names them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ropewalk.backends.port import Backend, NodeHandle

__all__ = ["own_name", "own_names"]


def own_name(backend: Backend, name: str, cloud_id: str | None) -> str:
    """Return what the node *name* calls itself, and its scheduler calls it."""
    return cloud_id.rpartition("/")[2] if backend.capabilities.names_nodes and cloud_id else name


def own_names(backend: Backend, handles: Iterable[NodeHandle]) -> Mapping[str, str]:
    """Return the names of nodes by what they call themselves."""
    return {own_name(backend, handle.name, handle.cloud_id): handle.name for handle in handles}
