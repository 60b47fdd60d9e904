"""Uses a dask-gateway, in that one's own environment: says ready, then for each number of workers the seconds it took.

Run as ``python gateway_driver.py URL``; needs nothing of the rest.
"""

import json
import sys
import time
from typing import Any

from dask_gateway import Gateway  # type: ignore[import-not-found, unused-ignore]  # in an environment of its own

UP_SECONDS = 30.0

kept: list[Any] = []
"""Each cluster's own ``Gateway``: one that the garbage collector ends while the event loop's thread runs blocks it."""


def connected(url: str) -> Any:
    """Return the gateway, once it answers."""
    deadline = time.monotonic() + UP_SECONDS
    while True:
        gateway = Gateway(url)
        try:
            gateway.list_clusters()
        except Exception:
            if time.monotonic() > deadline:
                raise
            gateway.close()
            time.sleep(0.1)
        else:
            return gateway


def once(gateway: Any, workers: int) -> tuple[float, float]:
    """Return the seconds of one start and of one end."""
    began = time.perf_counter()
    cluster = gateway.new_cluster()
    kept.append(cluster.gateway)
    cluster.scale(workers)
    client = cluster.get_client()
    client.wait_for_workers(workers)
    started = time.perf_counter()
    client.close()
    cluster.shutdown()
    return started - began, time.perf_counter() - started


def main() -> None:
    gateway = connected(sys.argv[1])
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    for line in sys.stdin:
        sys.stdout.write(json.dumps(once(gateway, int(line))) + "\n")
        sys.stdout.flush()
    for each in (gateway, *kept):
        each.close()


if __name__ == "__main__":
    main()
