"""Versions of this program and of a cluster: what differs enough to matter, and what to do."""

from __future__ import annotations

import platform
import subprocess
import sys
import warnings

import pytest

from ropewalk.client.versions import (
    PACKAGES,
    Difference,
    Severity,
    VersionMismatchWarning,
    compare,
    describe,
    local_versions,
    report,
)
from ropewalk.errors import InputError, VersionMismatchError

NEEDED = {name: "2026.8.0" for name, rule in PACKAGES.items() if rule.needed} | {"python": "3.11.7"}


@pytest.mark.parametrize(
    ("package", "client", "cluster", "severity"),
    [
        ("python", "3.11.7", "3.11.9", None),
        ("python", "3.11.7", "3.12.0", Severity.ERROR),
        ("dask", "2026.8.0", "2026.8", None),
        ("dask", "2026.8.0", "2026.8.1", Severity.ERROR),
        ("distributed", "2026.8.0", None, Severity.ERROR),
        ("cloudpickle", "3.1.2", "3.2.0", Severity.WARNING),
        ("numpy", "2.4.6", "2.4.1", None),
        ("numpy", "2.4.6", "2.3.0", Severity.WARNING),
        ("numpy", "2.4.6", None, None),
        ("numpy", None, "2.4.6", None),
        ("pandas", "3.1.1", "2.2.0+local.1", Severity.WARNING),
        ("msgpack", None, "1.0.0", Severity.WARNING),
        ("tornado", "6.4", "6.5.1", None),
    ],
)
def test_what_differs_enough_to_matter(
    package: str, client: str | None, cluster: str | None, severity: Severity | None
) -> None:
    def versions(own: str | None) -> dict[str, str]:
        others = {name: version for name, version in NEEDED.items() if name != package}
        return others if own is None else {**others, package: own}

    found = compare(versions(client), versions(cluster))
    assert found == ([] if severity is None else [Difference(package, client, cluster, severity)])


def test_the_worst_comes_first() -> None:
    client = {**NEEDED, "numpy": "1.26.0"}
    cluster = {**NEEDED, "numpy": "2.0.0", "python": "3.12.1", "cloudpickle": "1.0"}
    assert compare(client, cluster)[0].package == "python"


def test_the_message_names_packages_both_versions_and_what_to_run() -> None:
    found = [
        Difference("python", "3.11.7", "3.12.1", Severity.ERROR),
        Difference("dask", "2026.1.0", "2026.8.0", Severity.ERROR),
        Difference("numpy", None, "2.4.6", Severity.WARNING),
    ]
    message, advice = describe(found)
    assert message.splitlines()[1:] == [
        "  package  this program  cluster",
        "  python   3.11.7        3.12.1",
        "  dask     2026.1.0      2026.8.0",
        "  numpy    missing       2.4.6",
    ]
    assert "Python 3.12" in advice
    assert "pip install dask==2026.8.0 numpy==2.4.6" in advice


def test_what_only_the_cluster_lacks_is_told_otherwise() -> None:
    assert "on the cluster" in describe([Difference("dask", "1", None, Severity.ERROR)])[1]


def test_versions_are_found_without_importing_the_packages() -> None:
    script = (
        "import sys\nfrom ropewalk.client.versions import local_versions\nfound = local_versions()\n"
        "assert found['numpy'] and found['pandas'] and found['distributed']\n"
        "print([name for name in ('numpy', 'pandas', 'pyarrow', 'distributed') if name in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_this_program_matches_itself() -> None:
    mine = local_versions()
    assert mine["python"] == platform.python_version()
    assert compare(mine, mine) == []


def test_a_mismatch_is_warned_of() -> None:
    with pytest.warns(VersionMismatchWarning, match="pip install dask==2"):
        report({**NEEDED, "dask": "2"}, "warn", client=NEEDED)


def test_a_mismatch_is_refused_on_request_and_says_how_to_go_on() -> None:
    with pytest.raises(VersionMismatchError, match="versions='warn'") as caught:
        report({**NEEDED, "dask": "2"}, "error", client=NEEDED)
    assert caught.value.details == {"dask": {"client": "2026.8.0", "cluster": "2"}}


@pytest.mark.parametrize(("cluster", "action"), [({"dask": "2"}, "ignore"), ({}, "error"), (NEEDED, "error")])
def test_nothing_is_said_when_told_not_to_or_when_nothing_is_known_or_wrong(
    cluster: dict[str, str], action: str
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        report(cluster, action, client=NEEDED)


@pytest.mark.parametrize("action", ["shout", None, True])
def test_an_unknown_action_is_refused(action: object) -> None:
    with pytest.raises(InputError) as caught:
        report({}, action)
    assert caught.value.field == "versions"
