"""What a pod adds to the configuration of its role."""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

from ropewalk.backends.kubernetes import boot

POD = {"ROPEWALK_NODE": "c-1-worker-3", "ROPEWALK_POD_IP": "10.1.2.3", "ROPEWALK_WORK": "/run/ropewalk/work"}


def test_is_its_name_its_address_and_its_directory() -> None:
    found = boot.configuration({"v": 1, "role": "worker", "port": 0, "tls": {}}, POD)
    assert found == {
        "v": 1,
        "role": "worker",
        "tls": {},
        "node": "c-1-worker-3",
        "listen": "tls://10.1.2.3:0",
        "directory": "/run/ropewalk/work",
    }


def test_may_be_an_address_of_ipv6() -> None:
    pod = {**POD, "ROPEWALK_POD_IP": "fd00::7"}
    assert boot.configuration({"role": "worker", "port": 0}, pod)["listen"] == "tls://[fd00::7]:0"


@pytest.mark.parametrize(("address", "listen"), [("10.1.2.3", "tls://0.0.0.0:8786"), ("fd00::7", "tls://[::]:8786")])
def test_of_a_scheduler_listens_where_kubelets_forward_to(address: str, listen: str) -> None:
    pod = {**POD, "ROPEWALK_POD_IP": address}
    assert boot.configuration({"role": "scheduler", "port": 8786}, pod)["listen"] == listen


def test_does_not_change_what_all_nodes_of_the_role_share() -> None:
    shared = {"role": "worker", "port": 0}
    boot.configuration(shared, POD)
    assert shared == {"role": "worker", "port": 0}


def test_keys_stay_out_of_the_environment_and_the_users_variables_get_in(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = """
import json, os
def main(argv, environ):
    seen = {"environ": dict(os.environ), "config": json.loads(environ["ROPEWALK_NODE_CONFIG"])}
    with open(os.environ["SEEN"], "w") as file:
        file.write(json.dumps(seen))
    return 7
"""
    (tmp_path / "main.py").write_text(program)
    (tmp_path / "boot.py").write_text(Path(boot.__file__).read_text())
    shared = {"role": "worker", "port": 0, "tls": {"key": "PRIVATE"}}
    (tmp_path / "node.json").write_text(json.dumps({"config": shared, "environ": {"USERS": "secret"}}))
    for name, value in {**POD, "SEEN": str(tmp_path / "seen"), "USERS": ""}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "main", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_path(str(tmp_path / "boot.py"), run_name="__main__")
    sys.modules.pop("main", None)
    assert caught.value.code == 7
    seen = json.loads((tmp_path / "seen").read_text())
    assert seen["config"]["tls"] == {"key": "PRIVATE"}
    assert seen["environ"]["USERS"] == "secret"
    assert "PRIVATE" not in json.dumps(seen["environ"])
