"""What users may say of their pods, and what never gets in."""

from __future__ import annotations

from typing import Any

import pytest

from ropewalk.backends.kubernetes.template import PodTemplate, parse_template
from ropewalk.errors import FixItError
from ropewalk.schemas.clusters import NodeRole


def test_nothing_is_needed() -> None:
    assert parse_template({}) == PodTemplate()


def test_what_is_said_of_a_role_wins_over_what_is_said_of_both() -> None:
    template = parse_template(
        {"node_selector": {"pool": "a"}, "priority_class": "low", "worker": {"node_selector": {"pool": "b"}}}
    )
    assert template.of(NodeRole.WORKER).node_selector == {"pool": "b"}
    assert template.of(NodeRole.WORKER).priority_class == "low"
    assert template.of(NodeRole.SCHEDULER).node_selector == {"pool": "a"}


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"hostNetwork": True}, "hostNetwork"),
        ({"service_account": "admin"}, "service_account"),
        ({"security_context": {"privileged": True}}, "security_context"),
        ({"containers": []}, "containers"),
        ({"worker": {"hostPID": True}}, "worker.hostPID"),
        ({"volumes": [{"mount_path": "/x", "host_path": "/"}]}, "volumes.0.host_path"),
        ({"volumes": [{"mount_path": "/x"}]}, "volumes.0"),
        ({"volumes": [{"mount_path": "/x", "secret": "a", "config_map": "b"}]}, "volumes.0"),
        ({"volumes": [{"mount_path": "relative", "secret": "a"}]}, "volumes.0.mount_path"),
        ({"volumes": [{"mount_path": "/a/../run", "secret": "a"}]}, "volumes.0.mount_path"),
        ({"volumes": [{"mount_path": "/", "secret": "a"}]}, "volumes.0.mount_path"),
        ({"volumes": [{"mount_path": "/run/ropewalk/program", "secret": "a"}]}, "volumes.0.mount_path"),
        ({"volumes": [{"mount_path": "/x", "secret": "ropewalk-c1-abc"}]}, "volumes.0.secret"),
        ({"env_from_secrets": ["ropewalk-c1-abc"]}, "env_from_secrets.0"),
        ({"env": {"A": {"secret": "ropewalk-c1-abc", "key": "node.json"}}}, "env.A.secret"),
        ({"env": {"A=B": {"secret": "a", "key": "b"}}}, "env.A=B.[key]"),
        ({"tolerations": [{"key": "a", "effect": "Never"}]}, "tolerations.0.effect"),
        ({"affinity": {"anything": {}}}, "affinity.anything.[key]"),
        ({"node_selector": {"a b": "c"}}, "node_selector.a b.[key]"),
        ({"labels": {"ropewalk.dev/cluster": "other"}}, "labels"),
        ({"annotations": {"container.apparmor.security.beta.kubernetes.io/x": "unconfined"}}, "annotations"),
        ({"worker": {"labels": {"app.kubernetes.io/name": "x"}}}, "worker.labels"),
    ],
)
def test_names_the_field_that_is_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(FixItError) as caught:
        parse_template(options)
    assert caught.value.field == f"backend_options.{field}"


def test_values_are_not_repeated_in_the_error() -> None:
    with pytest.raises(FixItError) as caught:
        parse_template({"env": {"A": "canary-3f"}})
    assert "canary-3f" not in str(caught.value)
