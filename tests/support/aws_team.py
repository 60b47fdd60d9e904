"""A server whose only user has an AWS account that is prepared."""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from ropewalk.client import calls
from ropewalk.client.http import Api
from ropewalk.schemas.aws import AwsSettings
from ropewalk.schemas.cloud_accounts import CloudState, PrepareRequest, SetAws
from ropewalk.schemas.identity import SetupRequest
from tests.support.ministack import REGION, Double
from tests.support.server_process import server_process
from tests.support.waiting import wait_until


@contextmanager
def prepared_team(aws: Double, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """Give requests of ada, whom clients and commands of the test are, too."""
    with server_process(data_dir, ROPEWALK_AWS_ENDPOINT_URL=aws.endpoint) as server:
        server.wait_ready()
        code = (data_dir / "setup-code").read_text().strip()
        wish = SetupRequest.model_validate({"code": code, "username": "ada", "password": secrets.token_hex(12)})
        with Api(server.url) as nobody:
            token = nobody(calls.setup(wish)).token
        monkeypatch.setenv("DASK_ROPEWALK__SERVER", server.url)
        monkeypatch.setenv("DASK_ROPEWALK__TOKEN", token)
        with Api(server.url, token) as api:
            settings = AwsSettings(region=REGION, allow_ingress_from=["127.0.0.1/32"])
            api(calls.set_cloud_account("ada", SetAws(kind="aws", settings=settings, credentials=aws.make_user())))
            api(calls.prepare_cloud_account("ada", PrepareRequest()))
            wait_until(lambda: api(calls.get_cloud_account("ada")).state is CloudState.READY, within=120)
            yield api
