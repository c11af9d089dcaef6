"""Machines of Amazon's for Ray's cluster launcher: spot machines, and on demand what isn't to be had as spot.

`ray_cluster.yaml` names this as its node provider. Ray's autoscaler doesn't do it: it ranks a node type lower when a
machine that was granted doesn't come up, but not when Amazon refuses one
(`ray/autoscaler/v2/instance_manager/subscribers/cloud_resource_monitor.py`), and so asks for spot machines again for as
long as there are none, with the job waiting.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from ray.autoscaler.node_launch_exception import NodeLaunchException

from adafv.internals import aws_node_provider

LOG = logging.getLogger(__name__)
# What Amazon answers when it has no spot machine now, or none for this account, or none at this price. Unsupported is
# the answer of a zone without this kind of machine: Ray tells only what the last zone said, and others may have
# machines. That an account may start no machine at all (InstanceLimitExceeded, VcpuLimitExceeded), on demand wouldn't
# change.
NO_SPOT = frozenset(
    {
        "InsufficientInstanceCapacity",
        "InsufficientHostCapacity",
        "MaxSpotInstanceCountExceeded",
        "SpotMaxPriceTooLow",
        "UnfulfillableCapacity",
        "Unsupported",
    }
)


class SpotFirst(aws_node_provider()):  # type: ignore[misc]
    """Ray's own provider for AWS, but for what happens when there is no spot machine."""

    def _create_node(self, node_config: Mapping[str, Any], tags: Mapping[str, str], count: int) -> dict[str, Any]:
        """As Ray's: tries all subnets, and so all zones. Then the same once more, on demand."""
        try:
            return super()._create_node(dict(node_config), dict(tags), count)
        except NodeLaunchException as error:
            if "InstanceMarketOptions" not in node_config or error.category not in NO_SPOT:
                raise
            LOG.warning(
                "No spot %s is to be had (%s); taking %d on demand", node_config["InstanceType"], error.category, count
            )
        on_demand = {name: value for name, value in node_config.items() if name != "InstanceMarketOptions"}
        return super()._create_node(on_demand, dict(tags), count)
