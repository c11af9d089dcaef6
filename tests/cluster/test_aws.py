"""`ray_cluster.yaml` goes through Ray's own checks and node provider, on an AWS that moto imitates: the account is set
up by `cluster/aws/account.yaml`, and machines are started and ended as Ray's launcher does."""

from __future__ import annotations

import copy
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml
from botocore.exceptions import ClientError
from moto import mock_aws
from ray.autoscaler._private.aws import node_provider
from ray.autoscaler._private.aws.utils import client_cache, resource_cache
from ray.autoscaler._private.commands import _bootstrap_config
from ray.autoscaler._private.providers import _get_node_provider
from ray.autoscaler.node_launch_exception import NodeLaunchException
from ray.autoscaler.tags import TAG_RAY_NODE_KIND, TAG_RAY_USER_NODE_TYPE

from adafv.spot import SpotFirst

ROOT = Path(__file__).parents[2]
GIVEN = yaml.safe_load((ROOT / "ray_cluster.yaml").read_text())
ACCOUNT = (ROOT / "cluster" / "aws" / "account.yaml").read_text()
REGION, HOME_ADDRESS = GIVEN["provider"]["region"], "203.0.113.7/32"


class Template(yaml.SafeLoader):
    """YAML with CloudFormation's short functions: a reference is read as the name that it refers to."""


Template.add_multi_constructor("!", lambda loader, tag, node: node.value)


def set_up(ec2: Any) -> None:
    """Make what the template describes, as CloudFormation would: moto's needs a dozen packages more."""
    resources = {name: one["Properties"] for name, one in yaml.load(ACCOUNT, Template)["Resources"].items()}
    [vpc] = ec2.describe_vpcs()["Vpcs"]
    group, within = resources["Group"], resources["Within"]
    made = {"Group": ec2.create_security_group(
        GroupName=group["GroupName"], Description=group["GroupDescription"], VpcId=vpc["VpcId"]
    )["GroupId"]}  # fmt: skip
    for rule in group["SecurityGroupIngress"]:
        given = {**rule, "CidrIp": HOME_ADDRESS if rule["CidrIp"] == "SshFrom" else rule["CidrIp"]}
        ec2.authorize_security_group_ingress(GroupId=made["Group"], **given)
    pairs = [{"GroupId": made[within["SourceSecurityGroupId"]]}]
    permissions = [{"IpProtocol": within["IpProtocol"], "UserIdGroupPairs": pairs}]
    ec2.authorize_security_group_ingress(GroupId=made[within["GroupId"]], IpPermissions=permissions)
    iam = boto3.client("iam", REGION)
    for name, role in resources.items():
        if name.endswith("Role"):
            document = json.dumps(role["AssumeRolePolicyDocument"], default=str)
            iam.create_role(RoleName=role["RoleName"], AssumeRolePolicyDocument=document)
    for name, profile in resources.items():
        if name.endswith("Profile"):
            iam.create_instance_profile(InstanceProfileName=profile["InstanceProfileName"])
            [role] = [resources[name]["RoleName"] for name in profile["Roles"]]
            iam.add_role_to_instance_profile(InstanceProfileName=profile["InstanceProfileName"], RoleName=role)


@pytest.fixture(scope="module")
def account(tmp_path_factory) -> Iterator[Any]:
    """An account with what `account.yaml` makes."""
    caches = (resource_cache, client_cache)
    with pytest.MonkeyPatch.context() as monkeypatch, mock_aws():
        monkeypatch.setenv("HOME", str(tmp_path_factory.mktemp("home")))  # for the key pair
        monkeypatch.delenv("AWS_ENDPOINT_URL", raising=False)
        ec2 = boto3.client("ec2", REGION)
        set_up(ec2)
        for cache in caches:
            cache.cache_clear()
        yield ec2
    for cache in caches:
        cache.cache_clear()


@pytest.fixture(scope="module")
def config(account) -> dict[str, Any]:
    """What Ray's launcher makes of the file, before it starts the head."""
    return _bootstrap_config(yaml.safe_load((ROOT / "ray_cluster.yaml").read_text()), no_config_cache=True)


def start(config: dict[str, Any], type: str) -> tuple[Any, dict[str, Any]]:
    """A provider, and what it says of the machines that it started."""
    provider = _get_node_provider(config["provider"], config["cluster_name"], use_cache=False)
    tags = {TAG_RAY_NODE_KIND: "worker", TAG_RAY_USER_NODE_TYPE: type}
    return provider, provider.create_node(config["available_node_types"][type]["node_config"], tags, 1)


def test_rays_own_checks_pass(config):
    """Its schema, and the AWS provider's: there is a network, a key pair and an image for each type."""
    for name, type in config["available_node_types"].items():
        node = type["node_config"]
        assert node["KeyName"] and node["SubnetIds"] and node["SecurityGroupIds"], name
        assert node["MetadataOptions"] == {"HttpTokens": "required"}
        assert all(disk["Ebs"]["Encrypted"] for disk in node["BlockDeviceMappings"])
    types = config["available_node_types"]
    assert [types[name]["min_workers"] for name in ("cpu", "gpu")] == [0, 0], "not from zero"


def test_resources_are_those_of_the_machines(config):
    """As Amazon has them, where Ray knew nothing of it: a wrong number starts machines that no task fits."""
    for type in GIVEN["available_node_types"]:
        name = GIVEN["available_node_types"][type]["node_config"]["InstanceType"]
        [kind] = boto3.client("ec2", REGION).describe_instance_types(InstanceTypes=[name])["InstanceTypes"]
        gpus = sum(gpu["Count"] for gpu in kind.get("GpuInfo", {}).get("Gpus", []))
        expected = {"CPU": kind["VCpuInfo"]["DefaultVCpus"]} | ({"GPU": gpus} if gpus else {})
        if type == "head":
            expected["CPU"] //= 2  # half for Ray and the driver
        assert GIVEN["available_node_types"][type]["resources"] == expected


def test_only_ssh_from_outside_and_all_within(account, config):
    """In the group that is the account's: Ray would make one that is open to all."""
    [group] = {node["node_config"]["SecurityGroupIds"][0] for node in config["available_node_types"].values()}
    [found] = account.describe_security_groups(GroupIds=[group])["SecurityGroups"]
    outside = [rule for rule in found["IpPermissions"] if rule["IpRanges"]]
    within = [rule for rule in found["IpPermissions"] if not rule["IpRanges"]]
    [ssh] = outside
    assert (ssh["FromPort"], ssh["ToPort"], ssh["IpRanges"]) == (22, 22, [{"CidrIp": HOME_ADDRESS}])
    assert [pair["GroupId"] for rule in within for pair in rule["UserIdGroupPairs"]] == [group]


def test_credentials_are_roles_that_are_there(account):
    profiles = {
        type: node["node_config"]["IamInstanceProfile"]["Name"] for type, node in GIVEN["available_node_types"].items()
    }
    assert profiles == {"head": "adafv-head", "cpu": "adafv-worker", "gpu": "adafv-worker"}
    iam = boto3.client("iam", REGION)
    for name in set(profiles.values()):
        assert iam.get_instance_profile(InstanceProfileName=name)["InstanceProfile"]["Roles"]
    text = (ROOT / "ray_cluster.yaml").read_text() + ACCOUNT
    assert not re.search(r"AKIA|aws_access_key|aws_secret|aws_credentials|BEGIN .*KEY", text, re.IGNORECASE)


def test_the_head_cannot_make_another_machine_its_own():
    """By a tag it could: it may end what has the cluster's."""
    [policy] = yaml.load(ACCOUNT, Template)["Resources"]["HeadRole"]["Properties"]["Policies"]
    found: dict[str, list[Any]] = {"ec2:CreateTags": [], "ec2:TerminateInstances": []}
    for statement in policy["PolicyDocument"]["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        for action in found.keys() & {*actions}:
            found[action].append(statement.get("Condition"))
    own = {"StringEquals": {"aws:ResourceTag/ray-cluster-name": GIVEN["cluster_name"]}}
    starting = {"StringEquals": {"ec2:CreateAction": "RunInstances"}}
    assert found == {"ec2:CreateTags": [starting, own], "ec2:TerminateInstances": [own]}


def actions_of(role: str) -> set[str]:
    """What a role may do by the template's managed policies."""
    resources = yaml.load(ACCOUNT, Template)["Resources"]
    policies = [resources[name]["Properties"] for name in resources[role]["Properties"]["ManagedPolicyArns"]]
    given = [statement["Action"] for policy in policies for statement in policy["PolicyDocument"]["Statement"]]
    return {action for actions in given for action in (actions if isinstance(actions, list) else [actions])}


def test_only_the_head_may_write_to_the_bucket():
    """The driver is there, and is the only writer; on workers strangers' images are decoded."""
    assert actions_of("WorkerRole") == {"s3:ListBucket", "s3:GetObject"}
    assert actions_of("HeadRole") == actions_of("WorkerRole") | {"s3:PutObject", "s3:DeleteObject"}


def test_gpu_machines_are_spot_machines(account, config):
    provider, started = start(config, "gpu")
    assert isinstance(provider, SpotFirst)
    [machine] = account.describe_instances(InstanceIds=list(started))["Reservations"][0]["Instances"]
    assert machine["InstanceLifecycle"] == "spot"
    assert provider.non_terminated_nodes({TAG_RAY_USER_NODE_TYPE: "gpu"}) == list(started)
    provider.terminate_nodes(list(started))
    assert provider.non_terminated_nodes({}) == []


def refuse(monkeypatch, code: str, last: str | None = None) -> list[bool]:
    """Have Amazon refuse spot machines with an error, from the fifth attempt on with the `last`. What was asked for:
    spot or not."""
    asked: list[bool] = []
    made = node_provider.make_ec2_resource

    def make(*arguments: Any, **named: Any) -> Any:
        ec2 = made(*arguments, **named)
        create = ec2.create_instances

        def create_instances(**given: Any) -> Any:
            asked.append("InstanceMarketOptions" in given)
            if asked[-1]:
                said = code if last is None or len(asked) < 5 else last
                raise ClientError({"Error": {"Code": said, "Message": "none now"}}, "RunInstances")
            return create(**given)

        monkeypatch.setattr(ec2, "create_instances", create_instances)
        return ec2

    monkeypatch.setattr(node_provider, "make_ec2_resource", make)
    return asked


def test_where_there_is_no_spot_machine_one_on_demand_is_taken(account, config, monkeypatch, caplog):
    asked = refuse(monkeypatch, "InsufficientInstanceCapacity")
    given = copy.deepcopy(config)
    provider, started = start(config, "gpu")
    subnets = len(config["available_node_types"]["gpu"]["node_config"]["SubnetIds"])
    assert asked[:-1] == [True] * max(5, subnets) and asked[-1] is False, "not in all zones first"
    [machine] = account.describe_instances(InstanceIds=list(started))["Reservations"][0]["Instances"]
    assert "InstanceLifecycle" not in machine
    provider.terminate_nodes(list(started))
    assert config == given, "the next one isn't asked for as spot"
    assert "No spot g5.2xlarge is to be had (InsufficientInstanceCapacity); taking 1 on demand" in caplog.text


def test_a_zone_without_this_kind_of_machine_does_not_hide_that_there_is_no_spot_machine(config, monkeypatch):
    """Ray tells only what the last zone said: some zone of us-east-1 has no g5, and it may be the last."""
    asked = refuse(monkeypatch, "InsufficientInstanceCapacity", last="Unsupported")
    provider, started = start(config, "gpu")
    assert started and asked[-1] is False
    provider.terminate_nodes(list(started))


@pytest.mark.parametrize(("type", "code"), [("gpu", "VcpuLimitExceeded"), ("gpu", "UnauthorizedOperation")])
def test_what_on_demand_would_not_change_is_told(config, monkeypatch, type, code):
    asked = refuse(monkeypatch, code)
    with pytest.raises(NodeLaunchException, match=code):
        start(config, type)
    assert all(asked)


def test_the_set_up_installs_what_is_pinned_and_there():
    commands = "\n".join(GIVEN["setup_commands"])
    [torch] = re.findall(r"torch==\S+", commands)
    assert torch in (ROOT / "Makefile").read_text()
    assert "--constraint ~/adafv/constraints.txt" in commands and "--python 3.11" in commands
    assert '"$HOME/adafv[gpu]"' in commands, "weights go to the GPU by way of the host's memory"
    for remote, local in GIVEN["file_mounts"].items():
        if local != "~/.ray/auth_token":
            assert remote == f"~/adafv/{local}" and (ROOT / local).exists()
    needed = {"adafv", "pyproject.toml", "constraints.txt", "jobs"}
    assert needed <= set(GIVEN["file_mounts"].values())


@pytest.mark.parametrize("name", [name for name in GIVEN if name.endswith("_commands") and GIVEN[name]])
def test_commands_are_shell(name):
    for command in GIVEN[name]:
        subprocess.run(["bash", "-n", "-c", command], check=True)


def test_the_dashboard_is_not_on_the_network():
    assert "RAY_AUTH_MODE=token" in GIVEN["setup_commands"][-1], "who logs in is refused"
    for commands in (GIVEN["head_start_ray_commands"], GIVEN["worker_start_ray_commands"]):
        assert "RAY_AUTH_MODE=token" in commands[-1]
    assert "--dashboard-host=127.0.0.1" in GIVEN["head_start_ray_commands"][-1]
