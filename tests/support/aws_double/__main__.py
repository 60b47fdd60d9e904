"""Serve the double: ``python -m tests.support.aws_double BIND [BIND…]``, each ``ADDRESS:PORT`` or ``fd://NUMBER``."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
import threading

from hypercorn.asyncio import serve
from hypercorn.config import Config
from ministack import app as application

from tests.support.aws_double import (
    containers,
    gate,
    identities,
    interfaces,
    layers,
    networks,
    permissions,
    quotas,
    resources,
    tasks,
)
from tests.support.aws_double.endpoint import steered


def end_with_parent() -> None:
    """End when the test process is gone: it holds the other end of standard input."""
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


async def main(binds: list[str]) -> None:
    """Serve until SIGTERM."""
    config = Config()
    config.bind = binds
    # Clients of the tests do not repeat calls: a connection that ended just when they used it again would fail one.
    config.keep_alive_timeout = 24 * 3600
    config.graceful_timeout = 0.5
    config.loglevel = "WARNING"
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, ended.set)
    threading.Thread(target=end_with_parent, daemon=True).start()
    await serve(steered(gate.droppable(application.app)), config, shutdown_trigger=ended.wait)


if __name__ == "__main__":
    logging.getLogger("hypercorn.access").setLevel(logging.WARNING)
    for part in (gate, permissions, resources, identities, networks, interfaces, tasks, containers, layers, quotas):
        part.install()
    asyncio.run(main(sys.argv[1:]))
    # Threads of ministack that follow containers would keep the process for as long as those live.
    os._exit(0)
