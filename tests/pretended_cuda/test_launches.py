"""Launch budgets: how many kernels a batch launches on a pretended GPU, stage by stage. Each costs the host some 5 µs,
in which a fast GPU would have done more.

A budget is what was counted, and a tenth. Who lowers a number, lowers its budget.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from adafv.engine import Engine, EngineOptions, Preparer, load_model
from adafv.engine.stopwatch import Stopwatch
from adafv.pruning import STRATEGIES
from tests.models.conftest import picture
from tests.pretended_cuda.device import World, pretended_cuda
from tests.tiny_models import build

SIZES = [(64, 64), (30, 61), (97, 40), (64, 64)]
STEPS = 5


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("next"))


def counted(path: Path, strategy: str = "adafv-plus", rows: int = 4, keep: float = 0.2) -> dict[str, int]:
    """The launches of each stage of a batch; of `select`, the strategy's own part of `prune`; and of a `step`."""
    options = EngineOptions(device="cuda", dtype="float32", strategy=strategy, keep=keep, max_new_tokens=STEPS)
    with pretended_cuda() as world, pytest.MonkeyPatch.context() as patch:
        adapter, processing = load_model(str(path), options)
        chosen = STRATEGIES[strategy]
        selecting: list[int] = []

        def select(*given):
            before = world.launches
            out = chosen.select(*given)
            selecting.append(world.launches - before)
            return out

        engine = Engine(adapter, processing, options, strategy=replace(chosen, rule=select))
        preparer = Preparer(processing, options)
        samples = [preparer.prepare(str(i), picture(SIZES[i % 4], i), "w1 w2 " * (i % 3 + 1)) for i in range(rows)]
        engine.label(samples[::-1])  # what is uploaded once
        laps = Laps(world, patch)
        engine.label(samples)
    return laps.launches | {"select": selecting[-1], "step": laps.launches["decode"] // STEPS}


class Laps:
    """The launches of each stage that a stopwatch sees."""

    def __init__(self, world: World, patch: pytest.MonkeyPatch) -> None:
        self.launches: dict[str, int] = {}
        lap, before = Stopwatch.lap, world.launches

        def counting(watch: Stopwatch, stage: str) -> None:
            nonlocal before
            self.launches[stage] = world.launches - before
            before = world.launches
            lap(watch, stage)

        patch.setattr(Stopwatch, "lap", counting)


STAGES = {"encode": 56, "prune": 581, "prefill": 187, "step": 90}  # 3 layers' tower and 2 layers' language model
SELECTIONS = {
    "none": 2,
    "random": 37,
    "uniform": 29,
    "saliency": 34,
    "text": 34,
    "adafv": 109,
    "adafv-paper": 89,
    "visionzip": 105,
    "divprune": 228,
    "cdpruner": 504,
    "eadp": 350,
    "eadp-code": 357,
    "scope": 328,
    "adafv-plus": 470,
}
ROOM = 1.1


def test_stages(path):
    found = counted(path)
    assert {name: found[name] for name, count in STAGES.items() if found[name] > ROOM * count} == {}


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_selections(strategy, path):
    assert counted(path, strategy)["select"] <= ROOM * SELECTIONS[strategy]


def test_larger_batches_launch_no_more(path):
    """Rows go through a selection, the tower and a step together."""
    some, more = counted(path, rows=4), counted(path, rows=8)
    for name in ("encode", "select", "step"):
        assert more[name] <= some[name], name
