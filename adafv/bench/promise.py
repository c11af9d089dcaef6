"""Whether a calibrated cascade of two looks keeps its promise, and what it saves.

All questions are answered unpruned and at each budget, once. Then a calibration is repeated: some rows are drawn, the
cheapest cascade is chosen by them (`adafv.calibration.cascades`), and the other rows say what it is worth: the share of
repetitions in which these agree as demanded, and the positions that the language model takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from adafv.bench.confidence import disagrees
from adafv.bench.examples import Example, ExampleSource, Skipped
from adafv.bench.signals import Survey, ask
from adafv.calibration.cascades import BudgetAnswers, Cascade, CascadeFamily, cheapest, family
from adafv.calibration.demand import Demand
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.scoring.bounds import Bounds

BOUND_DRAWS = 2_000  # a fifth of a calibration's, of which there is one
SHARES = (0.0, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)  # of second looks, in the table


@dataclass(frozen=True)
class Terms:
    """How often to calibrate, on how many of how many rows, for which agreement."""

    demand: float
    rows: int
    sample: int
    repeats: int
    seed: int


@dataclass(frozen=True)
class Drawn:
    """Some of a source's rows, at random: so that they are on many pictures, as a user's sample is."""

    source: ExampleSource
    rows: int
    seed: int

    split = True

    @property
    def title(self) -> str:
        return self.source.title

    @property
    def batch_size(self) -> int:
        return self.source.batch_size

    def measure(self, type_: str) -> str:
        return self.source.measure(type_)

    def examples(self) -> Iterator[Example | Skipped]:
        found = list(self.source.examples())
        order = np.random.default_rng(self.seed).permutation(len(found))[: self.rows]
        yield from (found[place] for place in sorted(order))


@dataclass(frozen=True)
class Promise:
    """What became of the repetitions.

    Attributes:
        chosen: in how many a cascade was chosen; `kept`: in how many of these the other rows agree as demanded.
        agreement, worst: of the other rows, on average and at least.
        escalated_share, prompt_tokens: of the other rows, on average; `unpruned`: prompt tokens without pruning.
        keeps: how often each first keep ratio was chosen.
    """

    demand: float
    sample: int
    repeats: int
    chosen: int
    kept: int
    agreement: float
    worst: float
    escalated_share: float
    prompt_tokens: float
    unpruned: float
    keeps: dict[str, int]


def run(job: JobOptions, source: ExampleSource, keeps: Sequence[float], terms: Terms) -> tuple[dict[str, Any], str]:
    """The figures, and a table of them."""
    survey = ask(job, job.engine, Drawn(source, terms.rows, terms.seed), keeps)
    rows = len(survey.ids)
    if rows <= terms.sample:
        raise UsageError(f"--sample is {terms.sample}; there are {rows} questions, and some must be left over")
    looks, found = looks_of(survey), repeat(survey, terms)
    curves = [_curve(look, looks[0]) for look in looks[1:]]
    figures = {"rows": rows, "promise": asdict(found), "curves": curves}
    title = f"{source.title}, {job.model}, {job.engine.strategy}: {rows} questions"
    return figures, "\n".join([title, "", *_curve_lines(curves, found.unpruned), "", *_lines(found)])


def summary(worlds: Sequence[dict[str, Any]]) -> str:
    """A line for each world."""
    lines = [f"{'':<18}{'kept, %':>9}{'agreement':>11}{'least':>8}{'again, %':>10}{'prompt tokens, % of unpruned':>30}"]
    for world in worlds:
        found = world["promise"]
        lines.append(
            f"{world['world']:<18}{100 * found['kept'] / found['chosen']:>9.1f}{found['agreement']:>11.4f}"
            f"{found['worst']:>8.4f}{100 * found['escalated_share']:>10.1f}"
            f"{100 * found['prompt_tokens'] / found['unpruned']:>30.1f}"
        )
    return "\n".join(lines)


def looks_of(survey: Survey) -> list[BudgetAnswers]:
    """The looks as a calibration has them, the unpruned one first."""
    unpruned = survey.looks[0]
    return [
        BudgetAnswers(
            keep=look.keep,
            scores=1 - disagrees(look, unpruned),
            agrees=1 - disagrees(look, unpruned),
            right=None,
            confidence=look.signals["mean_logprob"],
            tokens=look.tokens,
            prompt_tokens=look.prompt_tokens,
            seconds=0.0,
            again=0.0,
        )
        for look in survey.looks
    ]


def repeat(survey: Survey, terms: Terms) -> Promise:
    """Calibrate again and again."""
    looks, clusters = looks_of(survey), np.array(survey.clusters)
    random, rows = np.random.default_rng(terms.seed), len(clusters)
    cascades: list[Cascade] = []
    values: list[tuple[float, float, float]] = []
    for number in range(terms.repeats):
        drawn = np.zeros(rows, dtype=bool)
        drawn[random.choice(rows, terms.sample, replace=False)] = True
        bounds = Bounds(clusters[drawn].tolist(), number, BOUND_DRAWS)
        cascade = cheapest(families([_some(look, drawn) for look in looks], bounds, terms.demand))
        if cascade is not None:
            first = next(look for look in looks if look.keep == cascade.keep)
            cascades.append(cascade)
            values.append(_worth(cascade, _some(first, ~drawn), _some(looks[0], ~drawn)))
    if not cascades:
        raise UsageError(f"none of {terms.repeats} samples of {terms.sample} shows an agreement of {terms.demand:g}")
    agreement, share, prompt = np.array(values).T
    return Promise(
        demand=terms.demand,
        sample=terms.sample,
        repeats=terms.repeats,
        chosen=len(cascades),
        kept=int((agreement >= terms.demand).sum()),
        agreement=float(agreement.mean()),
        worst=float(agreement.min()),
        escalated_share=float(share.mean()),
        prompt_tokens=float(prompt.mean()),
        unpruned=float(looks[0].prompt_tokens.mean()),
        keeps={f"{keep:g}": count for keep, count in sorted(Counter(cascade.keep for cascade in cascades).items())},
    )


def families(looks: Sequence[BudgetAnswers], bounds: Bounds, demand: float) -> list[CascadeFamily]:
    """Each budget with an unpruned second look; the first of `looks` is the unpruned one."""
    unpruned, *first = looks
    asked = Demand("normalised", demand)
    return [family("", look, unpruned, bounds, asked, len(first)) for look in first]


def _some(look: BudgetAnswers, chosen: np.ndarray) -> BudgetAnswers:
    arrays = {
        name: getattr(look, name)[chosen] for name in ("scores", "agrees", "confidence", "tokens", "prompt_tokens")
    }
    return BudgetAnswers(keep=look.keep, right=None, seconds=look.seconds, again=look.again, **arrays)


def _worth(cascade: Cascade, first: BudgetAnswers, second: BudgetAnswers) -> tuple[float, float, float]:
    """Agreement, share of second looks, and prompt tokens a sample."""
    again = first.confidence < cascade.threshold
    agrees = np.where(again, second.agrees, first.agrees)
    return float(agrees.mean()), float(again.mean()), float((first.prompt_tokens + again * second.prompt_tokens).mean())


def _curve(look: BudgetAnswers, unpruned: BudgetAnswers) -> dict[str, Any]:
    """Agreement and prompt tokens by the share of the least sure that is asked again."""
    order, points = np.argsort(look.confidence, kind="stable"), []
    for share in SHARES:
        again = np.zeros(len(order), dtype=bool)
        again[order[: round(share * len(order))]] = True
        agrees = np.where(again, unpruned.agrees, look.agrees).mean()
        tokens = (look.prompt_tokens + again * unpruned.prompt_tokens).mean()
        points.append({"share": share, "agreement": float(agrees), "prompt_tokens": float(tokens)})
    return {"keep": look.keep, "points": points}


def _curve_lines(curves: Sequence[dict[str, Any]], unpruned: float) -> list[str]:
    lines = [
        f"agreement, % / prompt tokens a question ({unpruned:.0f} unpruned), by the share asked again unpruned",
        f"{'kept':<8}" + "".join(f"{f'{100 * share:.0f} %':>14}" for share in SHARES),
    ]
    for curve in curves:
        cells = [f"{100 * point['agreement']:.1f} / {point['prompt_tokens']:.0f}" for point in curve["points"]]
        lines.append(f"{100 * curve['keep']:<8.3g}" + "".join(f"{cell:>14}" for cell in cells))
    return lines


def _lines(found: Promise) -> list[str]:
    times = ", ".join(f"{count} times {keep}" for keep, count in found.keeps.items())
    return [
        f"{found.repeats} calibrations on {found.sample} questions each, for an agreement of {found.demand:g}: "
        f"a cascade in {found.chosen}, first keep ratio {times}",
        f"on the other questions it is kept in {found.kept} ({100 * found.kept / found.chosen:.1f} %): they agree "
        f"{found.agreement:.4f} on average, {found.worst:.4f} at least",
        f"{100 * found.escalated_share:.1f} % are asked again; {found.prompt_tokens:.1f} prompt tokens a question, "
        f"{100 * found.prompt_tokens / found.unpruned:.1f} % of the unpruned {found.unpruned:.1f}",
    ]
