"""Clusters in a team's own AWS account: ECS tasks on Fargate, in a network of their own.

Nothing here is imported until a cloud account of kind `aws` exists, and aiobotocore not before the first call.
"""

from ropewalk.backends.aws.backend import AwsBackend

__all__ = ["AwsBackend"]
