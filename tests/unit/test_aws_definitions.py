"""Task definitions are named by their content, and what a launch tells its nodes fits and stays secret."""

from __future__ import annotations

import asyncio
import base64
import json
import os
import subprocess
import sys
import threading
import zlib
from collections.abc import Iterator
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

import pytest

from ropewalk.backends.aws.api import Aws
from ropewalk.backends.aws.definitions import (
    BOOTSTRAP,
    DEFINITION_LIMIT,
    OVERRIDE_LIMIT,
    Definitions,
    Kind,
    overrides,
    pack,
)
from ropewalk.backends.aws.shapes import Size
from ropewalk.errors import FixItError
from ropewalk.node import exits
from ropewalk.server.clusters.certificates import issue
from tests.support.fake_ecs import FakeEcs, infrastructure

KIND = Kind("registry.invalid/dask:1", Size(1024, 4096), "X86_64")


def made(aws: FakeEcs) -> Definitions:
    return Definitions(cast("Aws", aws), "ropewalk-ca-test")


def config(role: str = "worker", **more: Any) -> dict[str, Any]:
    return {
        "v": 1,
        "installation": "i-12345678",
        "cluster": "c-12345678",
        "cluster_name": "a-name-of-forty-characters-0123456789012",
        "role": role,
        "tls": issue("c-12345678", datetime.now(UTC)).for_role(role),
        "worker_class": "distributed.Nanny",
        "nthreads": 4,
        "memory_limit": 16 * 2**30,
        "scheduler": "tls://10.77.100.200:8786",
        "options": {},
        "port": 0,
        **more,
    }


class TestDefinitions:
    async def test_is_registered_once_and_then_known(self) -> None:
        aws = FakeEcs()
        definitions = made(aws)
        names = await asyncio.gather(*(definitions.family(KIND, infrastructure()) for _ in range(20)))
        assert len(set(names)) == 1
        assert aws.calls == {"DescribeTaskDefinition": 1, "RegisterTaskDefinition": 1}

    async def test_of_another_server_is_found_and_reused(self) -> None:
        aws = FakeEcs()
        first = await made(aws).family(KIND, infrastructure())
        assert await made(aws).family(KIND, infrastructure()) == first
        assert aws.calls["RegisterTaskDefinition"] == 1

    async def test_that_could_not_be_made_is_tried_again(self) -> None:
        aws = FakeEcs()
        aws.fail("RegisterTaskDefinition", FixItError("no"))
        definitions = made(aws)
        with pytest.raises(FixItError, match="no"):
            await definitions.family(KIND, infrastructure())
        assert await definitions.family(KIND, infrastructure())

    @pytest.mark.parametrize(
        "other",
        [
            Kind("registry.invalid/dask:2", KIND.size, "X86_64"),
            Kind(KIND.image, Size(2048, 4096), "X86_64"),
            Kind(KIND.image, KIND.size, "ARM64"),
            Kind(KIND.image, KIND.size, "X86_64", storage=50),
        ],
    )
    def test_another_content_has_another_name(self, other: Kind) -> None:
        definitions = made(FakeEcs())
        here = infrastructure()
        assert definitions.body(KIND, here)["family"] != definitions.body(other, here)["family"]

    def test_says_what_fargate_needs_and_fits(self) -> None:
        body = made(FakeEcs()).body(Kind(KIND.image, Size(512, 1024), "ARM64", storage=50), infrastructure())
        assert (body["cpu"], body["memory"], body["networkMode"]) == ("512", "1024", "awsvpc")
        assert body["runtimePlatform"]["cpuArchitecture"] == "ARM64"
        assert body["ephemeralStorage"] == {"sizeInGiB": 50}
        (container,) = body["containerDefinitions"]
        assert container["logConfiguration"]["options"]["awslogs-group"] == "/ropewalk/ca-test"
        assert len(json.dumps(body)) < DEFINITION_LIMIT / 2

    def test_free_storage_is_not_asked_for(self) -> None:
        assert "ephemeralStorage" not in made(FakeEcs()).body(KIND, infrastructure())


class TestOverrides:
    def test_of_the_largest_sensible_cluster_fit(self) -> None:
        options = {
            "resources": {f"resource-{i}": i for i in range(20)},
            "preload": [f"https://example.org/preload/{i}.py" for i in range(10)],
            "plugins": [f"package.module_{i}.Plugin" for i in range(20)],
            "lifetime": "4 hours",
            "lifetime_stagger": "10 minutes",
        }
        environ = {f"A_LONG_NAME_OF_A_VARIABLE_{i}": f"https://bucket-{i}.example.org/path/{i:040d}" for i in range(20)}
        environ["AWS_SESSION_TOKEN"] = base64.b64encode(os.urandom(900)).decode()
        for role in ("scheduler", "worker"):
            found = overrides(config(role, options=options), environ, role)
            assert len(json.dumps(found)) < OVERRIDE_LIMIT

    @pytest.mark.parametrize(
        ("options", "environ", "field"),
        [({"x": os.urandom(6000).hex()}, {}, "worker_options"), ({}, {"X": os.urandom(6000).hex()}, "environ")],
    )
    def test_too_long_ones_name_what_to_shorten(
        self, options: dict[str, str], environ: dict[str, str], field: str
    ) -> None:
        with pytest.raises(FixItError) as caught:
            overrides(config(options=options), environ, "worker")
        assert caught.value.field == field
        assert "8192" in caught.value.message
        assert not any(text in str(caught.value) for text in (*options.values(), *environ.values()))

    def test_show_no_key_in_the_clear(self) -> None:
        told = config()
        text = json.dumps(overrides(told, {"TOKEN": "canary-41"}, "worker"))
        assert "canary-41" not in text
        assert told["tls"]["key"].splitlines()[1] not in text

    def test_are_the_same_each_time_so_that_a_launch_can_be_repeated(self) -> None:
        told = config()
        assert overrides(told, {"A": "b"}, "worker") == overrides(told, {"A": "b"}, "worker")


class Metadata(BaseHTTPRequestHandler):
    """ECS's metadata endpoint, version 4."""

    def do_GET(self) -> None:
        body = {
            "TaskARN": "arn:aws:ecs:us-east-1:123456789012:task/ropewalk/0123456789abcdef",
            "Containers": [{"Name": "node", "Networks": [{"NetworkMode": "awsvpc", "IPv4Addresses": ["127.0.0.1"]}]}],
        }
        assert self.path == "/v4/xyz/task"
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(body).encode())

    def log_message(self, *_args: Any) -> None:
        """Say nothing."""


@pytest.fixture
def metadata() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Metadata)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v4/xyz"
    server.shutdown()
    thread.join()
    server.server_close()


def bootstrap(program: str, told: dict[str, Any], **environ: str) -> subprocess.CompletedProcess[str]:
    """Run what a task definition runs, with another node program."""
    variables = {
        "PATH": os.environ["PATH"],
        "ROPEWALK_NODE_PROGRAM": pack(program.encode()),
        "ROPEWALK_NODE_CONFIG": pack(json.dumps(told).encode()),
        **environ,
    }
    return subprocess.run(
        [sys.executable, "-c", BOOTSTRAP], env=variables, capture_output=True, text=True, timeout=60, check=False
    )


class TestBootstrap:
    def test_gives_program_configuration_and_environment_and_leaves_no_trace_of_them(self) -> None:
        program = (
            "import json, os, sys\n"
            "def run_on_ecs(config):\n"
            "    left = [name for name in os.environ if name.startswith('ROPEWALK')]\n"
            "    print(json.dumps([config, os.environ['THEIRS'], left, sys.argv]))\n"
            "    return 7\n"
        )
        done = bootstrap(program, {"v": 1, "environ": {"THEIRS": "x"}})
        assert json.loads(done.stdout) == [{"v": 1}, "x", [], ["ropewalk-node"]]
        assert done.returncode == 7

    def test_the_node_program_completes_its_configuration_from_ecs(self, metadata: str) -> None:
        """It gets as far as to listen on the address of the task, where another address would not work."""
        program = zlib.decompress(base64.b85decode(program_of_definition())).decode()
        told = {**config("scheduler", limits={"cluster_timeout": 0.0}), "environ": {}}
        done = bootstrap(program, told, ECS_CONTAINER_METADATA_URI_V4=metadata, http_proxy="http://127.0.0.1:9")
        assert done.returncode == exits.EXIT_LIFETIME, done.stderr
        assert "tls://127.0.0.1:" in done.stderr

    def test_outside_ecs_says_so(self) -> None:
        program = zlib.decompress(base64.b85decode(program_of_definition())).decode()
        done = bootstrap(program, {**config(), "environ": {}})
        assert done.returncode == exits.EXIT_CONFIG
        assert "ECS_CONTAINER_METADATA_URI_V4 is not set" in done.stderr


def program_of_definition() -> str:
    body = made(FakeEcs()).body(KIND, infrastructure())
    (variable,) = body["containerDefinitions"][0]["environment"]
    return str(variable["value"])
