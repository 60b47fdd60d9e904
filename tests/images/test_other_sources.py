"""Images that are used as they are, conda packages, and commands that run in the image while it is made."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from ropewalk.errors import FixItError
from ropewalk.server.environments.oci import sandbox_program
from ropewalk.server.environments.oci.blobs import Blobs
from ropewalk.server.environments.oci.platform import Platform
from ropewalk.server.environments.oci.sandbox import run_commands
from ropewalk.server.environments.oci.unpack import unpack
from tests.images.conftest import layer, put_image
from tests.images.test_build import PYTHON, SITE, World, world
from tests.support import packages
from tests.support.packages import make_conda_package, make_wheel
from tests.support.registry import Registry

__all__ = ["world"]

PLACE = "/a/place/that/is/long/enough/to/hold/ours"


class TestAsItIs:
    async def test_an_image_with_dask_is_taken_by_its_digest_and_not_copied(
        self, world: World, registry: Registry
    ) -> None:
        site = f"opt/conda/lib/python{PYTHON}/site-packages"
        names = [f"{site}/dask-2026.8.0.dist-info/METADATA", f"{site}/distributed-2026.8.0.dist-info/METADATA"]
        names += [f"opt/conda/bin/python{PYTHON}", f"{site}/gone-1.0.dist-info/METADATA"]
        lower = layer([*((name, b"x") for name in names), ("opt/conda/bin/python", f"python{PYTHON}")])
        upper = layer([(f"{site}/.wh.gone-1.0.dist-info", b"")])
        config = {"Env": ["PATH=/opt/conda/bin:/bin"]}
        digest = put_image(registry.host, "their/dask:1", [lower, upper], config=config)
        world.proxy.requests.clear()
        found = await world.build(index_url=None, container=f"{world.proxy.host}/their/dask:1")
        assert found["image"] == f"{world.proxy.host}/their/dask@{digest}"
        assert {p.name: p.version for p in found["lock"].packages} == {"dask": "2026.8.0", "distributed": "2026.8.0"}
        assert world.proxy.sent == 0

    async def test_an_image_that_nodes_cannot_start_in_is_refused(self, world: World, registry: Registry) -> None:
        bare: list[tuple[str, bytes | str]] = [(f"usr/bin/python{PYTHON}", b""), ("usr/bin/python", f"python{PYTHON}")]
        for name, data, says in (("bare", layer(bare), "no dask and no distributed"), ("none", layer([]), "no python")):
            put_image(registry.host, f"their/{name}:1", [data])
            with pytest.raises(FixItError, match=says) as caught:
                await world.build(index_url=None, container=f"{world.proxy.host}/their/{name}:1")
            assert caught.value.field == "container"


class TestConda:
    async def test_conda_packages_become_an_interpreter_and_packages_in_their_final_place(
        self, world: World, tmp_path: Path
    ) -> None:
        channel = tmp_path / "channel"
        binary = b"\x7fELF" + PLACE.encode() + b"/lib\0rest" + b"\0" * 8
        make_conda_package(
            channel, "libssl", subdir="linux-64", files={"lib/libssl.so.1": b"x", "lib/libssl.so": "libssl.so.1"}
        )
        make_conda_package(
            channel,
            "python",
            f"{PYTHON}.4",
            {f"bin/python{PYTHON}": binary, "bin/python": f"python{PYTHON}", "etc/where": PLACE.encode() + b"/etc\n"},
            subdir="linux-64",
            depends=["libssl", "__glibc >=2.17"],
            placeholders={f"bin/python{PYTHON}": ("binary", PLACE), "etc/where": ("text", PLACE)},
        )
        for name in ("dask", "distributed"):
            files: dict[str, bytes | str] = {f"site-packages/{name}/__init__.py": b"x = 1\n"}
            points = [f"{name}-run = {name}:main"]
            make_conda_package(channel, name, files=files, depends=["python"], entry_points=points)
        make_wheel(world.site.root, "extra", requires=["dask"])
        with packages.served(channel) as site:
            conda: dict[str, Any] = {"channels": [site.url], "dependencies": ["distributed", "dask"]}
            found = await world.build("extra", conda=conda)
            requests = len(site.requests)
            again = await world.build("extra", conda=conda)
            assert again["reused"]
            assert not [path for path in site.requests[requests:] if path.endswith(".bz2")]
        files_of = await world.files(found["image"])
        assert files_of["opt/ropewalk/etc/where"] == b"/opt/ropewalk/etc\n"
        program = files_of[f"opt/ropewalk/bin/python{PYTHON}"]
        assert isinstance(program, bytes)
        assert len(program) == len(binary)
        assert program.startswith(b"\x7fELF/opt/ropewalk/lib\0")
        assert program.endswith(b"\0rest" + b"\0" * 8)
        assert files_of["opt/ropewalk/lib/libssl.so"] == "libssl.so.1"
        assert f"{SITE}/dask/__init__.py" in files_of
        assert f"{SITE}/extra/__init__.py" in files_of
        assert "opt/ropewalk/bin/dask-run" in files_of
        _, config = await world.made(found["image"])
        titles = [each["created_by"].removeprefix("ropewalk: ") for each in config["history"]]
        assert titles == ["base", "interpreter", "heavy", "3 packages"]
        managers = {(package.manager, package.name) for package in found["lock"].packages}
        assert {("conda", "python"), ("conda", "dask"), ("pip", "extra")} <= managers
        assert ("pip", "dask") not in managers

    async def test_what_cannot_be_solved_is_explained_by_the_solver(self, world: World, tmp_path: Path) -> None:
        channel = tmp_path / "channel"
        make_conda_package(channel, "python", f"{PYTHON}.4", subdir="linux-64")
        make_conda_package(channel, "dask", depends=["no-such-thing >=3"])
        with packages.served(channel) as site:
            conda = {"channels": [site.url], "dependencies": ["dask"]}
            with pytest.raises(FixItError, match="no-such-thing") as caught:
                await world.build(conda=conda)
        assert caught.value.field == "conda"

    async def test_a_package_with_links_out_of_its_place_is_refused(self, world: World, tmp_path: Path) -> None:
        channel = tmp_path / "channel"
        make_conda_package(channel, "python", f"{PYTHON}.4", {f"bin/python{PYTHON}": b"x"}, subdir="linux-64")
        for name in ("dask", "distributed"):
            make_conda_package(channel, name, depends=["python"], files={f"site-packages/{name}.py": b""})
        make_conda_package(channel, "evil", files={"lib/evil": "../../../../etc/passwd"})
        with packages.served(channel) as site:
            conda = {"channels": [site.url], "dependencies": ["distributed", "dask", "evil"]}
            with pytest.raises(FixItError, match="leads out of the place") as caught:
                await world.build(conda=conda)
        assert "lib/evil" in caught.value.message


class TestUnpacking:
    @pytest.mark.parametrize(
        "files",
        [
            [("../evil", b"x")],
            [("a/../../evil", b"x")],
        ],
    )
    def test_names_that_lead_out_are_refused(self, tmp_path: Path, files: list[tuple[str, bytes | str]]) -> None:
        archive = tmp_path / "layer"
        archive.write_bytes(layer(files))
        (tmp_path / "in" / "root").mkdir(parents=True)
        with pytest.raises(FixItError, match="leads out"):
            unpack([archive], tmp_path / "in" / "root")
        assert not list(tmp_path.rglob("evil"))

    def test_links_are_followed_within_the_image_only(self, tmp_path: Path) -> None:
        outside = tmp_path / "outside"
        outside.mkdir()
        root = tmp_path / "root"
        root.mkdir()
        archive = tmp_path / "layer"
        archive.write_bytes(
            layer([("there", str(outside)), ("there/file", b"x"), ("up", "../../.."), ("up/file", b"y")])
        )
        unpack([archive], root)
        assert list(outside.iterdir()) == []
        assert (root / str(outside).lstrip("/") / "file").read_bytes() == b"x"
        assert (root / "file").read_bytes() == b"y"

    def test_what_upper_layers_remove_is_gone(self, tmp_path: Path) -> None:
        lower, upper = tmp_path / "1", tmp_path / "2"
        lower.write_bytes(layer([("a/one", b"1"), ("a/two", b"2"), ("b/three", b"3")]))
        upper.write_bytes(layer([("a/.wh.one", b""), ("b/.wh..wh..opq", b""), ("b/four", b"4")]))
        root = tmp_path / "root"
        root.mkdir()
        unpack([lower, upper], root)
        assert sorted(each.name for each in root.rglob("*") if each.is_file()) == ["four", "two"]


@pytest.fixture
def shell(blobs: Blobs) -> str:
    """A layer with a shell and little else."""
    busybox = shutil.which("busybox")
    if busybox is None:
        pytest.skip("busybox is not installed; scripts/test installs it with the container engine")
    files: list[tuple[str, bytes | str]] = [
        ("bin/busybox", Path(busybox).read_bytes()),
        ("etc/passwd", b"root:x:0:0::/:/bin/sh\n"),
    ]
    names = ("sh", "echo", "cat", "rm", "ls", "id", "wget", "mkdir", "mount", "chroot", "kill", "ps", "touch", "ln")
    return blobs.keep(layer([*files, *((f"bin/{name}", "busybox") for name in names)]))


class TestPostBuild:
    async def run(self, shell: str, blobs: Blobs, *commands: str, lines: list[str] | None = None) -> dict[str, Any]:
        scratch = blobs.folder / "scratch"
        scratch.mkdir(exist_ok=True)
        made = await run_commands(
            commands,
            [shell],
            blobs,
            scratch,
            environ={"PATH": "/bin", "GREETING": "hello"},
            platform=Platform("amd64"),
            network=False,
            say=(lines if lines is not None else []).append,
        )
        with tarfile.open(blobs.path(made.digest)) as archive:
            return {m.name: m.linkname or (archive.extractfile(m) or archive).read() for m in archive if not m.isdir()}  # type: ignore[union-attr] # a file

    async def test_what_commands_leave_becomes_a_layer(self, shell: str, blobs: Blobs) -> None:
        lines: list[str] = []
        found = await self.run(
            shell,
            blobs,
            "mkdir /data; echo $GREETING > /data/file; ln -s file /data/link; echo told",
            "rm /etc/passwd; echo gone > /tmp/thrown-away",
            lines=lines,
        )
        assert found == {"data/file": b"hello\n", "data/link": "file", "etc/.wh.passwd": b""}
        assert "told" in lines

    async def test_commands_see_nothing_of_the_machine_and_have_no_rights_on_it(
        self, shell: str, blobs: Blobs, tmp_path: Path
    ) -> None:
        (tmp_path / "secret").write_text("canary")
        command = (
            f"! cat {tmp_path}/secret; ls / > /seen; ! mount -t tmpfs x /etc; ! chroot / /bin/sh -c true; "
            "! wget -q -O - http://127.0.0.1:1/; cat /proc/self/uid_map > /map || echo none > /map"
        )
        found = await self.run(shell, blobs, command)
        assert set(found["seen"].decode().split()) <= {"bin", "etc", "dev", "proc", "tmp", "seen"}
        owner = sandbox_program.USER if os.geteuid() == 0 else os.geteuid()
        assert found["map"].decode().split() in (["0", str(owner), "1"], ["none"])

    async def test_a_command_that_fails_is_told_with_what_it_said(self, shell: str, blobs: Blobs) -> None:
        with pytest.raises(FixItError) as caught:
            await self.run(shell, blobs, "echo first; echo broken; exit 3\ntrue")
        assert caught.value.message == (
            "A command of post_build ended with status 3: broken. It was `echo first; echo broken; exit 3 …`."
        )
        assert "post_build_network" in str(caught.value.advice)
        assert caught.value.field == "post_build"

    async def test_where_no_sandbox_can_be_made_it_says_so(
        self, shell: str, blobs: Blobs, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(Platform, "is_host", False)
        with pytest.raises(FixItError, match="the server is not"):
            await self.run(shell, blobs, "true")

    async def test_it_is_part_of_the_image_and_runs_once(self, world: World, shell: str, registry: Registry) -> None:
        data = world.builder._blobs
        busybox = Blobs(data.folder.parent.parent / "blobs").read(shell)
        python = layer([(f"usr/local/bin/python{PYTHON}", b""), ("usr/local/bin/python3", f"python{PYTHON}")])
        put_image(registry.host, "base/shell:1", [busybox, python], config={"Env": ["PATH=/usr/local/bin:/bin"]})
        base = f"{world.proxy.host}/base/shell:1"
        command = f"cat /{SITE}/dask/__init__.py > /copied"
        found = await world.build("distributed", container=base, post_build=[command])
        assert (await world.files(found["image"]))["copied"] == b"__version__ = '1.0'\n"
        world.said.lines.clear()
        assert (await world.build("distributed", container=base, post_build=[command]))["reused"]
        assert not [line for line in world.said.lines if line.startswith("$")]


def test_the_sandbox_says_when_namespaces_are_forbidden(tmp_path: Path) -> None:
    """In a process that may make none, as in many containers."""
    unshare = shutil.which("unshare")
    if unshare is None or os.geteuid() != 0:
        pytest.skip("needs root and unshare")
    order = tmp_path / "order.json"
    order.write_text('{"root": "/", "command": "true", "environ": {}, "network": false}')
    limited = 'echo 0 > /proc/sys/user/max_user_namespaces; exec "$@"'
    command = [unshare, "--user", "--map-root-user", "sh", "-c", limited, "sh", sys.executable, "-I", "-S"]
    done = subprocess.run([*command, sandbox_program.__file__, str(order)], capture_output=True, text=True, check=False)
    assert done.returncode == sandbox_program.CANNOT, done.stderr
    assert done.stderr.strip()
