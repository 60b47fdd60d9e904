"""A node agent for tests: stands in for kubelets, and runs the pods that are bound to its nodes as local processes.

``python -m tests.support.kube_agent SETTINGS.json``. Each pod has a network and a mount namespace of its own, in
which its volumes and the names of Services are. Logs and port-forwards are served as kubelets serve them. What
tests may do to a pod or node is below ``/test``.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import ssl
import sys
import time
from collections.abc import Coroutine
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from tests.support.kube_network import Network, socket_inside
from tests.support.kube_pods import Pod, Runner
from tests.support.waiting import PATIENCE

LEASE_SECONDS = 2.0
CLEAN_UP_SECONDS = 1.0
LATE_SECONDS = 8.0
"""A node whose lease is 12 s old is given up until it says again that it is ready (kube_plane.py)."""
NODE_SIZE = {"cpu": "256", "memory": "1024Gi", "pods": "20000", "ephemeral-storage": "1024Gi"}


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Agent:
    def __init__(self, settings: dict[str, Any]) -> None:
        self.settings = settings
        self.home = Path(settings["home"])
        self.home.mkdir(exist_ok=True)
        self.nodes = {f"node-{i}" for i in range(settings["nodes"])}
        self.down: set[str] = set()
        self.pods: dict[str, Pod] = {}
        self.objects: dict[str, dict[str, Any]] = {}
        self.services: dict[str, dict[str, Any]] = {}
        self.network = None if settings["mark_only"] else Network()
        self.runner = Runner(self.home, self.network)
        self.tasks: set[asyncio.Task[None]] = set()
        self.gate = asyncio.Semaphore(64)

    def spawn(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self.tasks.add(task)
        task.add_done_callback(self._done)

    def _done(self, task: asyncio.Task[None]) -> None:
        self.tasks.discard(task)
        if not task.cancelled() and task.exception():
            print("failed", repr(task.exception()), flush=True)  # noqa: T201 - its log

    # Speaking to the API server.

    async def ask(self, method: str, path: str, body: Any = None, kind: str = "application/json") -> Any:
        headers = {"Content-Type": kind}
        async with (
            self.gate,
            self.session.request(
                method, self.settings["server"] + path, data=json.dumps(body) if body else None, headers=headers
            ) as answer,
        ):
            content = await answer.text()
            if answer.status >= 300:
                raise RuntimeError(f"{method} {path}: {answer.status} {content[:200]}")
            return json.loads(content)

    async def patch(self, pod: dict[str, Any], status: dict[str, Any]) -> None:
        meta = pod["metadata"]
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}/status"
        body = {"metadata": {"uid": meta["uid"]}, "status": status}
        with contextlib.suppress(RuntimeError):  # it is gone
            await self.ask("PATCH", path, body, "application/strategic-merge-patch+json")

    async def follow(self, path: str) -> None:
        """Keep to what the API server says of pods and Services, for ever."""
        while True:
            with contextlib.suppress(aiohttp.ClientError, RuntimeError, ValueError, TimeoutError):
                page = await self.ask("GET", path)
                current = {item["metadata"]["uid"] for item in page["items"]}
                for item in page["items"]:
                    self.saw(path, "ADDED", item)
                if path.endswith("pods"):
                    for uid in set(self.pods) - current:
                        self.forget(uid)
                await self.watch(path, page["metadata"]["resourceVersion"])
            await asyncio.sleep(0.3)

    async def watch(self, path: str, version: str) -> None:
        url = f"{self.settings['server']}{path}?watch=true&resourceVersion={version}"
        async with self.session.get(url, timeout=aiohttp.ClientTimeout()) as answer:
            while line := await answer.content.readline():
                event = json.loads(line)
                if event["type"] == "ERROR":
                    return
                self.saw(path, event["type"], event["object"])

    def saw(self, path: str, kind: str, item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        if path.endswith("services"):
            if kind == "DELETED":
                self.services.pop(uid, None)
            else:
                self.services[uid] = item
            self.write_hosts()
        elif kind == "DELETED":
            self.forget(uid)
        elif item["spec"].get("nodeName") in self.nodes:
            self.take(item)

    # Pods.

    def forget(self, uid: str) -> None:
        self.objects.pop(uid, None)
        pod = self.pods.pop(uid, None)
        if pod is not None:
            pod.kill()
            self.spawn(pod.remove())
            self.write_hosts()

    def take(self, item: dict[str, Any]) -> None:
        uid = item["metadata"]["uid"]
        self.objects[uid] = item
        if item["spec"]["nodeName"] in self.down:
            return
        if uid not in self.pods:
            if (item.get("status") or {}).get("phase") in ("Succeeded", "Failed"):
                return
            self.pods[uid] = self.runner.pod(item)
            if not item["metadata"].get("deletionTimestamp"):
                self.spawn(self.run(item, self.pods[uid]))
        if item["metadata"].get("deletionTimestamp") and not self.pods[uid].ending:
            self.pods[uid].ending = True
            self.spawn(self.end(item, self.pods[uid]))

    async def run(self, item: dict[str, Any], pod: Pod) -> None:
        image = item["spec"]["containers"][0]["image"]
        if image.startswith("missing/"):
            message = f'Back-off pulling image "{image}"'
            await self.patch(item, pod.status("Pending", waiting={"reason": "ImagePullBackOff", "message": message}))
            return
        if image.startswith("stuck/"):
            await self.patch(item, pod.status("Pending", waiting={"reason": "ContainerCreating"}))
            await self.event(item, "FailedMount", 'MountVolume.SetUp failed for volume "user-0": not found')
            return
        if not self.settings["mark_only"]:
            await pod.prepare(self.secret)
            await pod.start()
            self.write_hosts()
        await self.patch(item, pod.status("Running", running={"startedAt": now()}))
        if not self.settings["mark_only"]:
            await pod.process_ended()
            await self.report_end(item, pod)

    async def report_end(self, item: dict[str, Any], pod: Pod) -> None:
        if item["spec"]["nodeName"] in self.down:
            return
        code = pod.exit_code()
        reason = pod.reason or ("Completed" if code == 0 else "Error")
        ended = {"exitCode": code, "reason": reason, "finishedAt": now()}
        await self.patch(item, pod.status("Succeeded" if code == 0 else "Failed", terminated=ended, cause=pod.cause))

    async def end(self, item: dict[str, Any], pod: Pod) -> None:
        meta = item["metadata"]
        grace = meta.get("deletionGracePeriodSeconds")
        await pod.stop(float(grace if grace is not None else 30))
        if pod.started:
            await pod.process_ended()
            await self.report_end(item, pod)
            # A kubelet removes a pod a moment after its containers ended: who hurries can read its log to the end.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(pod.read.wait(), PATIENCE if pod.kept else CLEAN_UP_SECONDS)
        path = f"/api/v1/namespaces/{meta['namespace']}/pods/{meta['name']}"
        body = {"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": 0}
        with contextlib.suppress(RuntimeError):
            await self.ask("DELETE", path, {**body, "preconditions": {"uid": meta["uid"]}})

    async def secret(self, namespace: str, name: str) -> dict[str, str]:
        found = await self.ask("GET", f"/api/v1/namespaces/{namespace}/secrets/{name}")
        return dict(found.get("data") or {})

    async def event(self, item: dict[str, Any], reason: str, message: str) -> None:
        meta = item["metadata"]
        body = {
            "metadata": {"generateName": "agent-", "namespace": meta["namespace"]},
            "involvedObject": {
                "kind": "Pod",
                "name": meta["name"],
                "namespace": meta["namespace"],
                "uid": meta["uid"],
            },
            "reason": reason,
            "message": message,
            "type": "Warning",
            "lastTimestamp": now(),
        }
        await self.ask("POST", f"/api/v1/namespaces/{meta['namespace']}/events", body)

    def write_hosts(self) -> None:
        """Let pods find each Service at the address of the pod that it selects."""
        lines = ["127.0.0.1 localhost"]
        for service in self.services.values():
            meta, wanted = service["metadata"], service["spec"].get("selector") or {}
            for uid, pod in self.pods.items():
                labels = self.objects.get(uid, {}).get("metadata", {}).get("labels") or {}
                if wanted and wanted.items() <= labels.items() and pod.namespace == meta["namespace"]:
                    lines.append(f"{pod.address} {meta['name']}.{meta['namespace']}.svc")
        self.runner.hosts.write_text("\n".join(lines) + "\n")

    # Nodes.

    async def register(self, name: str) -> None:
        zone = f"zone-{name[-1]}"
        labels = {"kubernetes.io/hostname": name, "topology.kubernetes.io/zone": zone, "kubernetes.io/os": "linux"}
        node = {"metadata": {"name": name, "labels": labels}}
        with contextlib.suppress(RuntimeError):
            await self.ask("POST", "/api/v1/nodes", node)
        ready = {"type": "Ready", "status": "True", "reason": "KubeletReady", "lastHeartbeatTime": now()}
        status = {
            "capacity": NODE_SIZE,
            "allocatable": NODE_SIZE,
            "conditions": [{**ready, "lastTransitionTime": now()}],
            "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}, {"type": "Hostname", "address": name}],
            "daemonEndpoints": {"kubeletEndpoint": {"Port": self.settings["port"]}},
        }
        kind = "application/strategic-merge-patch+json"
        await self.ask("PATCH", f"/api/v1/nodes/{name}/status", {"status": status}, kind)

    async def heartbeat(self, name: str) -> None:
        """Renew the node's lease; say that it is ready when that came so late that it may have been given up."""
        renewed = time.monotonic()
        while True:
            if name not in self.down:
                with contextlib.suppress(RuntimeError, aiohttp.ClientError, TimeoutError, ValueError):
                    await self.renew(name)
                    if time.monotonic() - renewed > LATE_SECONDS:
                        await self.register(name)
                    renewed = time.monotonic()
            await asyncio.sleep(LEASE_SECONDS)

    async def renew(self, name: str) -> None:
        path = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
        stamp = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        spec = {"holderIdentity": name, "leaseDurationSeconds": 10, "renewTime": stamp}
        try:
            await self.ask("PATCH", f"{path}/{name}", {"spec": spec}, "application/merge-patch+json")
        except RuntimeError:
            await self.ask("POST", path, {"metadata": {"name": name}, "spec": spec})

    # What kubelets serve.

    def find(self, request: web.Request) -> tuple[dict[str, Any], Pod]:
        info = request.match_info
        for uid, pod in self.pods.items():
            if (pod.namespace, pod.name) == (info["namespace"], info["pod"]):
                item = self.objects[uid]
                if item["spec"]["nodeName"] in self.down:
                    raise web.HTTPServiceUnavailable
                return item, pod
        raise web.HTTPNotFound(text="no such pod here")

    async def serve_logs(self, request: web.Request) -> web.StreamResponse:
        _, pod = self.find(request)
        if not pod.started:
            raise web.HTTPBadRequest(text="container is waiting to start: ContainerCreating")
        response = web.StreamResponse()
        await response.prepare(request)
        with pod.log.open("rb") as file:
            while True:
                ended = pod.ended
                if data := file.read(2**16):
                    await response.write(data)
                elif request.query.get("follow") != "true" or ended:
                    if ended:
                        pod.read.set()
                    return response
                else:
                    await asyncio.sleep(0.05)

    async def serve_port(self, request: web.Request) -> web.WebSocketResponse:
        _, pod = self.find(request)
        port = int(request.query["port"] if "port" in request.query else request.query["ports"])
        socket = web.WebSocketResponse(protocols=("v4.channel.k8s.io",), max_msg_size=0)
        await socket.prepare(request)
        for channel in (0, 1):
            await socket.send_bytes(bytes([channel]) + port.to_bytes(2, "little"))
        try:
            reader, writer = await connect_inside(pod, port)
        except OSError as exc:
            await socket.send_bytes(b"\x01" + str(exc).encode())
            await socket.close()
            return socket
        await carry(socket, reader, writer)
        return socket

    async def test_kill(self, request: web.Request) -> web.Response:
        _, pod = self.find(request)
        pod.reason = request.query.get("reason")
        pod.cause = request.query.get("cause")
        pod.kill()
        return web.json_response({})

    async def test_keep(self, request: web.Request) -> web.Response:
        """Let the pod stay until its log was read to the end, however long that takes."""
        _, pod = self.find(request)
        pod.kept = True
        return web.json_response({})

    async def test_write(self, request: web.Request) -> web.Response:
        _, pod = self.find(request)
        with pod.log.open("a") as file:
            file.write(request.query["text"])
        return web.json_response({})

    async def test_look(self, request: web.Request) -> web.Response:
        _, pod = self.find(request)
        return web.json_response(pod.visible())

    async def test_node(self, request: web.Request) -> web.Response:
        name = request.match_info["node"]
        if request.query["down"] == "1":
            self.down.add(name)
        else:
            self.down.discard(name)
            await self.register(name)
        return web.json_response({})

    async def main(self) -> None:
        context = ssl.create_default_context(cafile=self.settings["ca"])
        self.session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=0),
            headers={"Authorization": f"Bearer {self.settings['token']}"},
            read_bufsize=2**22,
        )
        app = web.Application()
        app.add_routes(
            [
                web.get("/containerLogs/{namespace}/{pod}/{container}", self.serve_logs),
                web.route("*", "/portForward/{namespace}/{pod}", self.serve_port),
                web.post("/test/kill/{namespace}/{pod}", self.test_kill),
                web.post("/test/keep/{namespace}/{pod}", self.test_keep),
                web.post("/test/write/{namespace}/{pod}", self.test_write),
                web.get("/test/look/{namespace}/{pod}", self.test_look),
                web.post("/test/node/{node}", self.test_node),
            ]
        )
        server = web.AppRunner(app)
        await server.setup()
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(self.settings["certificate"], self.settings["key"])
        await web.TCPSite(server, "127.0.0.1", self.settings["port"], ssl_context=tls).start()
        for name in sorted(self.nodes):
            await self.register(name)
            self.spawn(self.heartbeat(name))
        self.write_hosts()
        self.spawn(self.follow("/api/v1/pods"))
        self.spawn(self.follow("/api/v1/services"))
        stop = asyncio.Event()
        for number in (signal.SIGTERM, signal.SIGINT):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        await stop.wait()
        for pod in self.pods.values():
            pod.kill()
        for task in self.tasks:
            task.cancel()
        await self.session.close()
        if self.network is not None:
            self.network.close()


async def connect_inside(pod: Pod, port: int) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    """Connect to the pod's own loopback, as kubelets do."""
    if pod.space is None:
        raise ConnectionRefusedError("the pod has not begun")
    inside = socket_inside(pod.space)
    inside.setblocking(False)
    try:
        await asyncio.get_running_loop().sock_connect(inside, ("127.0.0.1", port))
    except BaseException:
        inside.close()
        raise
    return await asyncio.open_connection(sock=inside)


async def carry(socket: web.WebSocketResponse, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    async def inward() -> None:
        async for message in socket:
            writer.write(message.data[1:])
            await writer.drain()

    async def outward() -> None:
        while data := await reader.read(2**16):
            await socket.send_bytes(b"\x00" + data)

    tasks = [asyncio.ensure_future(inward()), asyncio.ensure_future(outward())]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    writer.close()
    await socket.close()


if __name__ == "__main__":
    asyncio.run(Agent(json.loads(Path(sys.argv[1]).read_text())).main())
