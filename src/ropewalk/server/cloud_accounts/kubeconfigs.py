"""What a kubeconfig has to choose from, before anything of it is kept."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from importlib import import_module
from urllib.parse import urlsplit

from ropewalk.errors import FixItError, InputError
from ropewalk.server.cloud_accounts.making import load

__all__ = ["KubeContext", "contexts"]


@dataclass(frozen=True, slots=True)
class KubeContext:
    """One context of a kubeconfig: where clusters could run."""

    name: str
    namespace: str | None
    server: str | None
    """Host of the API server."""
    current: bool


async def contexts(kubeconfig: str) -> list[KubeContext]:
    """Return the contexts of a kubeconfig, in its order. Nothing is stored.

    Raises:
        InputError: It is no kubeconfig, or this server cannot drive Kubernetes.
    """
    try:
        await asyncio.to_thread(load, "kubernetes")
    except FixItError as exc:
        raise InputError(exc.message, advice=exc.advice, field=exc.field, details=exc.details) from None
    found = await asyncio.to_thread(import_module("ropewalk.backends.kubernetes.kubeconfig").contexts, kubeconfig)
    return [
        KubeContext(item["name"][:253], item["namespace"], _host(item["server"]), item["current"]) for item in found
    ]


def _host(server: str | None) -> str | None:
    """Return the host of an address; the rest of it may hold a password."""
    try:
        return urlsplit(server or "").hostname
    except ValueError:
        return None
