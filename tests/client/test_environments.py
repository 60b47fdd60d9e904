"""Software environments as users see them: a real server, real packages, real clusters."""

from __future__ import annotations

import io
import os
import zipfile
from importlib.metadata import version
from pathlib import Path

import distributed
import pytest

import ropewalk
from ropewalk.client import calls
from ropewalk.client.environment import installing, snapshot, sync
from ropewalk.client.environment.making import built
from ropewalk.client.environment.reading import specification
from ropewalk.client.environment.snapshot import Snapshot
from ropewalk.schemas.environments import EnvironmentCreate, EnvironmentDetail, EnvironmentSpec
from tests.client.conftest import LiveServer
from tests.support.waiting import wait_until

PINS = [f"dask=={version('dask')}", f"distributed=={distributed.__version__}"]


def wheel(folder: Path, answer: int) -> Path:
    """Make a package that nobody has: ``rope_probe``."""
    path = folder / f"rope_probe-{answer}-py3-none-any.whl"
    about = f"rope_probe-{answer}.dist-info"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("rope_probe.py", f"import sys\nANSWER = {answer}\nPREFIX = sys.prefix\n")
        archive.writestr(f"{about}/METADATA", f"Metadata-Version: 2.1\nName: rope-probe\nVersion: {answer}\n")
        archive.writestr(f"{about}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{about}/RECORD", "")
    return path


def asked(client: distributed.Client) -> tuple[int, str]:
    """Return what the package of :func:`wheel` says on a worker, and where that worker's Python is."""

    def probe() -> tuple[int, str]:  # here, so that it is sent as it is: nodes have no tests
        import rope_probe  # type: ignore[import-not-found] # noqa: PLC0415 - only nodes have it

        return rope_probe.ANSWER, rope_probe.PREFIX

    answer: tuple[int, str] = client.submit(probe).result(60)
    return answer


@pytest.fixture
def killed_server(own_server: LiveServer) -> LiveServer:
    """A server that is killed in the middle of a build, and started again."""
    spec = specification(pip=PINS)
    with own_server.api() as api:
        made = api(calls.create_environment("ada", EnvironmentCreate(name="outlives", spec=spec)))
        build = str(made.build)
        wait_until(lambda: "Resolved" in api(calls.get_build_log("ada", build)).text, within=120)
    assert own_server._process is not None
    own_server._process.kill()
    own_server._process.wait()
    own_server.start()
    with own_server.api() as api:
        assert api.drive(built("ada", build, lambda _text: None)).state == "ready"
    return own_server


# The nodes have fewer packages than the tests, numpy and pandas among them, which is what Dask says.
@pytest.mark.filterwarnings("ignore:Mismatched versions found")
def test_a_cluster_runs_in_an_environment_with_packages_that_the_server_has_not(
    killed_server: LiveServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = io.StringIO()
    own = wheel(tmp_path, 42)
    made = ropewalk.create_software_environment("probe", pip=PINS, wheels=[own], log_output=log)
    assert (made.version, made.state) == (1, "ready")
    assert "is ready" in log.getvalue()
    with pytest.raises(ropewalk.FixItError, match=r"there is no version of six==99") as caught:
        ropewalk.create_software_environment("probe", pip=[*PINS, "six==99"], log_output=None)
    assert "could not be built" in caught.value.message
    assert ropewalk.inspect_software_environment("probe").version == 1, "a failed build changes nothing"

    with ropewalk.Cluster(1, software="probe") as cluster, cluster.get_client() as client:
        answer, prefix = asked(client)
        assert client.run_on_scheduler(lambda: __import__("sys").prefix) == prefix
    assert answer == 42
    assert prefix.startswith(str(killed_server.data))

    _nothing_is_done_where_packages_are_the_same()
    _packages_of_another_machine_are_brought_along(made, own, monkeypatch)
    _the_same_packages_can_be_installed_here(killed_server, made, tmp_path, monkeypatch)


def _nothing_is_done_where_packages_are_the_same() -> None:
    with ropewalk.Cluster(0, wait_for_workers=False):
        pass
    assert [each.name for each in ropewalk.list_software_environments(managed=True)] == ["outlives", "probe"]


def _packages_of_another_machine_are_brought_along(
    made: EnvironmentDetail, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if this program ran elsewhere, with a package that nodes cannot have."""
    packages = made.versions[0]
    pins = [f"{each.name}=={each.version}" for each in packages.packages if each.url is None]
    spec = EnvironmentSpec(
        python=packages.spec.python,
        pip=[*pins, "rope-not-there==1"],
        wheels=packages.spec.wheels,
        exact=True,
        droppable=["rope-not-there"],
    )
    mine = Snapshot(spec, {packages.spec.wheels[0].sha256: own})
    monkeypatch.setattr(sync, "fingerprint", lambda: "another machine")
    monkeypatch.setattr(sync, "snapshot", lambda **_place: mine)
    with (
        pytest.warns(ropewalk.VersionMismatchWarning, match=r"rope-not-there 1: There is none of it"),
        ropewalk.Cluster(1, wait_for_workers=True) as cluster,
        cluster.get_client() as client,
    ):
        assert asked(client)[0] == 42
    found = [each for each in ropewalk.list_software_environments(managed=True) if each.managed]
    assert [each.name for each in found] == [mine.name]
    with pytest.raises(ropewalk.VersionMismatchError, match="rope-not-there"):
        ropewalk.Cluster(1, versions="error")
    monkeypatch.undo()


def _the_same_packages_can_be_installed_here(
    server: LiveServer, made: EnvironmentDetail, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nothing is fetched twice.
    monkeypatch.setenv("UV_CACHE_DIR", str(server.data / "local" / "environments" / "cache"))
    with server.api() as api:
        folder = installing.install(api, "ada", made.versions[0], tmp_path / "here")
    assert list(folder.glob("lib/python3*/site-packages/rope_probe.py"))
    assert list(folder.glob("lib/python3*/site-packages/distributed/__init__.py"))


def test_what_this_python_has_is_read_and_made_into_a_specification(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    found = {each.name: each for each in snapshot.installed()}
    assert found["distributed"].version == distributed.__version__
    assert "ropewalk" not in found
    assert os.listdir(tmp_path) == [], "reading builds nothing"  # noqa: PTH208 - names are all that is wanted
