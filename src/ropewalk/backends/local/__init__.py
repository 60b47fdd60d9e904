"""Nodes are processes of this machine that outlive the server.

What proves that a node is alive is a lock that the node itself holds, inherited from the server that started it, so
there is no instant at which a node runs and nobody can know. What names its process is pid *and* start time, never pid
alone.
"""

from ropewalk.backends.local.backend import LocalBackend
from ropewalk.backends.local.spawner import Spawner

__all__ = ["LocalBackend", "Spawner"]
