"""An image that was built here, pulled by a real container engine, runs Dask."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path

import pytest

from ropewalk.schemas.environments import EnvironmentSpec
from ropewalk.server.environments.builder import BuildRequest, Target
from ropewalk.server.environments.oci.maker import ImageBuilder
from ropewalk.server.environments.oci.sources import Registries
from tests.images.conftest import OnePlace, Said, no_sleep, put_image
from tests.support import node_image
from tests.support.engine import Engine
from tests.support.registry import Registry

PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"
_LOOK = """
import distributed, os, sys, tornado
from distributed import Client, LocalCluster
print(sys.prefix, distributed.__file__, os.environ["VIRTUAL_ENV"])
code = distributed.__cached__
with open(code, "rb") as stream:
    print(int.from_bytes(stream.read(8)[4:], "little"))
"""


@pytest.mark.timeout(400)
async def test_an_image_made_of_packages_from_the_index_runs_dask(
    registry: Registry, container_engine: Engine, tmp_path: Path, said: Said
) -> None:
    base = gzip.compress(node_image.build(()).read_bytes(), 1)
    put_image(registry.host, f"base/real:{PYTHON}", [base], config={"Env": ["PATH=/usr/local/bin:/bin"]})
    builder = ImageBuilder(
        folder=tmp_path / "images",
        cache=lambda _: tmp_path / "uv",
        places=OnePlace(registry.host, "team/real"),
        registries=Registries(sleep=no_sleep),
        base=f"{registry.host}/base/real:{{python}}",
    )
    spec = EnvironmentSpec(python=PYTHON, pip=["distributed"])
    result = await builder.build(BuildRequest("b-1", spec, Target("ca", "ca", "ac", "linux/amd64")), said)
    assert result.image is not None
    container_engine.docker("pull", "--quiet", result.image)
    run = ("run", "--rm", "--network", "none", "--read-only", "--user", "1000", result.image)
    told = container_engine.docker(*run, "python", "-c", _LOOK).split()
    assert told[0] == "/opt/ropewalk"
    assert told[1].startswith(f"/opt/ropewalk/lib/python{PYTHON}/site-packages/")
    assert told[2:] == ["/opt/ropewalk", "1"]  # PEP 552: the compiled files hold for good
    assert container_engine.docker(*run, "dask", "--version")
