"""What AWS answers becomes a sentence that says what to do."""

from __future__ import annotations

from typing import Any

import pytest
from botocore import exceptions as botocore

from ropewalk.backends.aws.codes import SENTENCES, THROTTLING
from ropewalk.backends.aws.faults import Effect, aws_code, judge
from ropewalk.backends.aws.quotas import FARGATE, FARGATE_SPOT, QUOTAS, quota_of
from ropewalk.errors import BackendError, FixItError, TryAgainError

RUN = ("ecs", "RunTask")
SECRET = "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"


def answered(code: str, message: str = "", status: int = 400) -> botocore.ClientError:
    return botocore.ClientError(
        {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}, "RunTask"
    )


def fixed(exc: Exception, service: str = "ecs", operation: str = "RunTask") -> FixItError:
    fault = judge(exc, service, operation)
    assert isinstance(fault.error, FixItError)
    assert fault.effect is Effect.REFUSED
    return fault.error


class TestDenials:
    MESSAGE = (
        "User: arn:aws:iam::111122223333:user/x is not authorized to perform: ecs:RunTask on resource: "
        "arn:aws:ecs:eu-central-1:111122223333:task-definition/a:1 because no identity-based policy allows the "
        "ecs:RunTask action"
    )

    def test_a_denial_names_action_resource_and_what_breaks(self) -> None:
        error = fixed(answered("AccessDeniedException", self.MESSAGE))
        assert error.details["action"] == "ecs:RunTask"
        assert error.details["resource"] == "arn:aws:ecs:eu-central-1:111122223333:task-definition/a:1"
        assert "ecs:RunTask on arn:aws:ecs" in error.message
        assert "cannot launch nodes" in error.message
        assert error.advice is not None
        assert "policy aws" in error.advice

    def test_the_action_is_the_one_that_aws_names_and_not_the_call(self) -> None:
        message = self.MESSAGE.replace("ecs:RunTask", "iam:PassRole")
        assert fixed(answered("AccessDeniedException", message)).details["action"] == "iam:PassRole"

    def test_an_encoded_message_names_the_call(self) -> None:
        message = "You are not authorized to perform this operation. Encoded authorization failure message: abc"
        error = fixed(answered("UnauthorizedOperation", message, 403), "ec2", "CreateVpc")
        assert error.details["action"] == "ec2:CreateVpc"
        assert "decode-authorization-message" in str(error.advice)

    def test_service_quotas_has_another_name_in_policies(self) -> None:
        error = fixed(answered("AccessDeniedException", "no"), "service-quotas", "GetServiceQuota")
        assert error.details["action"] == "servicequotas:GetServiceQuota"

    @pytest.mark.parametrize(
        ("why", "advice"),
        [
            ("with an explicit deny in a service control policy", "organization"),
            ("because no service control policy allows the ecs:RunTask action", "organization"),
            ("because no permissions boundary allows the ecs:RunTask action", "boundary"),
            ("with an explicit deny in an identity-based policy", "explicitly"),
        ],
    )
    def test_advice_depends_on_who_denies(self, why: str, advice: str) -> None:
        message = f"User: u is not authorized to perform: ecs:RunTask on resource: * {why}"
        assert advice in str(fixed(answered("AccessDenied", message)).advice)


class TestCredentials:
    @pytest.mark.parametrize(
        ("code", "field"),
        [
            ("InvalidClientTokenId", "access_key_id"),
            ("UnrecognizedClientException", "access_key_id"),
            ("AuthFailure", "access_key_id"),
            ("SignatureDoesNotMatch", "secret_access_key"),
            ("InvalidSignatureException", "secret_access_key"),
            ("ExpiredToken", "access_key_id"),
            ("ExpiredTokenException", "access_key_id"),
        ],
    )
    def test_a_key_that_is_no_good_is_told_from_a_right_that_is_missing(self, code: str, field: str) -> None:
        error = fixed(answered(code, "x", 403))
        assert error.details["credentials"] == "invalid"
        assert error.field == field
        assert "cloud-account set aws" in str(error.advice)

    @pytest.mark.parametrize("code", ["RequestExpired", "RequestTimeTooSkewed"])
    def test_a_wrong_clock_is_no_wrong_key(self, code: str) -> None:
        error = judge(answered(code, "Request has expired."), *RUN).error
        assert isinstance(error, TryAgainError)
        assert "clock" in error.message
        assert "credentials" not in error.details

    @pytest.mark.parametrize("code", ["SignatureDoesNotMatch", "InvalidSignatureException"])
    def test_an_expired_signature_is_a_wrong_clock(self, code: str) -> None:
        message = "Signature expired: 20261122T000000Z is now earlier than 20261122T001000Z"
        assert "clock" in judge(answered(code, message), *RUN).error.message


@pytest.mark.parametrize("code", sorted(THROTTLING))
def test_throttling_is_tried_again_and_had_no_effect(code: str) -> None:
    fault = judge(answered(code, "Rate exceeded", 503 if code == "RequestLimitExceeded" else 400), *RUN)
    assert isinstance(fault.error, TryAgainError)
    assert fault.effect is Effect.THROTTLED


@pytest.mark.parametrize(("code", "status"), [("InternalError", 500), ("ServerException", 400), ("Odd", 502)])
def test_a_failure_of_aws_may_have_had_an_effect(code: str, status: int) -> None:
    fault = judge(answered(code, "sorry", status), *RUN)
    assert isinstance(fault.error, TryAgainError)
    assert fault.effect is Effect.LOST


@pytest.mark.parametrize(("code", "field"), [("OptInRequired", "region"), ("SubscriptionRequiredException", "region")])
def test_an_account_that_is_not_signed_up_is_told_so(code: str, field: str) -> None:
    error = fixed(answered(code, "You are not subscribed to this service."))
    assert error.field == field
    assert "not subscribed" in error.message


@pytest.mark.parametrize("code", sorted(SENTENCES))
def test_every_sentence_says_something_and_keeps_the_code(code: str) -> None:
    error = judge(answered(code, "what AWS says"), *RUN).error
    assert error.message
    assert "{" not in error.message
    assert aws_code(error) == code


def test_an_unknown_code_is_passed_on_with_what_aws_says() -> None:
    error = fixed(
        answered("InvalidGroup.Duplicate", "The security group 'x' already exists"), "ec2", "CreateSecurityGroup"
    )
    assert aws_code(error) == "InvalidGroup.Duplicate"
    assert "already exists" in error.message


class TestQuotas:
    @pytest.mark.parametrize(("service", "code"), sorted(QUOTAS))
    def test_a_quota_names_itself_its_default_and_where_to_raise_it(self, service: str, code: str) -> None:
        fault = judge(answered(code, "The maximum number has been reached."), service, "Create")
        quota = QUOTAS[service, code]
        assert fault.quota is quota
        assert quota.name in fault.error.message
        assert f"{quota.default:g}" in fault.error.message
        assert quota.code in str(fault.error.advice)
        assert "Service Quotas" in str(fault.error.advice)

    def test_a_known_value_stands_in_place_of_the_default(self) -> None:
        assert "(12)" in QUOTAS["ec2", "VpcLimitExceeded"].error("full", value=12.0).message

    @pytest.mark.parametrize(
        ("message", "quota"),
        [
            ("You've reached the limit on the number of vCPUs you can run concurrently", FARGATE),
            ("You've reached the limit on the number of tasks you can run concurrently", FARGATE),
            ("You've reached the limit on the number of Fargate Spot vCPUs you can run concurrently", FARGATE_SPOT),
        ],
    )
    def test_fargates_quotas_are_known_by_their_sentence(self, message: str, quota: object) -> None:
        assert quota_of("ecs", "ClientException", message) is quota


class TestNoAnswer:
    @pytest.mark.parametrize(
        "exc",
        [
            botocore.EndpointConnectionError(endpoint_url="https://x", error="refused"),
            botocore.ConnectTimeoutError(endpoint_url="https://x"),
            botocore.SSLError(endpoint_url="https://x", error="bad certificate"),
        ],
    )
    def test_what_was_not_sent_had_no_effect(self, exc: Exception) -> None:
        fault = judge(exc, *RUN)
        assert isinstance(fault.error, TryAgainError)
        assert fault.effect is Effect.NOT_SENT
        assert "proxy" in str(fault.error.advice)

    @pytest.mark.parametrize(
        "exc",
        [
            botocore.ReadTimeoutError(endpoint_url="https://x"),
            botocore.ConnectionClosedError(endpoint_url="https://x"),
            OSError("reset"),
            RuntimeError("Session is closed"),
        ],
    )
    def test_a_lost_answer_may_have_had_an_effect(self, exc: Exception) -> None:
        fault = judge(exc, *RUN)
        assert isinstance(fault.error, TryAgainError)
        assert fault.effect is Effect.LOST

    def test_a_request_that_we_made_wrongly_is_not_repeated_and_shows_no_values(self) -> None:
        report = f"Parameter validation failed:\nInvalid type for parameter overrides, value: {SECRET}, type: str"
        error = fixed(botocore.ParamValidationError(report=report))
        assert SECRET not in str(error)
        assert error.__cause__ is None


def test_other_errors_have_no_code_of_aws() -> None:
    details: dict[str, Any] = {}
    assert aws_code(BackendError("x", details=details)) is None
    assert aws_code(ValueError("x")) is None


def test_a_refusal_without_a_reason_says_that_there_is_none() -> None:
    assert fixed(answered("400", "")).message == "AWS refused ecs:RunTask (400) without saying why."
