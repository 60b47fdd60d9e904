"""Rate limits as AWS documents them, per AWS account and region, by token bucket.

Sources: "Request throttling for the Amazon ECS API", "AWS Fargate throttling quotas", "Request throttling for the
Amazon EC2 API", "Amazon ECR service quotas", "CloudWatch Logs quotas". Where a page says
nothing (IAM), none is enforced.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Rate:
    """A bucket that several actions share: its size, and what comes back each second."""

    name: str
    burst: float
    refill: float


_CLUSTER_READ = Rate("ecs cluster read", 50, 20)
_CLUSTER_MODIFY = Rate("ecs cluster modify", 25, 1)
_DEFINITION_READ = Rate("ecs task definition read", 50, 20)
_DEFINITION_MODIFY = Rate("ecs task definition modify", 20, 1)
_RESOURCE_READ = Rate("ecs cluster resource read", 100, 20)
_RESOURCE_MODIFY = Rate("ecs cluster resource modify", 100, 40)
_TAG = Rate("ecs tags", 20, 10)
_EC2_READ = Rate("ec2 unfiltered and unpaginated describe", 50, 10)
_EC2_MUTATE = Rate("ec2 mutating", 50, 5)

LAUNCHES = Rate("fargate launches", 100, 20)
"""One token for each task, not for each call."""

_RATES = {
    **dict.fromkeys(["ecs:DescribeClusters", "ecs:ListClusters"], _CLUSTER_READ),
    **dict.fromkeys(["ecs:CreateCluster", "ecs:DeleteCluster", "ecs:PutClusterCapacityProviders"], _CLUSTER_MODIFY),
    **dict.fromkeys(["ecs:DescribeTaskDefinition", "ecs:ListTaskDefinitions"], _DEFINITION_READ),
    **dict.fromkeys(["ecs:RegisterTaskDefinition", "ecs:DeregisterTaskDefinition"], _DEFINITION_MODIFY),
    **dict.fromkeys(["ecs:DescribeTasks", "ecs:ListTasks"], _RESOURCE_READ),
    **dict.fromkeys(["ecs:RunTask", "ecs:StopTask"], _RESOURCE_MODIFY),
    **dict.fromkeys(["ecs:TagResource", "ecs:ListTagsForResource"], _TAG),
    "ecr:PutImage": Rate("ecr put image", 10, 10),
    "ecr:BatchCheckLayerAvailability": Rate("ecr check layers", 1000, 1000),
    "ecr:InitiateLayerUpload": Rate("ecr initiate upload", 100, 100),
    "ecr:CompleteLayerUpload": Rate("ecr complete upload", 100, 100),
    "logs:GetLogEvents": Rate("logs get events", 25, 25),
    "logs:FilterLogEvents": Rate("logs filter events", 5, 5),
    "logs:DescribeLogStreams": Rate("logs describe streams", 25, 25),
    "logs:DescribeLogGroups": Rate("logs describe groups", 10, 10),
    "logs:CreateLogGroup": Rate("logs create group", 10, 10),
}


def rate_of(action: str) -> Rate | None:
    """Return the limit of an action, None if there is none."""
    if action.startswith("ec2:"):
        return _EC2_READ if action.startswith("ec2:Describe") else _EC2_MUTATE
    return _RATES.get(action)


@dataclass
class Buckets:
    """Tokens left, by account and region and bucket."""

    levels: dict[tuple[str, str], tuple[float, float]] = field(default_factory=dict)

    def take(self, scope: str, rate: Rate, tokens: float = 1, *, refill: float = 1) -> bool:
        """Take tokens; False if there are not enough, and then none are taken. *refill*: factor of their return."""
        now = time.monotonic()
        level, since = self.levels.get((scope, rate.name), (rate.burst, now))
        level = min(rate.burst, level + (now - since) * rate.refill * refill)
        enough = level >= tokens
        self.levels[scope, rate.name] = (level - tokens if enough else level, now)
        return enough

    def clear(self) -> None:
        """All full again."""
        self.levels.clear()


buckets = Buckets()
