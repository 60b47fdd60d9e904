"""Which clusters this program made and has to stop: whatever happens, none is left behind.

A claim is entered before the server is asked for a cluster, and leaves when the cluster was asked to stop, or is meant
to stay. What is still claimed when the interpreter exits is stopped then. A program that is killed outright cannot do
that; then the cluster's own idle and no-client time-outs end it.
"""

from __future__ import annotations

import atexit
import os
import signal
import threading
from contextlib import suppress
from dataclasses import dataclass, field

from ropewalk.client import calls
from ropewalk.client.exchange import RetryPolicy
from ropewalk.client.http import Api, AsyncApi, Steps
from ropewalk.errors import NotFoundError, RopewalkError
from ropewalk.schemas.clusters import ClusterDetail

__all__ = ["Claim", "release"]

EXIT_POLICY = RetryPolicy(attempts=2)
"""A program that ends does not wait long for a server that is not there."""


@dataclass(eq=False)
class Claim:
    """A cluster that was asked for.

    ``id`` is unknown until the server has answered. If its answer is lost, the cluster is found by its name: one that
    had the name before (``existed``) or that another user made is not ours.
    """

    server: str
    token: str | None = field(repr=False)
    account: str
    name: str
    user: str
    existed: str | None = None
    id: str | None = None
    _pid: int = field(default_factory=os.getpid)

    def enter(self) -> None:
        """Remember it until :meth:`leave`, at the latest until the interpreter exits."""
        with _lock:
            _claims.add(self)

    def leave(self) -> None:
        """Forget it: it was asked to stop, or it is meant to stay."""
        with _lock:
            _claims.discard(self)

    def stop(self, reason: str) -> Steps[ClusterDetail | None]:
        """The calls that stop the cluster, for either kind of client; returns it as it was then, None: none is ours."""
        cluster = self.id
        if cluster is None:
            try:
                found: ClusterDetail = yield calls.get_cluster(self.account, self.name)
            except NotFoundError:
                return None
            if not found.state.live or found.id == self.existed or found.creator != self.user:
                return None
            cluster = found.id
        try:
            stopped: ClusterDetail = yield calls.stop_cluster(self.account, cluster, reason=reason)
        except NotFoundError:
            return None
        return stopped

    def belongs_to_this_process(self) -> bool:
        """A forked child inherits the claims of its parent, and must not act on them."""
        return self._pid == os.getpid()


_claims: set[Claim] = set()
_lock = threading.Lock()


async def release(claim: Claim, api: AsyncApi, reason: str) -> ClusterDetail | None:
    """Stop the claimed cluster, if there is one, and leave the claim. A failure keeps the claim, for the exit."""
    stopped = await api.drive(claim.stop(reason))
    claim.leave()
    return stopped


@atexit.register
def release_all() -> None:
    """Stop what this program made and did not stop. Runs at exit, when no event loop can be relied upon."""
    with _lock:
        claims = [claim for claim in _claims if claim.belongs_to_this_process()]
        _claims.clear()
    if claims and threading.current_thread() is threading.main_thread():
        # Ctrl-C at this moment would leave a cluster behind, and the program is ending anyway.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    for claim in claims:
        # Nobody is left to act on an error, and the cluster's own limits end it.
        with suppress(RopewalkError), Api(claim.server, claim.token, retry=EXIT_POLICY) as api:
            api.drive(claim.stop("The program that started it has ended."))
