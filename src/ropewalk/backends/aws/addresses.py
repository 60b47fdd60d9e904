"""Where schedulers are reached: the private address is on the task, the public one on its network interface."""

from __future__ import annotations

from collections.abc import Sequence

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.connect import join
from ropewalk.backends.aws.tasks import PAGE, Task
from ropewalk.backends.port import SCHEDULER_PORT
from ropewalk.errors import BackendError

__all__ = ["Addresses"]


class Addresses:
    """Asks EC2 once for each network interface; a task keeps its address for life.

    Args:
        aws: Calls AWS.
        public: Tasks have public addresses, and clients use them; else the private ones.
    """

    def __init__(self, aws: Aws, *, public: bool) -> None:
        self._aws = aws
        self._public = public
        self._known: dict[str, str] = {}
        self.fault: BackendError | None = None
        """Why the last question was not answered. Nodes run all the same, so it is no fault of a look at them."""

    async def find(self, tasks: Sequence[Task]) -> None:
        """Learn what is not known yet of the addresses of *tasks*, in one call for a hundred."""
        interfaces = {task.interface for task in tasks if task.interface} if self._public else set()
        self._known = {interface: host for interface, host in self._known.items() if interface in interfaces}
        wanted = sorted(interfaces - set(self._known))
        try:
            for start in range(0, len(wanted), PAGE):
                await self._ask(wanted[start : start + PAGE])
        except BackendError as exc:
            self.fault = exc
        else:
            self.fault = None

    async def _ask(self, interfaces: Sequence[str]) -> None:
        # A filter, since asking by id fails for all if one interface cannot be seen yet.
        filters = [{"Name": "network-interface-id", "Values": list(interfaces)}]
        pages = self._aws.pages("ec2", "DescribeNetworkInterfaces", "NetworkInterfaces", Filters=filters)
        async for interface in pages:
            host = (interface.get("Association") or {}).get("PublicIp")
            if host:
                self._known[interface["NetworkInterfaceId"]] = host

    def contact(self, task: Task) -> str | None:
        """Return the address that clients and the control plane use; None: it has none yet."""
        host = self._known.get(task.interface or "") if self._public else task.private_address
        return join(host, SCHEDULER_PORT) if host else None
