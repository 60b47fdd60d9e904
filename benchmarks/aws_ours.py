"""Our side of the benchmark of AWS: prepare an empty AWS account and launch a cluster in it, by the AWS backend."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from ropewalk.backends.aws.backend import AwsBackend
from ropewalk.backends.port import (
    Answer,
    ClusterRef,
    LaunchRequest,
    NodeHandle,
    NodeLaunch,
    NodeShape,
    Place,
    Resource,
)
from ropewalk.schemas.aws import AwsCredentials, AwsSettings
from ropewalk.schemas.clusters import GIB, NodeRole
from ropewalk.server.clusters.certificates import issue

PLACE = Place("in-benchmark", "ca-benchmark", "team")
SHAPE = NodeShape(cpu=1, memory=4 * GIB)


def backend(facts: Mapping[str, str], resources: Sequence[Resource] = ()) -> AwsBackend:
    """Return the backend of a cloud account of the double."""
    key = AwsCredentials.model_validate({"access_key_id": facts["key"], "secret_access_key": facts["secret"]})
    settings = AwsSettings(region=facts["region"], image="any", allow_ingress_from=["192.0.2.0/24"])
    return AwsBackend(PLACE, settings, key, resources, endpoint_url=facts["endpoint"])


async def prepared(facts: Mapping[str, str]) -> list[Resource]:
    """Prepare the AWS account; return what there is."""
    found: dict[tuple[str, str], Resource] = {}
    preparing = backend(facts)
    async for resource in preparing.prepare():
        found[resource.kind, resource.id] = resource
    await preparing.close()
    return list(found.values())


async def started(
    driven: AwsBackend, cluster: str, role: NodeRole, count: int, scheduler: str | None = None
) -> list[NodeHandle]:
    """Launch nodes; return them with what AWS calls them."""
    ref = ClusterRef(PLACE.installation, PLACE.account, cluster, cluster)
    tls = issue(cluster, datetime.now(UTC)).for_role(str(role))
    config = {"v": 1, "cluster": cluster, "role": str(role), "tls": tls}
    names = [f"{cluster}-{role}-{number}" for number in range(count)]
    request = LaunchRequest(ref, [NodeLaunch(name, role, SHAPE, config) for name in names], scheduler)
    results = await driven.launch(request)
    for result in results:
        if result.error:
            raise result.error
    return [NodeHandle(result.name, cluster, role, result.cloud_id) for result in results]


async def until_running(driven: AwsBackend, nodes: Sequence[NodeHandle]) -> None:
    """Watch nodes as the server does until all run."""
    while True:
        seen = (await driven.observe(nodes)).sightings.values()
        if all(sighting.answer is Answer.RUNNING and sighting.reason is None for sighting in seen):
            return
        await driven.changed()


async def address_of(driven: AwsBackend, scheduler: NodeHandle) -> str:
    """Watch a scheduler until its address is known."""
    while True:
        address = (await driven.observe([scheduler])).sightings[scheduler.name].address
        if address:
            return address
        await driven.changed()


async def cluster(facts: Mapping[str, str], workers: int) -> dict[str, Any]:
    """Go from nothing to a cluster that runs; tell how long that took, and how much of it preparing."""
    begun = time.monotonic()
    resources = await prepared(facts)
    ready = time.monotonic()
    driven = backend(facts, resources)
    (scheduler,) = await started(driven, "c", NodeRole.SCHEDULER, 1)
    address = await address_of(driven, scheduler)
    nodes = await started(driven, "c", NodeRole.WORKER, workers, address)
    await until_running(driven, [scheduler, *nodes])
    ended = time.monotonic()
    await driven.close()
    return {"seconds": ended - begun, "prepare": ready - begun, "workers": len(nodes)}


async def idle(facts: Mapping[str, str], clusters: int, seconds: float) -> None:
    """Watch idle clusters for a while, once all run; says when it begins."""
    driven = backend(facts, await prepared(facts))
    made = await asyncio.gather(*(started(driven, f"c{number}", NodeRole.SCHEDULER, 1) for number in range(clusters)))
    nodes = [node for nodes in made for node in nodes]
    await until_running(driven, nodes)
    print("begin", flush=True)
    deadline = asyncio.get_running_loop().time() + seconds
    try:
        async with asyncio.timeout_at(deadline):
            while True:
                await driven.observe(nodes)
                await driven.changed()
    except TimeoutError:
        pass
    await driven.close()


if __name__ == "__main__":
    told = json.load(sys.stdin)
    if told["what"] == "cluster":
        print(json.dumps(asyncio.run(cluster(told, told["workers"]))))
    else:
        asyncio.run(idle(told, told["clusters"], told["seconds"]))
