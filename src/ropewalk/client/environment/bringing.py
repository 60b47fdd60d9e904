"""Bringing the user's modules to the nodes of a running cluster: through the scheduler, to each worker as it joins."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from distributed.diagnostics.plugin import SchedulerPlugin, WorkerPlugin
from distributed.protocol.pickle import dumps

if TYPE_CHECKING:
    from distributed.core import rpc

__all__ = ["bring"]

NAME = "ropewalk-modules"


async def bring(scheduler: rpc, archive: bytes, digest: str) -> None:
    """Put the modules of *archive* where scheduler and workers import from; what was brought before is replaced.

    Args:
        scheduler: The connection to it.
        archive: A zip file of them.
        digest: What this archive is told by.
    """
    for_scheduler, for_workers = _plugins(archive, digest)
    name = f"{NAME}-{secrets.token_hex(4)}"  # another name each time: an earlier one is not put in its place silently
    await asyncio.gather(
        scheduler.register_scheduler_plugin(plugin=dumps(for_scheduler), name=name, idempotent=False),
        scheduler.register_worker_plugin(plugin=dumps(for_workers), name=NAME, idempotent=False),
    )


def _plugins(archive: bytes, digest: str) -> tuple[SchedulerPlugin, WorkerPlugin]:
    """Return what runs on nodes: defined in functions, so that it is sent as it is, and nodes need no Ropewalk."""
    put = _putting(digest)

    class ForScheduler(SchedulerPlugin):
        def __init__(self, content: bytes) -> None:
            self.content = content
            self.folder: str | None = None

        async def start(self, scheduler: Any) -> None:  # noqa: ARG002 - the plugin's interface
            import tempfile  # noqa: PLC0415 - on nodes

            self.folder = tempfile.mkdtemp(prefix="ropewalk-")
            put(self.folder, self.content)
            self.content = b""

        async def close(self) -> None:
            import shutil  # noqa: PLC0415 - on nodes

            if self.folder is not None:
                shutil.rmtree(self.folder, ignore_errors=True)

    class ForWorkers(WorkerPlugin):
        def __init__(self, content: bytes) -> None:
            self.content = content

        def setup(self, worker: Any) -> None:
            put(worker.local_directory, self.content)
            self.content = b""

    return ForScheduler(archive), ForWorkers(archive)


def _putting(digest: str) -> Callable[[str, bytes], None]:
    """Return what unpacks an archive on a node, lets Python import from there, and forgets what it had before."""

    def put(parent: str, content: bytes) -> None:
        import importlib  # noqa: PLC0415 - on nodes
        import io  # noqa: PLC0415 - as above
        import sys  # noqa: PLC0415 - as above
        import zipfile  # noqa: PLC0415 - as above
        from pathlib import Path  # noqa: PLC0415 - as above

        mark = "ropewalk-modules-"
        folder = Path(parent) / f"{mark}{digest}"
        if not folder.is_dir():
            with zipfile.ZipFile(io.BytesIO(content)) as opened:
                opened.extractall(folder)
        old = tuple(each for each in sys.path if mark in each and each != str(folder))
        sys.path[:] = [str(folder), *(each for each in sys.path if each not in (str(folder), *old))]
        for name, module in list(sys.modules.items()):
            if old and (getattr(module, "__file__", None) or "").startswith(old):
                del sys.modules[name]
        importlib.invalidate_caches()

    return put
