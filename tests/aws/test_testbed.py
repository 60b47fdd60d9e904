"""The double of AWS is as strict as AWS where our code relies on it."""

from __future__ import annotations

import contextlib
import signal
import time
from concurrent.futures import ThreadPoolExecutor

import botocore.session
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, ConnectionClosedError, ReadTimeoutError

from ropewalk.schemas.aws import AwsCredentials
from tests.support.ministack import ACCOUNT, REGION, Double
from tests.support.waiting import PATIENCE, wait_until


def code(caught: pytest.ExceptionInfo[ClientError]) -> str:
    return str(caught.value.response["Error"]["Code"])


class TestPolicies:
    def test_an_action_that_the_policy_lacks_is_denied_with_its_name(self, aws: Double) -> None:
        ecs = aws.client_of(aws.make_user(["ecs:ListClusters"]), "ecs")
        assert ecs.list_clusters()["clusterArns"] == []
        with pytest.raises(ClientError, match="ecs:CreateCluster") as caught:
            ecs.create_cluster(clusterName="x")
        assert code(caught) == "AccessDeniedException"

    def test_a_wrong_secret_is_refused(self, aws: Double) -> None:
        key = aws.make_user()
        wrong = AwsCredentials.model_validate({"access_key_id": key.access_key_id, "secret_access_key": "x" * 40})
        with pytest.raises(ClientError) as caught:
            aws.client_of(wrong, "sts").get_caller_identity()
        assert code(caught) == "SignatureDoesNotMatch"

    def test_a_deleted_key_is_refused(self, aws: Double) -> None:
        key = aws.make_user()
        sts = aws.client_of(key, "sts")
        assert sts.get_caller_identity()["Arn"].endswith(":user/ropewalk")
        aws.revoke(key)
        with pytest.raises(ClientError) as caught:
            sts.get_caller_identity()
        assert code(caught) == "InvalidClientTokenId"


class TestFaults:
    def test_an_injected_error_hits_once_and_has_no_effect(self, aws: Double) -> None:
        ecs = aws.client("ecs")
        aws.inject("ecs:CreateCluster", code="ServerException", status=500)
        with pytest.raises(ClientError) as caught:
            ecs.create_cluster(clusterName="x")
        assert code(caught) == "ServerException"
        assert ecs.list_clusters()["clusterArns"] == []
        ecs.create_cluster(clusterName="x")
        assert len(ecs.list_clusters()["clusterArns"]) == 1
        assert aws.outcomes()[0] == ("ecs:CreateCluster", "error")

    def test_a_lost_answer_took_effect_and_looks_like_a_broken_connection(self, aws: Double) -> None:
        aws.inject("ec2:CreateVpc", "lost")
        with pytest.raises(BotoCoreError):
            aws.client("ec2").create_vpc(CidrBlock="10.9.0.0/16")
        assert "10.9.0.0/16" in {vpc["CidrBlock"] for vpc in aws.client("ec2").describe_vpcs()["Vpcs"]}

    def test_a_delay_delays(self, aws: Double) -> None:
        aws.inject("sts:GetCallerIdentity", "delay", seconds=0.2)
        begun = time.monotonic()
        aws.client("sts").get_caller_identity()
        assert time.monotonic() - begun >= 0.2

    def test_a_call_that_is_delayed_beyond_its_test_takes_no_effect_and_is_not_counted(self, aws: Double) -> None:
        aws.inject("ecs:CreateCluster", "delay", seconds=3600)
        with ThreadPoolExecutor(1) as pool:
            delayed = pool.submit(aws.client("ecs").create_cluster, clusterName="x")
            wait_until(lambda: aws.faults()[0]["used"])
            aws.reset()
            with pytest.raises(ConnectionClosedError):
                delayed.result(PATIENCE)
        assert aws.calls() == {}
        assert aws.client("ecs").list_clusters()["clusterArns"] == []

    def test_calls_that_their_clients_gave_up_are_not_counted_in_the_next_test(self, aws: Double) -> None:
        patience = Config(read_timeout=0.5, retries={"max_attempts": 0}, max_pool_connections=10)
        keys = {"aws_access_key_id": ACCOUNT, "aws_secret_access_key": "any"}
        make = botocore.session.get_session().create_client
        with (
            contextlib.closing(make("ecs", REGION, endpoint_url=aws.endpoint, config=patience, **keys)) as hasty,
            ThreadPoolExecutor(10) as pool,
        ):
            aws.process.send_signal(signal.SIGSTOP)
            try:
                for given_up in [pool.submit(hasty.list_clusters) for _ in range(10)]:
                    with pytest.raises(ReadTimeoutError):
                        given_up.result(PATIENCE)
                over = pool.submit(aws.reset)
            finally:
                aws.process.send_signal(signal.SIGCONT)
            over.result(PATIENCE)
        assert aws.calls() == {}

    def test_calls_are_counted_by_action(self, aws: Double) -> None:
        for _ in range(3):
            aws.client("ecs").list_clusters()
        assert aws.calls() == {"ecs:ListClusters": 3}
        aws.count_anew()
        assert aws.calls() == {}
