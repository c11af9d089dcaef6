"""The manifests for Kubernetes hold to the published schemas, fit together, and are understood by Ray's autoscaler and
by the job's own parser."""

from __future__ import annotations

import copy
import shlex
from typing import Any

import kubernetes_validate
import pytest
import ray
from ray.autoscaler._private.kuberay.autoscaling_config import _derive_autoscaling_config_from_ray_cr
from ray.autoscaler._private.util import validate_config

from adafv import __version__
from adafv.commands.label import EPILOG
from tests.cluster.manifests import ROOT, kuberay_schema, manifests, problems
from tests.parsing import parse_options

[RAYJOB] = manifests("rayjob.yaml")
[RAYCRONJOB] = manifests("raycronjob.yaml")
[CRONJOB] = manifests("cronjob.yaml")
CLUSTER = RAYJOB["spec"]["rayClusterSpec"]
GROUPS = {group["groupName"]: group for group in CLUSTER["workerGroupSpecs"]}
PODS = {"head": CLUSTER["headGroupSpec"]["template"]["spec"]} | {
    name: group["template"]["spec"] for name, group in GROUPS.items()
}
NIGHT = CRONJOB["spec"]["jobTemplate"]["spec"]["template"]["spec"]
NIGHTLY = ROOT / "cluster" / "nightly.yaml"


@pytest.mark.parametrize(("schema", "manifest"), [("rayjobs", RAYJOB), ("raycronjobs", RAYCRONJOB)])
def test_kuberays_schemas(schema, manifest):
    assert problems(kuberay_schema(schema), manifest) == []


@pytest.mark.parametrize(
    ("path", "name", "value"),
    [
        (["spec"], "backofLimit", 0),
        (["spec"], "concurrencyPolicy", "Forbid"),
        (["spec", "rayClusterSpec", "headGroupSpec", "template", "spec", "containers", 0], "livenesProbe", {}),
        (["spec", "rayClusterSpec", "autoscalerOptions"], "version", "v3"),
        (["spec", "rayClusterSpec", "workerGroupSpecs", 0], "maxReplicas", "many"),
    ],
)
def test_the_schemas_find_errors(path, name, value):
    wrong: Any = copy.deepcopy(RAYJOB)
    place = wrong
    for part in path:
        place = place[part]
    place[name] = value
    assert len(problems(kuberay_schema("rayjobs"), wrong)) == 1


def test_raycronjob_has_no_concurrency_policy():
    """Why there is cronjob.yaml. When this fails, it may go."""
    fields = kuberay_schema("raycronjobs")["properties"]["spec"]["properties"]
    assert "jobTemplate" in fields and "concurrencyPolicy" not in fields


@pytest.mark.parametrize("manifest", [CRONJOB, *manifests("account.yaml")], ids=lambda one: one["kind"])
def test_kubernetes_own_schemas(manifest):
    kubernetes_validate.validate(manifest, "1.34", strict=True)


def test_both_schedules_run_the_same():
    assert RAYCRONJOB["spec"]["jobTemplate"] == RAYJOB["spec"]
    for name in ("schedule", "timeZone"):
        assert RAYCRONJOB["spec"][name] == CRONJOB["spec"][name]


def test_a_night_waits_for_the_one_before():
    assert CRONJOB["spec"]["concurrencyPolicy"] == "Forbid"
    steps = {one["name"]: one["args"] for one in NIGHT["initContainers"] + NIGHT["containers"]}
    assert list(steps) == ["create", "wait", "succeeded"]
    made = f"rayjob/{RAYJOB['metadata']['name']}"
    assert all(steps[name][:2] == ["wait", made] for name in ("wait", "succeeded"))
    assert steps["create"] == ["create", "--filename=/rayjob/rayjob.yaml"]
    lives = RAYJOB["spec"]["activeDeadlineSeconds"]
    gone = max(rule["condition"].get("ttlSeconds", 0) for rule in RAYJOB["spec"]["deletionStrategy"]["deletionRules"])
    assert lives + gone < 24 * 3600, "a night's RayJob is in the next one's way"
    assert lives < CRONJOB["spec"]["jobTemplate"]["spec"]["activeDeadlineSeconds"]


def test_the_schedule_may_do_what_it_does_and_no_more():
    *_, role, binding = manifests("account.yaml")
    assert role["rules"] == [
        {"apiGroups": ["ray.io"], "resources": ["rayjobs"], "verbs": ["create", "get", "list", "watch"]}
    ]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": NIGHT["serviceAccountName"]}]
    assert binding["roleRef"]["name"] == role["metadata"]["name"]


def test_every_ended_run_is_cleared_away():
    """In whatever way it ended: its cluster at once, and itself later."""
    rules = RAYJOB["spec"]["deletionStrategy"]["deletionRules"]
    ends = [{"jobStatus": "SUCCEEDED"}, {"jobStatus": "FAILED"}, {"jobDeploymentStatus": "Failed"}]
    for end in ends:
        steps = [rule["policy"] for rule in rules if end.items() <= rule["condition"].items()]
        assert steps == ["DeleteCluster", "DeleteSelf"]
    assert not {"shutdownAfterJobFinishes", "ttlSecondsAfterFinished"} & set(RAYJOB["spec"]), "excluded by the rules"


def test_the_entry_point_is_a_command_that_the_job_takes():
    program, script, *arguments = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert (program, script) == ("python", "/home/adafv/jobs/label.py")
    [mount] = [one for one in PODS["cpu"]["containers"][0]["volumeMounts"] if one["name"] == "nightly"]
    assert f"{mount['mountPath']}/{NIGHTLY.name}" == arguments[arguments.index("--config") + 1]
    options = parse_options(["--config", str(NIGHTLY)], "", EPILOG)
    low, high = options.worker_range() or (0, 0)
    assert options.max_hours is not None and options.max_cost and not options.run_id
    assert options.max_hours * 3600 < RAYJOB["spec"]["activeDeadlineSeconds"], "killed before it ends by itself"
    assert options.engine.device == "cuda" and (low, high) == (1, GROUPS["gpu-spot"]["maxReplicas"])


def test_versions_and_images_are_this_project_s():
    assert CLUSTER["rayVersion"] == ray.__version__
    images = {container["image"] for pod in PODS.values() for container in pod["containers"]}
    assert images == {f"registry.example.com/adafv:{__version__}"}
    assert f"--tag {images.pop()} ." in (ROOT / "cluster" / "Dockerfile").read_text()


@pytest.mark.parametrize("name", PODS)
def test_pods_are_as_kuberay_wants_them(name):
    """KubeRay takes the first container as Ray's, whatever it is called, and replaces its command."""
    [container] = PODS[name]["containers"]
    assert container["name"] == ("ray-head" if name == "head" else "ray-worker")
    assert not {"command", "args"} & set(container)
    assert container["readinessProbe"]["httpGet"] == container["livenessProbe"]["httpGet"]
    assert container["readinessProbe"]["httpGet"] == {"path": "/api/healthz", "port": 52365}
    given, limit = container["resources"]["requests"], container["resources"]["limits"]
    assert given["memory"] == limit["memory"] and "cpu" in given, "Ray counts on what may be taken away"
    volumes = {volume["name"] for volume in PODS[name]["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize("pod", [*PODS.values(), NIGHT], ids=[*PODS, "night"])
def test_nobody_is_root_and_no_secret_is_written_down(pod):
    assert pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 1000
    for container in [*pod.get("initContainers", []), *pod["containers"]]:
        assert container["securityContext"]["allowPrivilegeEscalation"] is False
        assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        assert not any("KEY" in one["name"] or "TOKEN" in one["name"] for one in container.get("env", []))
    accounts = {one["metadata"]["name"] for one in manifests("account.yaml") if one["kind"] == "ServiceAccount"}
    assert pod["serviceAccountName"] in accounts


def test_gpus_are_where_gpu_workers_go():
    """And only they: the taint keeps others off, the request gets one."""
    for name, pod in PODS.items():
        [container] = pod["containers"]
        tolerated = {one["key"] for one in pod.get("tolerations", [])}
        gpu = name.startswith("gpu-")
        assert container["resources"]["limits"].get("nvidia.com/gpu") == (1 if gpu else None)
        assert ("nvidia.com/gpu" in tolerated) == gpu == ("nodeSelector" in pod)
    spot, on_demand = PODS["gpu-spot"], PODS["gpu-on-demand"]
    terms = spot["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]["nodeSelectorTerms"]
    labels = {expression["key"] for term in terms for expression in term["matchExpressions"]}
    assert labels == {one["key"] for one in spot["tolerations"]} - {"nvidia.com/gpu"}
    assert "affinity" not in on_demand and spot["containers"] == on_demand["containers"]


@pytest.fixture
def autoscaling() -> dict[str, Any]:
    """What Ray's autoscaler reads in the RayCluster that KubeRay makes of the RayJob."""
    made = {"metadata": {"name": "adafv-x", "namespace": "default"}, "spec": copy.deepcopy(CLUSTER)}
    return _derive_autoscaling_config_from_ray_cr(made)


def test_rays_autoscaler_starts_from_zero(autoscaling):
    validate_config(autoscaling)
    types = autoscaling["available_node_types"]
    resources = {name: (type["resources"]["CPU"], type["resources"].get("GPU", 0)) for name, type in types.items()}
    assert resources == {"headgroup": (2, 0), "cpu": (7, 0), "gpu-spot": (7, 1), "gpu-on-demand": (7, 1)}
    assert {type["min_workers"] for type in types.values()} == {0}


def test_spot_comes_first_and_what_is_not_to_be_had_second(autoscaling):
    """By Ray's own scheduler: its answer to one GPU asked for, with all to be had, and with spot pods that stayed
    pending. In whatever order the groups stand: among equals the first would come first."""
    types = autoscaling["available_node_types"]
    autoscaling["available_node_types"] = dict(reversed(types.items()))
    assert [launched(autoscaling, without) for without in ((), ("gpu-spot",))] == ["gpu-spot", "gpu-on-demand"]


def launched(config: dict[str, Any], unavailable: tuple[str, ...]) -> str:
    from ray.autoscaler.v2.instance_manager.config import AutoscalingConfig, Provider
    from ray.autoscaler.v2.scheduler import ResourceDemandScheduler, SchedulingRequest
    from ray.autoscaler.v2.utils import ResourceRequestUtil
    from ray.core.generated.autoscaler_pb2 import ResourceRequestByCount

    settings = AutoscalingConfig(config, skip_content_hash=True)
    assert settings.provider == Provider.KUBERAY
    demand = ResourceRequestByCount(request=ResourceRequestUtil.make({"GPU": 1, "CPU": 1}), count=1)
    given = {
        "node_type_configs": settings.get_node_type_configs(),
        "max_num_nodes": settings.get_max_num_nodes(),
        "disable_launch_config_check": True,
        "resource_requests": [demand],
        "current_instances": [],
        "cloud_resource_availabilities": {},
        "recoverable_resource_availabilities": dict.fromkeys(unavailable, 0.0),
    }
    reply = ResourceDemandScheduler(None).schedule(SchedulingRequest(**given))
    [started] = [one.instance_type for one in reply.to_launch if one.instance_type.startswith("gpu")]
    return str(started)
