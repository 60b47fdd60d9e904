"""Error codes of AWS, and what they mean to somebody who has to act.

From "Common error types" of each API reference, and "Error codes for the Amazon EC2 API" (EC2 developer guide).
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SENTENCES", "THROTTLING", "Sentence"]

THROTTLING = frozenset({
    "BandwidthLimitExceeded", "EC2ThrottledException", "PriorRequestNotComplete", "RequestLimitExceeded",
    "RequestThrottled", "RequestThrottledException", "SlowDown", "ThrottledException", "Throttling",
    "ThrottlingException", "TooManyRequestsException",
})  # fmt: skip


@dataclass(frozen=True, slots=True)
class Sentence:
    """What to tell a person: ``{call}`` and ``{message}`` (AWS's own) may occur in the message.

    A ``delay`` (seconds) makes it an error to try again; ``credentials`` says that the key itself is no good.
    """

    message: str
    advice: str | None = None
    field: str | None = None
    delay: float | None = None
    credentials: bool = False


_UNKNOWN_KEY = Sentence(
    "AWS does not know this access key: it was deleted or deactivated, or its account has not enabled the region.",
    "Set an active key with `ropewalk cloud-account set aws`. A key made less than a minute ago may need a moment.",
    "access_key_id",
    credentials=True,
)
_WRONG_SECRET = Sentence(
    "The secret access key does not belong to this access key id.",
    "Set both again with `ropewalk cloud-account set aws`; check for characters lost when copying.",
    "secret_access_key",
    credentials=True,
)
_EXPIRED = Sentence(
    "The credentials have expired.",
    "Set a long-lived key with `ropewalk cloud-account set aws`; temporary ones cannot be used.",
    "access_key_id",
    credentials=True,
)
_CLOCK = Sentence(
    "AWS refused {call} because the clock of this server is wrong: {message}",
    "Set the server's clock (NTP); AWS accepts a difference of five minutes at the most.",
    delay=60.0,
)
_NOT_SIGNED_UP = Sentence(
    "The AWS account may not use the service of {call} yet: {message}",
    "Finish signing up (payment method, verification) in the AWS console, or choose another region.",
    "region",
)
_SUSPENDED = Sentence(
    "The AWS account is blocked: {message}",
    "Contact AWS Support from the AWS account's console.",
    "access_key_id",
)
_ROLE_MISSING = Sentence(
    "ECS may not act in this AWS account, because its service-linked role AWSServiceRoleForECS is missing.",
    "Run `aws iam create-service-linked-role --aws-service-name ecs.amazonaws.com`.",
)

SENTENCES: dict[str, Sentence] = {
    "AuthFailure": _UNKNOWN_KEY,
    "InvalidAccessKeyId": _UNKNOWN_KEY,
    "InvalidClientTokenId": _UNKNOWN_KEY,
    "UnrecognizedClientException": _UNKNOWN_KEY,
    "InvalidSignatureException": _WRONG_SECRET,
    "SignatureDoesNotMatch": _WRONG_SECRET,
    "IncompleteSignature": _WRONG_SECRET,
    "IncompleteSignatureException": _WRONG_SECRET,
    "MissingAuthenticationToken": _WRONG_SECRET,
    "MissingAuthenticationTokenException": _WRONG_SECRET,
    "ExpiredToken": _EXPIRED,
    "ExpiredTokenException": _EXPIRED,
    "TokenRefreshRequired": _EXPIRED,
    "RequestExpired": _CLOCK,
    "RequestTimeTooSkewed": _CLOCK,
    "RequestInTheFuture": _CLOCK,
    "OptInRequired": _NOT_SIGNED_UP,
    "SubscriptionRequiredException": _NOT_SIGNED_UP,
    "PendingVerification": _NOT_SIGNED_UP,
    "AccountSetupInProgress": _NOT_SIGNED_UP,
    "NotSignedUp": _NOT_SIGNED_UP,
    "Blocked": _SUSPENDED,
    "AccountDisabled": _SUSPENDED,
    "InvalidServiceLinkedRole": _ROLE_MISSING,
    "RegionDisabledException": Sentence(
        "The region is not enabled in the AWS account, or its STS endpoint is switched off: {message}",
        "Enable the region (AWS console, Account, AWS Regions), or choose another one.",
        "region",
    ),
    "InvalidAction": Sentence(
        "The endpoint does not know {call}: {message}",
        "If the operator set an AWS endpoint of their own, check that it belongs to the service.",
    ),
    "InsufficientFreeAddressesInSubnet": Sentence(
        "The subnet has no free addresses left: {message}",
        "Stop clusters, or give the cloud account more or larger subnets (`subnet_ids`).",
        "subnet_ids",
    ),
    "VPCIdNotSpecified": Sentence("The AWS account has no default VPC.", "Name a VPC (`vpc_id`).", "vpc_id"),
    "PlatformTaskDefinitionIncompatibilityException": Sentence(
        "Fargate cannot run such a task: {message}", "Choose another size or architecture.", "architecture"
    ),
    "PlatformUnknownException": Sentence("Fargate does not know this platform version here: {message}"),
    "BlockedException": _SUSPENDED,
    "UnsupportedFeatureException": Sentence(
        "This region does not offer what was asked for: {message}", "Choose another region.", "region"
    ),
}
