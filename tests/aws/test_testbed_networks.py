"""The double refuses, delays and hides in EC2, IAM and ECR what AWS does."""

from __future__ import annotations

import base64
import hashlib
import json
from typing import Any

import pytest
from botocore.exceptions import ClientError

from tests.support.ministack import REGION, Double

TRUST = json.dumps(
    {
        "Version": "2012-10-17",
        "Statement": [
            {"Effect": "Allow", "Principal": {"Service": "ecs-tasks.amazonaws.com"}, "Action": "sts:AssumeRole"}
        ],
    }
)


def refused(code: str) -> Any:
    return pytest.raises(ClientError, check=lambda exc: exc.response["Error"]["Code"] == code)


@pytest.fixture
def vpc(aws: Double) -> str:
    return str(aws.client("ec2").create_vpc(CidrBlock="10.77.0.0/16")["Vpc"]["VpcId"])


@pytest.fixture
def subnet(aws: Double, vpc: str) -> str:
    made = aws.client("ec2").create_subnet(VpcId=vpc, CidrBlock="10.77.0.0/20", AvailabilityZone=f"{REGION}a")
    return str(made["Subnet"]["SubnetId"])


class TestNetworks:
    def test_a_dry_run_says_so_and_makes_nothing(self, aws: Double) -> None:
        before = aws.client("ec2").describe_vpcs()["Vpcs"]
        with refused("DryRunOperation"):
            aws.client("ec2").create_vpc(CidrBlock="10.1.0.0/16", DryRun=True)
        assert aws.client("ec2").describe_vpcs()["Vpcs"] == before

    def test_subnets_must_fit_and_not_overlap(self, aws: Double, vpc: str, subnet: str) -> None:
        with refused("InvalidSubnet.Conflict"):
            aws.client("ec2").create_subnet(VpcId=vpc, CidrBlock="10.77.8.0/24")
        with refused("InvalidSubnet.Range"):
            aws.client("ec2").create_subnet(VpcId=vpc, CidrBlock="10.78.0.0/24")

    def test_the_quota_of_vpcs_holds(self, aws: Double, vpc: str) -> None:
        aws.set(vpc_quota=2)
        with refused("VpcLimitExceeded"):
            aws.client("ec2").create_vpc(CidrBlock="10.1.0.0/16")

    def test_a_rule_cannot_be_added_twice(self, aws: Double, vpc: str) -> None:
        ec2 = aws.client("ec2")
        group = ec2.create_security_group(GroupName="g", Description="g", VpcId=vpc)["GroupId"]
        rule = {"IpProtocol": "tcp", "FromPort": 8786, "ToPort": 8786, "IpRanges": [{"CidrIp": "192.0.2.0/24"}]}
        ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])
        with refused("InvalidPermission.Duplicate"):
            ec2.authorize_security_group_ingress(GroupId=group, IpPermissions=[rule])

    def test_what_is_used_cannot_be_deleted(self, aws: Double, vpc: str, subnet: str) -> None:
        ec2 = aws.client("ec2")
        gateway = ec2.create_internet_gateway()["InternetGateway"]["InternetGatewayId"]
        ec2.attach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        with refused("DependencyViolation"):
            ec2.delete_internet_gateway(InternetGatewayId=gateway)
        with refused("DependencyViolation"):
            ec2.delete_route_table(RouteTableId=table)
        with refused("DependencyViolation"):
            ec2.delete_vpc(VpcId=vpc)
        ec2.delete_subnet(SubnetId=subnet)
        with refused("DependencyViolation"):
            ec2.delete_vpc(VpcId=vpc)
        ec2.delete_route_table(RouteTableId=table)
        ec2.detach_internet_gateway(InternetGatewayId=gateway, VpcId=vpc)
        ec2.delete_internet_gateway(InternetGatewayId=gateway)
        ec2.delete_vpc(VpcId=vpc)

    def test_what_does_not_exist_cannot_be_referred_to(self, aws: Double) -> None:
        with refused("InvalidVpcID.NotFound"):
            aws.client("ec2").create_subnet(VpcId="vpc-00000000000000000", CidrBlock="10.77.0.0/20")

    def test_a_route_or_an_association_cannot_be_made_twice(self, aws: Double, vpc: str, subnet: str) -> None:
        ec2 = aws.client("ec2")
        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        with refused("Resource.AlreadyAssociated"):
            ec2.associate_route_table(RouteTableId=table, SubnetId=subnet)
        with refused("RouteAlreadyExists"):
            ec2.create_route(RouteTableId=table, DestinationCidrBlock="10.77.0.0/16", GatewayId="igw-00000001")

    def test_a_nat_gateway_is_pending_and_deleting_for_a_while(self, aws: Double, vpc: str, subnet: str) -> None:
        ec2 = aws.client("ec2")
        aws.set(nat_available_after=3600)
        address = ec2.allocate_address(Domain="vpc")["AllocationId"]
        nat = ec2.create_nat_gateway(SubnetId=subnet, AllocationId=address)["NatGateway"]["NatGatewayId"]

        def state() -> str:
            found = ec2.describe_nat_gateways(NatGatewayIds=[nat])["NatGateways"][0]
            assert found["NatGatewayAddresses"][0]["AllocationId"] == address
            return str(found["State"])

        table = ec2.create_route_table(VpcId=vpc)["RouteTable"]["RouteTableId"]
        assert state() == "pending"
        with refused("InvalidNatGatewayID.NotFound"):
            ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
        aws.set(nat_available_after=0)
        assert state() == "available"
        ec2.create_route(RouteTableId=table, DestinationCidrBlock="0.0.0.0/0", NatGatewayId=nat)
        aws.set(nat_available_after=3600)
        ec2.delete_nat_gateway(NatGatewayId=nat)
        assert state() == "deleting"
        with refused("InvalidIPAddress.InUse"):
            ec2.release_address(AllocationId=address)
        aws.set(nat_available_after=0)
        assert state() == "deleted"
        ec2.release_address(AllocationId=address)

    def test_what_is_new_may_not_be_known_yet(self, aws: Double) -> None:
        aws.set(network_visible_after=3600)
        ec2 = aws.client("ec2")
        vpc = ec2.create_vpc(CidrBlock="10.1.0.0/16")["Vpc"]["VpcId"]
        with refused("InvalidVpcID.NotFound"):
            ec2.describe_vpcs(VpcIds=[vpc])
        aws.set(network_visible_after=0)
        assert ec2.describe_vpcs(VpcIds=[vpc])["Vpcs"]


class TestIdentities:
    def test_a_new_key_may_not_be_known_yet(self, aws: Double) -> None:
        aws.set(key_visible_after=3600)
        key = aws.make_user()
        with refused("InvalidClientTokenId"):
            aws.client_of(key, "sts").get_caller_identity()
        aws.set(key_visible_after=0)
        aws.client_of(key, "sts").get_caller_identity()

    def test_the_service_linked_role_has_its_real_name_and_is_made_once(self, aws: Double) -> None:
        iam = aws.client("iam", "us-east-1")
        made = iam.create_service_linked_role(AWSServiceName="ecs.amazonaws.com")["Role"]
        assert made["RoleName"] == iam.get_role(RoleName="AWSServiceRoleForECS")["Role"]["RoleName"]
        with refused("InvalidInput"):
            iam.create_service_linked_role(AWSServiceName="ecs.amazonaws.com")

    def test_tags_on_creation_need_their_own_permission(self, aws: Double) -> None:
        iam = aws.client_of(aws.make_user(["iam:CreateRole"]), "iam")
        with refused("AccessDenied"):
            iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST, Tags=[{"Key": "a", "Value": "b"}])
        iam.create_role(RoleName="r", AssumeRolePolicyDocument=TRUST)


class TestImages:
    def test_layers_are_kept_in_parts_and_checked_by_digest(self, aws: Double) -> None:
        ecr = aws.client("ecr")
        ecr.create_repository(repositoryName="rr")
        blob = b"layer" * 1000
        digest = "sha256:" + hashlib.sha256(blob).hexdigest()
        upload = ecr.initiate_layer_upload(repositoryName="rr")["uploadId"]
        place = {"repositoryName": "rr", "uploadId": upload}
        ecr.upload_layer_part(**place, partFirstByte=0, partLastByte=2999, layerPartBlob=blob[:3000])
        with refused("InvalidLayerPartException"):
            ecr.upload_layer_part(**place, partFirstByte=0, partLastByte=2999, layerPartBlob=blob[:3000])
        ecr.upload_layer_part(**place, partFirstByte=3000, partLastByte=4999, layerPartBlob=blob[3000:])
        with refused("InvalidLayerException"):
            ecr.complete_layer_upload(**place, layerDigests=["sha256:" + "0" * 64])
        ecr.complete_layer_upload(**place, layerDigests=[digest])
        layers = ecr.batch_check_layer_availability(repositoryName="rr", layerDigests=[digest, "sha256:" + "0" * 64])
        assert [layer["layerAvailability"] for layer in layers["layers"]] == ["AVAILABLE", "UNAVAILABLE"]

    def test_an_image_needs_its_layers(self, aws: Double) -> None:
        ecr = aws.client("ecr")
        ecr.create_repository(repositoryName="rr")
        manifest = {"schemaVersion": 2, "config": {"digest": "sha256:" + "0" * 64}, "layers": []}
        with refused("LayersNotFoundException"):
            ecr.put_image(repositoryName="rr", imageTag="t", imageManifest=json.dumps(manifest))

    def test_a_token_for_the_registry_has_a_user_and_a_password(self, aws: Double) -> None:
        token = aws.client("ecr").get_authorization_token()["authorizationData"][0]["authorizationToken"]
        assert base64.b64decode(token).startswith(b"AWS:")
