"""``ropewalk cloud-account``: what it sends, asks, shows, and exits with. Secrets are never arguments."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from ropewalk.errors import ConflictError, InputError
from ropewalk.schemas.cloud_accounts import (
    CloudAccount,
    CloudIdentity,
    CloudKind,
    CloudResource,
    CloudState,
    FormerCloudAccount,
    PlannedResource,
    PreparePlan,
)
from tests.cli.conftest import NOW, FakeServer, Run, event

PATH = "/accounts/ada/cloud-account"
SECRET = "canary-secret-key"


def cloud(state: CloudState = CloudState.READY, **changes: Any) -> CloudAccount:
    values: dict[str, Any] = {
        "kind": CloudKind.AWS,
        "backend": "aws",
        "id": "ca-1",
        "settings": {"region": "eu-central-1"},
        "has_credentials": True,
        "identity": CloudIdentity(owner="111122223333", name="arn:aws:iam::111122223333:user/dask"),
        "external_id": "i-1.a-1",
        "state": state,
        "last_check": None,
        "updated_at": NOW,
    }
    return CloudAccount(**{**values, **changes})


def hosted(**changes: Any) -> CloudAccount:
    return cloud(kind=CloudKind.HOSTED, backend="local", id=None, identity=None, has_credentials=False, **changes)


def stream(*codes: str) -> httpx.Response:
    events = [event(n, f"cloud_account.{code}", f"The {code}.", cluster=None) for n, code in enumerate(codes, 1)]
    text = "".join(f"id: {e.id}\nevent: {e.code}\ndata: {e.model_dump_json()}\n\n" for e in events)
    return httpx.Response(200, text=text, headers={"Content-Type": "text/event-stream"})


@pytest.fixture(autouse=True)
def no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN")
    for name in (*names, "ROPEWALK_AWS_ACCESS_KEY_ID", "ROPEWALK_AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def unset(server: FakeServer) -> FakeServer:
    """Give a server whose account has no cloud account of its own yet, and accepts one."""
    server.answer("GET", PATH, hosted())
    server.answer("PUT", PATH, cloud(CloudState.NEW))
    return server


# Set aws


def test_the_secret_comes_from_standard_input(run: Run, unset: FakeServer) -> None:
    arguments = (
        "cloud-account",
        "set",
        "aws",
        "--access-key-id",
        "AKIA1",
        "--secret-stdin",
        "--region",
        "eu-central-1",
    )
    result = run(*arguments, stdin=f"{SECRET}\n")
    assert result.exit_code == 0, result.stderr
    assert unset.bodies("PUT", PATH) == [
        {
            "kind": "aws",
            "settings": {"region": "eu-central-1"},
            "credentials": {"access_key_id": "AKIA1", "secret_access_key": SECRET},
        }
    ]
    assert "arn:aws:iam::111122223333:user/dask (111122223333)" in result.stdout
    assert "cloud-account prepare" in result.stderr
    assert SECRET not in result.output


@pytest.mark.usefixtures("person")
def test_a_person_is_asked_for_id_and_secret(run: Run, unset: FakeServer) -> None:
    result = run("cloud-account", "set", "aws", stdin=f"AKIA1\n{SECRET}\n")
    assert result.exit_code == 0, result.stderr
    sent = unset.bodies("PUT", PATH)[0]["credentials"]
    assert sent == {"access_key_id": "AKIA1", "secret_access_key": SECRET}
    assert SECRET not in result.output


@pytest.mark.parametrize("prefix", ["ROPEWALK_AWS", "AWS"])
def test_the_key_comes_from_the_environment(
    run: Run, unset: FakeServer, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"{prefix}_ACCESS_KEY_ID", "AKIA1")
    monkeypatch.setenv(f"{prefix}_SECRET_ACCESS_KEY", SECRET)
    assert run("cloud-account", "set", "aws").exit_code == 0
    sent = unset.bodies("PUT", PATH)[0]["credentials"]
    assert sent == {"access_key_id": "AKIA1", "secret_access_key": SECRET}


def test_a_session_token_of_the_environment_is_sent_so_that_the_server_explains(
    run: Run, unset: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ASIA1")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    monkeypatch.setenv("AWS_SESSION_TOKEN", "canary-token")
    unset.answer("PUT", PATH, InputError("These are temporary credentials.", field="session_token"))
    result = run("cloud-account", "set", "aws")
    assert result.exit_code == 2
    assert unset.bodies("PUT", PATH)[0]["session_token"] == "canary-token"
    assert "temporary" in result.stderr
    assert "canary" not in result.output


def test_there_is_no_option_for_the_secret(run: Run) -> None:
    text = run("cloud-account", "set", "aws", "--help").stdout
    assert "--access-key-id" in text
    assert "--secret-access-key" not in text


def test_where_nobody_can_be_asked_it_says_how_to_give_the_key(run: Run, unset: FakeServer) -> None:
    result = run("cloud-account", "set", "aws", "--region", "eu-west-1")
    assert result.exit_code == 2
    assert "ROPEWALK_AWS_SECRET_ACCESS_KEY" in result.stderr
    assert unset.bodies("PUT", PATH) == []


@pytest.mark.parametrize("shown", [cloud(), hosted(others=[FormerCloudAccount(
    id="ca-1", kind=CloudKind.AWS, owner="1", resources=0, clusters=[])])])  # fmt: skip
def test_a_stored_key_stays_when_only_settings_change(
    run: Run, server: FakeServer, shown: CloudAccount, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIA-OF-SOMETHING-ELSE")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    server.answer("GET", PATH, shown)
    server.answer("PUT", PATH, cloud())
    result = run("cloud-account", "set", "aws", "--log-retention-days", "90", "--image", "")
    assert result.exit_code == 0, result.stderr
    assert server.bodies("PUT", PATH) == [{"kind": "aws", "settings": {"log_retention_days": 90, "image": None}}]


def test_every_setting_can_be_given(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, cloud())
    server.answer("PUT", PATH, cloud())
    arguments = {
        "--role-arn": "arn:aws:iam::1:role/r", "--allow-ingress-from": "9.9.9.0/24", "--vpc-cidr": "10.9.0.0/16",
        "--vpc-id": "vpc-1", "--subnet-id": "subnet-1", "--security-group-id": "sg-1", "--ecs-cluster": "c",
        "--execution-role-arn": "arn:e", "--task-role-arn": "arn:t", "--repository": "r", "--log-group": "l",
        "--architecture": "ARM64", "--peer": "vpc-2=10.0.0.0/16",
    }  # fmt: skip
    flat = [word for pair in arguments.items() for word in pair]
    result = run("cloud-account", "set", "aws", "--private-subnets", *flat)
    assert result.exit_code == 0, result.stderr
    sent = server.bodies("PUT", PATH)[0]["settings"]
    assert sent["private_subnets"] is True
    assert sent["subnet_ids"] == ["subnet-1"]
    assert sent["peering"] == [{"vpc_id": "vpc-2", "cidr": "10.0.0.0/16"}]
    assert len(sent) == len(arguments) + 1


@pytest.mark.parametrize("options", [["--peer", "vpc-2"], ["--architecture", "MIPS"], ["--log-retention-days", "x"]])
def test_wrong_settings_are_refused_before_anything_is_sent(run: Run, server: FakeServer, options: list[str]) -> None:
    server.answer("GET", PATH, cloud())
    assert run("cloud-account", "set", "aws", *options).exit_code == 2
    assert server.bodies("PUT", PATH) == []


def test_warnings_are_shown(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, cloud())
    root = CloudIdentity(owner="1", name="arn:aws:iam::1:root", warning="This is the root user's key.")
    server.answer("PUT", PATH, cloud(identity=root, notes=["Nobody may reach schedulers."]))
    result = run("cloud-account", "set", "aws", "--region", "us-east-1")
    assert "root user's key" in result.stderr
    assert "Nobody may reach schedulers" in result.stderr


# Set kubernetes


@pytest.mark.parametrize("from_file", [True, False])
def test_a_kubeconfig_is_sent_whole(run: Run, unset: FakeServer, tmp_path: Path, from_file: bool) -> None:
    file = tmp_path / "kube.yaml"
    file.write_text("token: canary")
    unset.answer("PUT", PATH, cloud(kind=CloudKind.KUBERNETES))
    source = str(file) if from_file else "-"
    result = run(
        *("cloud-account", "set", "kubernetes", "--kubeconfig", source, "--context", "one", "--namespace", "team"),
        stdin="token: canary",
    )
    assert result.exit_code == 0, result.stderr
    settings = {"context": "one", "namespace": "team"}
    assert unset.bodies("PUT", PATH) == [{"kind": "kubernetes", "settings": settings, "kubeconfig": "token: canary"}]
    assert "canary" not in result.output


def test_a_kubeconfig_that_is_not_there_is_told(run: Run, unset: FakeServer) -> None:
    result = run("cloud-account", "set", "kubernetes", "--kubeconfig", "/nowhere/kube.yaml")
    assert result.exit_code == 2
    assert "/nowhere/kube.yaml cannot be read" in result.stderr
    assert unset.bodies("PUT", PATH) == []


def test_settings_of_kubernetes_change_without_a_kubeconfig(run: Run, server: FakeServer) -> None:
    server.answer("PUT", PATH, cloud(kind=CloudKind.KUBERNETES))
    options = ("--reach", "gateway", "--image-pull-secret", "pull", "--service-annotation", "a/b=c=d")
    assert run("cloud-account", "set", "kubernetes", *options).exit_code == 0
    settings = {"reach": "gateway", "image_pull_secrets": ["pull"], "service_annotations": {"a/b": "c=d"}}
    assert server.bodies("PUT", PATH) == [{"kind": "kubernetes", "settings": settings}]


# Use


def test_new_clusters_go_back_to_hosted(run: Run, server: FakeServer) -> None:
    server.answer("PUT", PATH, hosted())
    result = run("cloud-account", "use", "hosted")
    assert server.bodies("PUT", PATH) == [{"kind": "hosted"}]
    assert "New clusters of ada run on hosted" in result.stdout


def test_an_unknown_kind_is_refused(run: Run) -> None:
    result = run("cloud-account", "use", "azure")
    assert result.exit_code == 2
    assert "hosted, aws, kubernetes" in result.stderr


# Show


def test_everything_but_credentials_is_shown(run: Run, server: FakeServer) -> None:
    resources = [
        CloudResource(kind="vpc", id="vpc-1"),
        CloudResource(kind="subnet", id="subnet-1", details={"owned": False}),
    ]
    former = FormerCloudAccount(id="ca-0", kind=CloudKind.KUBERNETES, owner=None, resources=2, clusters=["etl"])
    shown = cloud(
        CloudState.ATTENTION, reason="The key is revoked.", resources=resources, monthly_cost=32.85, others=[former]
    )
    server.answer("GET", PATH, shown)
    result = run("cloud-account", "show", "--id", "ca-1")
    assert server.requests[-1].url.params["id"] == "ca-1"
    for text in ("attention", "i-1.a-1", "user/dask", "32.85 USD", "eu-central-1", "vpc-1", "subnet-1", "yours"):
        assert text in result.stdout, text
    for text in ("The key is revoked.", "kubernetes ca-0", "clusters: etl"):
        assert text in result.stderr, text


# Prepare


PLAN = PreparePlan(
    resources=[
        PlannedResource(kind="vpc", what="A network of 10.77.0.0/16"),
        PlannedResource(kind="nat_gateway", what="A way out", monthly_cost=32.85),
    ],
    notes=["Prices of eu-central-1, 2026-08."],
)


@pytest.fixture
def preparing(server: FakeServer) -> FakeServer:
    server.answer("GET", f"{PATH}/prepare", PLAN)
    server.answer("POST", f"{PATH}/prepare", cloud(CloudState.PREPARING, last_event=7))
    server.answer("GET", f"{PATH}/events", stream("preparing", "resource_made", "ready"))
    server.answer("GET", PATH, cloud(CloudState.READY))
    return server


@pytest.mark.usefixtures("person")
def test_the_price_is_shown_before_anything_is_made(run: Run, preparing: FakeServer) -> None:
    result = run("cloud-account", "prepare", stdin="n\n")
    assert result.exit_code == 1
    assert "A network of 10.77.0.0/16" in result.stdout
    assert "It costs 32.85 USD a month" in result.stderr
    assert "Prices of eu-central-1" in result.stderr
    assert preparing.bodies("POST", f"{PATH}/prepare") == []


def test_progress_is_shown_until_it_is_ready(run: Run, preparing: FakeServer) -> None:
    result = run("cloud-account", "prepare", "--yes")
    assert result.exit_code == 0, result.stderr
    assert preparing.bodies("POST", f"{PATH}/prepare") == [{"accept_monthly_cost": 32.85}]
    lines = [line for line in result.stdout.splitlines() if "cloud_account." in line]
    assert [line.split()[1] for line in lines] == [
        "cloud_account.preparing",
        "cloud_account.resource_made",
        "cloud_account.ready",
    ]
    followed = next(r for r in preparing.requests if r.url.path.endswith("/events"))
    assert dict(followed.url.params) == {"id": "ca-1", "after": "7", "follow": "true"}


def test_without_a_terminal_consent_has_to_be_given(run: Run, preparing: FakeServer) -> None:
    result = run("cloud-account", "prepare")
    assert result.exit_code == 2
    assert "--yes" in result.stderr
    assert preparing.bodies("POST", f"{PATH}/prepare") == []


def test_what_needs_a_person_ends_with_the_reason_and_status_1(run: Run, preparing: FakeServer) -> None:
    preparing.answer("GET", PATH, cloud(CloudState.ATTENTION, reason="The key may not use iam:CreateRole. Allow it."))
    result = run("cloud-account", "prepare", "--yes")
    assert result.exit_code == 1
    assert "The key may not use iam:CreateRole. Allow it." in result.stderr


def test_it_can_be_left_to_the_server(run: Run, preparing: FakeServer) -> None:
    result = run("cloud-account", "prepare", "--yes", "--no-wait")
    assert result.exit_code == 0
    assert "events --follow" in result.stdout
    assert not [r for r in preparing.requests if r.url.path.endswith("/events")]


def test_for_programs_there_is_one_event_a_line(run: Run, preparing: FakeServer) -> None:
    result = run("cloud-account", "prepare", "--yes", "--json")
    codes = [json.loads(line)["code"] for line in result.stdout.splitlines()]
    assert codes == ["cloud_account.preparing", "cloud_account.resource_made", "cloud_account.ready"]


def test_a_stream_that_breaks_is_opened_again(run: Run, preparing: FakeServer) -> None:
    preparing.answer("GET", PATH, cloud(CloudState.PREPARING), cloud(CloudState.READY))
    preparing.answer("GET", f"{PATH}/events", stream("preparing"), stream())
    result = run("cloud-account", "prepare", "--yes")
    assert result.exit_code == 0, result.stderr
    afters = [r.url.params["after"] for r in preparing.requests if r.url.path.endswith("/events")]
    assert afters == ["7", "1"]


# Teardown, forget, events


def test_teardown_asks_and_follows(run: Run, server: FakeServer) -> None:
    owned = [CloudResource(kind="vpc", id="vpc-1"), CloudResource(kind="subnet", id="s", details={"owned": False})]
    server.answer("GET", PATH, cloud(resources=owned), cloud(CloudState.REMOVED))
    server.answer("POST", f"{PATH}/teardown", cloud(CloudState.TEARING_DOWN, last_event=3))
    server.answer("GET", f"{PATH}/events", stream("tearing_down", "resource_removed", "removed"))
    refused = run("cloud-account", "teardown")
    assert refused.exit_code == 2
    assert "Remove the 1 resources" in refused.stderr
    result = run("cloud-account", "teardown", "--yes")
    assert result.exit_code == 0, result.stderr
    assert "cloud_account.removed" in result.stdout


def test_teardown_says_which_clusters_run(run: Run, server: FakeServer) -> None:
    server.answer("GET", PATH, cloud())
    server.answer("POST", f"{PATH}/teardown", ConflictError("Clusters run there: etl.", advice="Stop them."))
    result = run("cloud-account", "teardown", "--yes")
    assert result.exit_code == 5
    assert "Clusters run there: etl." in result.stderr


@pytest.mark.parametrize("force", [True, False])
def test_forget_asks_and_says_what_is_abandoned(run: Run, server: FakeServer, force: bool) -> None:
    server.answer("GET", PATH, cloud(resources=[CloudResource(kind="vpc", id="vpc-1")]))
    server.answer("DELETE", PATH, hosted())
    options = ["--force"] if force else []
    assert run("cloud-account", "forget", *options).exit_code == 2
    result = run("cloud-account", "forget", "--yes", *options)
    assert result.exit_code == 0, result.stderr
    assert ("Abandoned: vpc vpc-1" in result.stderr) is force
    params = dict(next(r for r in server.requests if r.method == "DELETE").url.params)
    assert params == {"id": "ca-1"} | ({"force": "true"} if force else {})


def test_events_are_a_table_or_a_stream(run: Run, server: FakeServer) -> None:
    found = [event(1, "cloud_account.updated", "It was set.", cluster=None, actor="ada")]
    server.answer("GET", f"{PATH}/events", found, [])
    result = run("cloud-account", "events")
    assert "It was set." in result.stdout
    assert "ada" in result.stdout
    server.answer("GET", f"{PATH}/events", stream("ready"))
    server.answer("GET", PATH, cloud())
    assert "cloud_account.ready" in run("cloud-account", "events", "--follow").stdout
