"""A labelling job for GPUs on machines that have none: Ray hands out GPUs that are numbers, and the model runs on CPUs.

    python -c 'from tests.cluster.pretended_gpus import main; main()' --input … --output …

The rest is the real job: its options, reservations, stages, sink.
"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import ray

from adafv.pipeline.control.session import ray_session
from adafv.pipeline.isolation import Handler
from adafv.pipeline.run import run
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from tests.parsing import parse_options


def on_cpu(options: WorkerOptions) -> Handler:
    return Labelling(replace(options, engine=replace(options.engine, device="cpu", dtype="float32")))


def main() -> None:
    options = parse_options(sys.argv[1:], "", "")
    with ray_session():
        before = ray.cluster_resources()
        between = ray.get(ray.remote(num_cpus=4)(ray.cluster_resources).remote())  # more CPUs than the head has
        print(run(options, on_cpu).run.table())
        print("resources:", json.dumps([before, between, ray.cluster_resources()]))
