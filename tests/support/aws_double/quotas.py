"""Service Quotas, which ministack does not have ("GetServiceQuota", API reference)."""

from __future__ import annotations

import json
from typing import Any

from ministack import app as application
from ministack.core import iam_actions, router

from tests.support.aws_double.control import control
from tests.support.aws_double.gate import Answer, error
from tests.support.aws_double.patching import demand

SERVICE = "servicequotas"


def install() -> None:
    """Make it a service of ministack, so that signatures and policies count there, too."""
    demand(application, "SERVICE_HANDLERS")
    demand(iam_actions, "SERVICE_TO_IAM_NAMESPACE")
    demand(router, "SERVICE_PATTERNS")
    router.SERVICE_PATTERNS[SERVICE] = {"target_prefixes": ["ServiceQuotasV20190624"]}
    iam_actions.SERVICE_TO_IAM_NAMESPACE[SERVICE] = SERVICE
    application.SERVICE_HANDLERS[SERVICE] = _handle


async def _handle(_method: str, _path: str, headers: Any, body: bytes, _query: Any) -> Answer:
    code = str(json.loads(body or b"{}").get("QuotaCode"))
    if not headers.get("x-amz-target", "").endswith(".GetServiceQuota") or code not in control.settings["quotas"]:
        return error(f"{SERVICE}:", "NoSuchResourceException", "The request failed because the quota is unknown.", 400)
    quota = {"ServiceCode": "fargate", "QuotaCode": code, "Value": control.settings["quotas"][code], "Adjustable": True}
    return 200, {"Content-Type": "application/x-amz-json-1.1"}, json.dumps({"Quota": quota}).encode()
