"""IAM policies of a role that Ropewalk assumes: who may assume it, and what the key then still needs by itself."""

from __future__ import annotations

from typing import Any

__all__ = ["PRINCIPAL", "ROLE", "assume_policy", "trust_policy"]

PRINCIPAL = "arn:aws:iam::111122223333:user/ropewalk"
"""Stands for the key's user where that is not known yet; 111122223333 is AWS's own example of an account."""
ROLE = "arn:aws:iam::111122223333:role/ropewalk"


def trust_policy(external_id: str, principal: str = PRINCIPAL) -> dict[str, Any]:
    """Return a role's trust policy: *principal* may assume it, for the account with this *external_id* only.

    The condition is what AWS asks for where somebody else's service assumes a role ("The confused deputy problem", IAM
    user guide).
    """
    statement = {
        "Effect": "Allow",
        "Principal": {"AWS": principal},
        "Action": "sts:AssumeRole",
        "Condition": {"StringEquals": {"sts:ExternalId": external_id}},
    }
    return {"Version": "2012-10-17", "Statement": [statement]}


def assume_policy(role: str = ROLE) -> dict[str, Any]:
    """Return all that a key needs which assumes *role*."""
    statement = {"Effect": "Allow", "Action": "sts:AssumeRole", "Resource": role}
    return {"Version": "2012-10-17", "Statement": [statement]}
