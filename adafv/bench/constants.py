"""Choosing the constants of `adafv-plus` over worlds, and judging each choice in a world that it hasn't seen.

Every set of constants in `SPACE` answers the same questions as every other strategy, in each world. A set's lead there
is how far it is above the best other strategy, in points, as a mean over budgets and over `MEASURES`. The choice is the
set with the largest sum of its mean lead over the worlds and its worst. For each world, a set is chosen on all worlds
but that one, and judged on other scenes of that one. What the strategy holds is the choice over all worlds together,
and the table of the worlds left out is the evidence for it.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from adafv.bench.exam import Contender, Results, Setting, hold, processes
from adafv.bench.examples import ALL, Scenes
from adafv.bench.quality import UNPRUNED, job_in, present
from adafv.bench.table import table as text_table
from adafv.pipeline.options import JobOptions
from adafv.pruning import STRATEGIES, Strategy
from adafv.pruning.adafv_plus import Constants
from adafv.pruning.strategies import adafv_plus
from adafv.worlds.drawn.score import CAPTION
from adafv.worlds.registry import World

RULE = "adafv-plus"
MEASURES = (ALL, "large", CAPTION)  # questions, those about the large object, captions; all weigh the same
RIVALS = ("random", "uniform", "saliency", "adafv", "divprune", "cdpruner", "eadp", "scope")
DISCOUNTS = ((12.0, 0.0), (6.0, 0.0), (2.5, 0.5), (1.6, 0.5), (1.2, 0.5))  # c, e
SPACE = tuple(
    Constants(discount=discount, exponent=exponent, saliency=saliency)
    for (discount, exponent), saliency in itertools.product(DISCOUNTS, (0.5, 1.0, 2.0, 4.0))
)
FORMER = Constants(discount=12.0, exponent=0.0, saliency=0.5)  # the default until 2026-11-29, tuned in one world
JUDGED = 1_000_000  # from which scene on choices are judged


@dataclass(frozen=True, kw_only=True, eq=False)
class Trial:
    """Some sets of constants beside the strategies, in one world.

    Attributes:
        rivals: [K, R, M], the mean of what answers are worth by budget, strategy and measure.
        sets: [K, S, M], likewise of the sets of constants.
        unpruned: [M].
    """

    world: str
    rivals: np.ndarray
    sets: np.ndarray
    unpruned: np.ndarray

    @property
    def leads(self) -> np.ndarray:
        """[K, S, M]: how far each set is above the best strategy; NaN where there are no such questions."""
        return self.sets - self.rivals.max(axis=1, keepdims=True)


def run(
    job: JobOptions, worlds: Sequence[World], scenes: int | None, keeps: Sequence[float], seed: int
) -> tuple[list[dict[str, Any]], str]:
    """Choose and judge: a row for each world left out, budget and measure, and a table of them with the choice on all.

    Args:
        worlds: those that aren't there are left out, as in `quality.in_worlds`.
        scenes: of each world, from its `seed`-th on for choosing, and from the `seed` + `JUDGED`-th on for judging; as
            many as the world says, if left out.
    """
    worlds = present(worlds)
    tried = [trial(job, world, scenes, keeps, seed, SPACE) for world in worlds]
    final = choose(tried)
    rows: list[dict[str, Any]] = []
    for number, world in enumerate(worlds):
        others = tried[:number] + tried[number + 1 :]
        unseen = choose(others) if others else final
        judged = trial(job, world, scenes, keeps, seed + JUDGED, (unseen, Constants(), FORMER))
        rows += [{"world": world.name, **asdict(unseen), **figures} for figures in _figures(judged, keeps)]
    return rows, "\n".join([table(rows), "", f"chosen on all worlds: {final}"])


def trial(
    job: JobOptions, world: World, scenes: int | None, keeps: Sequence[float], seed: int, sets: Sequence[Constants]
) -> Trial:
    """Ask the world's questions."""
    job = job_in(world, job)
    source = Scenes(world.scenes if scenes is None else scenes, seed, world)
    contenders = [Contender(UNPRUNED, replace(job.engine, strategy=UNPRUNED, keep=1.0))]
    for keep in keeps:
        contenders += [Contender(name, replace(job.engine, strategy=name, keep=keep)) for name in RIVALS]
        contenders += [Contender(RULE, replace(job.engine, strategy=RULE, keep=keep), _rule(each)) for each in sets]
    results = hold(Setting.of(job, contenders, source.batch_size), source.examples(), processes(job, source))
    unpruned, *pruned = _means(results)
    by_budget = np.array(pruned).reshape(len(keeps), -1, len(MEASURES))
    rivals, own = np.split(by_budget, [len(RIVALS)], axis=1)
    return Trial(world=world.name, rivals=rivals, sets=own, unpruned=unpruned)


def _rule(constants: Constants) -> Strategy:
    return Strategy(RULE, partial(adafv_plus, constants=constants), STRATEGIES[RULE].needs)


def _means(results: Results) -> np.ndarray:
    """[C, M]: in points; NaN where there are no questions of a measure."""
    chosen = [results.of_type(measure) for measure in MEASURES]
    return 100 * np.stack(
        [
            results.points[rows].mean(axis=0) if rows.any() else np.full(results.points.shape[1], np.nan)
            for rows in chosen
        ],
        axis=1,
    )


def choose(trials: Sequence[Trial]) -> Constants:
    """The set with the largest sum of its mean lead over the worlds and its worst; among equals the first."""
    leads = np.array([np.nanmean(each.leads, axis=(0, 2)) for each in trials])  # [W, S]
    return SPACE[int(np.argmax(leads.mean(axis=0) + leads.min(axis=0)))]


def _figures(judged: Trial, keeps: Sequence[float]) -> Iterator[dict[str, Any]]:
    """For each budget and measure: the choice, the default and the former one, the best strategy, in points."""
    for (k, keep), (m, measure) in itertools.product(enumerate(keeps), enumerate(MEASURES)):
        rivals = judged.rivals[k, :, m]
        if not np.isnan(rivals).any():
            best = int(rivals.argmax())
            yield {
                "keep": keep,
                "measure": measure,
                "unpruned": float(judged.unpruned[m]),
                "chosen": float(judged.sets[k, 0, m]),
                "default": float(judged.sets[k, 1, m]),
                "former": float(judged.sets[k, 2, m]),
                "best_strategy": RIVALS[best],
                "best": float(rivals[best]),
                "random": float(rivals[RIVALS.index("random")]),
            }


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """A line for each world, budget and measure."""
    numbers = ("unpruned", "chosen", "default", "former", "random")
    columns = {"world": "<16", "keep": "6.2f", "measure": "10", **dict.fromkeys(numbers, "9.1f"), "best": "18"}
    cells = [
        (row["world"], row["keep"], row["measure"], *(row[name] for name in numbers),
         f"{row['best']:.1f} {row['best_strategy']}")
        for row in rows
    ]  # fmt: skip
    return text_table(columns, cells)
