"""The other side of the benchmark of AWS: ``dask_cloudprovider.aws.FargateCluster``, in its own virtual environment.

``python aws_peer.py WORKERS ADDRESS``; endpoint, region and key by AWS's environment variables. *ADDRESS* is the public
address that the scheduler's task will get; a real scheduler listens there. Prints seconds as JSON.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time

from dask_cloudprovider.aws import FargateCluster
from distributed import Scheduler


async def main(workers: int, address: str) -> None:
    """Make a cluster, wait until all its tasks run, tell how long that took."""
    async with Scheduler(host=address, port=8786, dashboard=False):
        begun = time.monotonic()
        cluster = FargateCluster(image="any", n_workers=workers, asynchronous=True, skip_cleanup=True)
        await cluster
        running = sum(worker.task["lastStatus"] == "RUNNING" for worker in cluster.workers.values())
        print(json.dumps({"seconds": time.monotonic() - begun, "workers": running}), flush=True)
        # Ending a hundred tasks in order is not what is measured.
        os._exit(0)


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1]), sys.argv[2]))
