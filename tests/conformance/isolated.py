"""The real node program in processes of an account's own user."""

from __future__ import annotations

from pathlib import Path

import psutil

from ropewalk.backends.local import LocalBackend
from ropewalk.backends.port import NodeHandle
from ropewalk.schemas.cloud_accounts import HostedSettings, Isolate
from tests.conformance import harness
from tests.support import isolated, spawners


class IsolatedHarness(harness.LocalHarness):
    def __init__(self, data: Path) -> None:
        isolated.interpreter()  # skips where that cannot be
        super().__init__(data / "local")

    def _make(self) -> LocalBackend:
        settings = HostedSettings(isolation=Isolate.REQUIRED, uid_base=isolated.UID_BASE)
        spawner = spawners.spawner("isolated")
        python = isolated.interpreter()
        return LocalBackend(self.root, harness.INSTALLATION, settings, interpreter=python, spawner=spawner)

    async def visible(self, node: NodeHandle) -> str:
        process = psutil.Process(self.pid(node))
        assert set(process.uids()) == {isolated.UID_BASE}
        assert process.ppid() == getattr(spawners.spawner("isolated").parent, "pid", None)
        folder = self.backend._home(node).path
        assert [oct(path.stat().st_mode & 0o067) for path in (folder, folder / "log")] == ["0o0"] * 2
        assert not (folder / "config.json").exists()
        return " ".join(process.cmdline()) + " ".join(harness.paths(folder))
