"""What is put around each node: a user of its account's own, and limits."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass

from ropewalk.backends.local import leftovers
from ropewalk.backends.local.cgroups import Cgroups, Limits
from ropewalk.backends.local.confinement import Confinement
from ropewalk.backends.local.home import NodeHome
from ropewalk.backends.local.isolation import Isolation
from ropewalk.backends.port import NodeShape
from ropewalk.errors import FixItError
from ropewalk.schemas.cloud_accounts import HostedSettings


@dataclass(frozen=True, slots=True)
class Guard:
    """Confines the nodes of one backend."""

    isolation: Isolation
    cgroups: Cgroups
    settings: HostedSettings

    def confine(self, home: NodeHome, account: str, shape: NodeShape) -> Confinement:
        """Prepare what is around one node, before it starts.

        Raises:
            FixItError: it must not start without a user of its own.
            OSError: its user cannot be recorded.
        """
        uid = self.isolation.uid(account)
        limits = Limits(shape.memory, shape.cpu, self.settings.process_limit, self.settings.cpu_quota)
        return Confinement(uid, self.cgroups.make(home.tag.name, limits))

    def clean_up(self) -> None:
        """Remove what nodes left behind that were ended by force: empty groups, shared memory, files in /tmp."""
        self.cgroups.remove_abandoned()
        if self.isolation.may_change_users:
            with suppress(FixItError):  # a damaged record is said by whatever needs it to start a node
                leftovers.remove(set(self.isolation.uids.known().values()))
