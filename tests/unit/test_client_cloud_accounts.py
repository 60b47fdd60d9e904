"""``ropewalk.set_cloud_account`` and its like: what is sent, awaited and raised; the same in coroutines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import ropewalk
from ropewalk.errors import ConflictError, FixItError, InputError
from ropewalk.schemas.cloud_accounts import CloudState
from tests.cli.conftest import FakeServer, configuration, server
from tests.cli.test_cloud_accounts import PATH, PLAN, SECRET, cloud, hosted, stream

__all__ = ["configuration", "server"]


def test_a_key_and_settings_are_sent(server: FakeServer) -> None:
    server.answer("PUT", PATH, cloud(CloudState.NEW))
    shown = ropewalk.set_cloud_account(
        "aws", access_key_id="AKIA1", secret_access_key=SECRET, region="eu-central-1", private_subnets=True
    )
    assert shown.state is CloudState.NEW
    assert server.bodies("PUT", PATH) == [
        {
            "kind": "aws",
            "settings": {"region": "eu-central-1", "private_subnets": True},
            "credentials": {"access_key_id": "AKIA1", "secret_access_key": SECRET},
        }
    ]


def test_a_kubeconfig_is_read_and_sent(server: FakeServer, tmp_path: Path) -> None:
    server.answer("PUT", "/accounts/weather/cloud-account", cloud())
    file = tmp_path / "kube.yaml"
    file.write_text("token: canary")
    ropewalk.set_cloud_account("kubernetes", "weather", kubeconfig=file, namespace="dask")
    sent = {"kind": "kubernetes", "settings": {"namespace": "dask"}, "kubeconfig": "token: canary"}
    assert server.bodies("PUT", "/accounts/weather/cloud-account") == [sent]


def test_back_to_hosted(server: FakeServer) -> None:
    server.answer("PUT", PATH, hosted())
    ropewalk.set_cloud_account("hosted")
    assert server.bodies("PUT", PATH) == [{"kind": "hosted"}]


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"kind": "azure"}, "kind"),
        ({"kind": "aws", "access_key_id": "AKIA1"}, "secret_access_key"),
        ({"kind": "aws", "secret_access_key": SECRET}, "access_key_id"),
        ({"kind": "aws", "regoin": "us-east-1"}, "regoin"),
        ({"kind": "kubernetes", "kubeconfig": "/nowhere"}, "kubeconfig"),
        ({"kind": "kubernetes", "reach": "magic"}, "reach"),
    ],
)
@pytest.mark.usefixtures("server")
def test_what_is_wrong_is_named_before_anything_is_sent(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(InputError) as caught:
        ropewalk.set_cloud_account(**arguments)
    assert caught.value.field == field
    assert "canary" not in str(caught.value)


def test_it_is_shown_checked_planned_and_forgotten(server: FakeServer) -> None:
    server.answer("GET", PATH, cloud())
    server.answer("GET", f"{PATH}/prepare", PLAN)
    server.answer("DELETE", PATH, hosted())
    assert ropewalk.get_cloud_account().id == "ca-1"
    assert ropewalk.plan_cloud_account().monthly_cost == 32.85
    assert ropewalk.forget_cloud_account(force=True).id is None
    assert dict(server.requests[-1].url.params) == {"force": "true"}


@pytest.fixture
def preparing(server: FakeServer) -> FakeServer:
    server.answer("POST", f"{PATH}/prepare", cloud(CloudState.PREPARING, last_event=7))
    server.answer("POST", f"{PATH}/teardown", cloud(CloudState.TEARING_DOWN, last_event=9))
    server.answer("GET", f"{PATH}/events", stream("preparing", "ready"))
    server.answer("GET", PATH, cloud())
    return server


def test_prepare_returns_when_it_is_done_and_tells_of_each_event(preparing: FakeServer) -> None:
    told: list[str] = []
    shown = ropewalk.prepare_cloud_account(accept_monthly_cost=32.85, on_event=lambda event: told.append(event.code))
    assert shown.state is CloudState.READY
    assert told == ["cloud_account.preparing", "cloud_account.ready"]
    assert preparing.bodies("POST", f"{PATH}/prepare") == [{"accept_monthly_cost": 32.85}]


def test_work_that_needs_a_person_is_an_error_with_the_reason(preparing: FakeServer) -> None:
    preparing.answer("GET", PATH, cloud(CloudState.ATTENTION, reason="The key may not use iam:CreateRole."))
    with pytest.raises(FixItError, match="iam:CreateRole"):
        ropewalk.prepare_cloud_account()


def test_without_waiting_it_returns_at_once(preparing: FakeServer) -> None:
    assert ropewalk.teardown_cloud_account(wait=False).state is CloudState.TEARING_DOWN
    assert not [request for request in preparing.requests if request.url.path.endswith("/events")]


def test_a_price_that_was_not_accepted_is_a_conflict(preparing: FakeServer) -> None:
    preparing.answer("POST", f"{PATH}/prepare", ConflictError("It costs 32.85 USD a month."))
    with pytest.raises(ConflictError, match=r"32\.85"):
        ropewalk.prepare_cloud_account()


async def test_the_same_in_coroutines(preparing: FakeServer) -> None:
    told: list[str] = []
    shown: Any = await ropewalk.prepare_cloud_account(  # type: ignore[misc] # awaitable with asynchronous=True
        on_event=lambda event: told.append(event.code), asynchronous=True
    )
    assert (shown.state, len(told)) == (CloudState.READY, 2)
    preparing.answer("PUT", PATH, hosted())
    assert (await ropewalk.set_cloud_account("hosted", asynchronous=True)).id is None  # type: ignore[misc] # as above
    begun: Any = await ropewalk.teardown_cloud_account(wait=False, asynchronous=True)  # type: ignore[misc] # as above
    assert begun.state is CloudState.TEARING_DOWN
