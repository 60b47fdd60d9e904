"""What the pages are made of: links to AWS's console, forms and settings, groups of a report, progress. Pure."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.aws_permissions import PERMISSIONS
from ropewalk.schemas.cloud_accounts import CheckItem, CheckReport, CheckStatus, CloudAccount, PreparePlan
from ropewalk.schemas.common import Event
from ropewalk.schemas.kubernetes import KubernetesSettings
from ropewalk.server.cloud_accounts.progress import progress
from ropewalk.server.web import aws_console, cloud_forms, cloud_report, drafts
from ropewalk.server.web.cloud_forms import AWS_PARTS, KUBERNETES_PARTS, marked

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def cloud(*resources: dict[str, Any], **facts: Any) -> CloudAccount:
    return CloudAccount.model_validate(
        {
            "kind": "aws",
            "backend": "aws",
            "settings": {"region": "eu-central-1"},
            "has_credentials": True,
            "identity": {"owner": "111122223333", "name": "x"},
            "last_check": None,
            "updated_at": NOW,
            "resources": list(resources),
            **facts,
        }
    )


@pytest.mark.parametrize(
    ("resource", "name", "url"),
    [
        (
            {"kind": "vpc", "id": "vpc-1"},
            "vpc-1",
            "https://eu-central-1.console.aws.amazon.com/vpcconsole/home?region=eu-central-1#VpcDetails:VpcId=vpc-1",
        ),
        (
            {
                "kind": "ecs_cluster",
                "id": "arn:aws:ecs:eu-central-1:1:cluster/ropewalk",
                "details": {"name": "ropewalk"},
            },
            "ropewalk",
            "https://eu-central-1.console.aws.amazon.com/ecs/v2/clusters/ropewalk?region=eu-central-1",
        ),
        (
            {"kind": "task_role", "id": "arn:aws:iam::1:role/ropewalk-task", "details": {"name": "ropewalk-task"}},
            "ropewalk-task",
            "https://console.aws.amazon.com/iam/home#/roles/details/ropewalk-task",
        ),
        (
            {"kind": "repository", "id": "1.dkr.ecr.eu-central-1.amazonaws.com/a/b", "details": {"name": "a/b"}},
            "a/b",
            "https://eu-central-1.console.aws.amazon.com/ecr/repositories/private/111122223333/a/b?region=eu-central-1",
        ),
        (
            {"kind": "log_group", "id": "/ropewalk/ada"},
            "/ropewalk/ada",
            (
                "https://eu-central-1.console.aws.amazon.com/cloudwatch/home?region=eu-central-1"
                "#logsV2:log-groups/log-group/$252Fropewalk$252Fada"
            ),
        ),
        ({"kind": "something_new", "id": "x"}, "x", None),
    ],
)
def test_resources_lead_to_where_awss_console_shows_them(resource: dict[str, Any], name: str, url: str | None) -> None:
    (row,) = aws_console.rows(cloud(resource))
    assert (row.name, row.url) == (name, url)


def test_china_has_a_console_of_its_own_and_other_clouds_have_none() -> None:
    vpc = {"kind": "vpc", "id": "vpc-1", "details": {"owned": False, "monthly_cost": 1.5, "note": "Yours."}}
    (row,) = aws_console.rows(cloud(vpc, settings={"region": "cn-north-1"}))
    assert (row.url or "").startswith("https://cn-north-1.console.amazonaws.cn/")
    assert (row.owned, row.monthly_cost, row.note) == (False, 1.5, "Yours.")
    assert aws_console.rows(cloud(vpc, kind="kubernetes"))[0].url is None
    assert (aws_console.spoken("nat_gateway"), aws_console.spoken("new_thing")) == ("NAT gateway", "New thing")


def test_every_setting_has_a_field_and_a_form_that_is_sent_as_it_came_changes_nothing() -> None:
    settings = AwsSettings.model_validate(
        {
            "region": "eu-west-1",
            "private_subnets": True,
            "subnet_ids": ["subnet-1", "subnet-2"],
            "peering": [{"vpc_id": "vpc-9", "cidr": "10.0.0.0/16", "region": "eu-west-2", "owner_id": "111122223333"}],
            "allow_ingress_from": ["1.2.3.0/24"],
            "log_retention_days": 90,
        }
    )
    values = cloud_forms.aws_values(settings.model_dump(mode="json"))
    assert cloud_forms.aws_settings(values) == settings
    names = {field.name for part in AWS_PARTS for field in part.fields} | {"region", "private_subnets", "external_id"}
    assert names == set(AwsSettings.model_fields)
    chosen = KubernetesSettings(service_annotations={"a": "b"}, core_hour_price=0.04, run_as_user=None)
    typed = cloud_forms.kubernetes_values(chosen.model_dump(mode="json"))
    assert cloud_forms.kubernetes_wish(typed, "").settings == chosen
    names = {field.name for part in KUBERNETES_PARTS for field in part.fields} | {"namespace", "context", "server"}
    assert names == set(KubernetesSettings.model_fields)
    assert {field.name for part in (*AWS_PARTS, *KUBERNETES_PARTS) for field in part.fields} <= drafts.KEPT


@pytest.mark.parametrize(
    ("field", "name"),
    [
        (None, None),
        ("settings.vpc_cidr", "vpc_cidr"),
        ("peering.0.cidr", "peering"),
        ("credentials.secret_access_key", "secret_access_key"),
        ("credentials", "access_key_id"),
        ("users[u].user.exec", "kubeconfig"),
        ("clusters[c].cluster.server", "kubeconfig"),
    ],
)
def test_errors_name_the_forms_field(field: str | None, name: str | None) -> None:
    assert marked(field) == name


def test_a_report_has_each_item_once_and_what_failed_first() -> None:
    items = [
        CheckItem(
            name=each.action, status=status, message="", details={"phases": [str(phase) for phase in each.phases]}
        )
        for each, status in zip(PERMISSIONS, (*CheckStatus,) * len(PERMISSIONS), strict=False)
    ]
    items.append(CheckItem(name="region", status=CheckStatus.OK, message=""))
    groups = cloud_report.groups(CheckReport(checked_at=NOW, items=items))
    assert [group.id for group in groups] == ["general", "setup", "run", "images", "logs", "teardown"]
    seen = [item.name for group in groups for item in (*group.wanting, *group.fine)]
    assert sorted(seen) == sorted(item.name for item in items)
    order = [item.status for item in groups[1].wanting]
    assert order == sorted(order, key=["failed", "warning", "unknown"].index)


def event(number: int, code: str) -> Event:
    return Event(id=number, time=NOW, code=f"cloud_account.{code}", level="info", message=f"event {number}")


def test_progress_of_preparing_counts_kinds_and_shows_what_was_brought_along_too() -> None:
    plan = PreparePlan.model_validate(
        {"resources": [{"kind": kind, "what": f"{kind}."} for kind in ("subnet", "role", "subnet")]}
    )
    made: list[dict[str, Any]] = [
        {"kind": "subnet", "id": "s-1"},
        {"kind": "subnet", "id": "s-2"},
        {"kind": "vpc", "id": "v"},
    ]
    found = progress(cloud(*made, work="prepare"), plan, [])
    assert found is not None
    assert (found.done, found.total) == (1, 2)
    assert [(step.kind, step.what, len(step.made)) for step in found.steps] == [
        ("subnet", "subnet. subnet.", 2),
        ("role", "role.", 0),
        ("vpc", "", 1),
    ]
    assert progress(cloud(*made), plan, []) is None
    unknown = progress(cloud(*made, work="prepare"), None, [])
    assert unknown is not None
    assert unknown.total == 0


def test_progress_of_tearing_down_counts_what_is_gone_since_it_was_asked_for() -> None:
    events = [
        event(5, "resource_removed"),
        event(4, "retrying"),
        event(3, "tearing_down"),
        event(2, "resource_removed"),
    ]
    left: list[dict[str, Any]] = [
        {"kind": "vpc", "id": "v"},
        {"kind": "log_group", "id": "l", "details": {"owned": False}},
    ]
    found = progress(cloud(*left, work="teardown"), None, events)
    assert found is not None
    assert (found.done, found.total, found.gone) == (1, 2, ("event 5",))
