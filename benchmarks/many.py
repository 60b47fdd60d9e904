"""A server with pretended hosted clusters that counts its statements; run as ``python -m benchmarks.many``.

Takes the options of ``ropewalk server start``. At SIGUSR1 it writes how many statements it has executed to the file
``statements`` of its data directory.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path

from sqlalchemy import Engine, event

from ropewalk.backends.memory import MemoryBackend
from ropewalk.cli.main import main as command
from ropewalk.server import run
from ropewalk.server.app import create_app
from ropewalk.server.cloud_accounts.registry import Backends

FILE = "statements"


class Count:
    """Counts the statements of every engine of this process, but for the beginnings of transactions."""

    def __init__(self) -> None:
        self.number = 0
        event.listen(Engine, "before_cursor_execute", self._add)

    def _add(self, _connection: object, _cursor: object, statement: str, *_: object) -> None:
        self.number += not statement.startswith("BEGIN")

    def stop(self) -> None:
        """Count no more."""
        event.remove(Engine, "before_cursor_execute", self._add)

    def write(self, folder: Path) -> None:
        """Write the number down, as a whole or not at all."""
        new = folder / f"{FILE}.new"
        new.write_text(str(self.number))
        new.replace(folder / FILE)


def main() -> None:
    count = Count()
    folder = Path(sys.argv[sys.argv.index("--data-dir") + 1])
    signal.signal(signal.SIGUSR1, lambda *_: count.write(folder))
    backends = Backends({"local": MemoryBackend()})
    vars(run)["create_app"] = partial(create_app, backends=backends)
    sys.argv[1:1] = ["server", "start"]
    command()


if __name__ == "__main__":
    main()
