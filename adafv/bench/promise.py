"""Whether a calibrated cascade of two looks keeps its promise, and what it saves.

All questions are answered unpruned and at each budget, once. Then a calibration is repeated: some rows are drawn, the
cheapest cascade is chosen by them (`adafv.calibration.cascades`), and the other rows say what it is worth: the share of
repetitions in which these agree as demanded, and the positions that the language model takes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adafv.bench.exam import BATCHES, Contender, Examiner, Setting, chunks
from adafv.bench.examples import Example, ExampleSource, Skipped
from adafv.bench.table import table
from adafv.calibration.cascades import BudgetAnswers, Cascade, CascadeFamily, cheapest, family
from adafv.calibration.demand import Demand
from adafv.engine import Label
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.scoring.agreement import AGREEMENTS
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
    clusters, looks = ask(job, drawn(source, terms), source.batch_size, keeps)
    rows = len(clusters)
    if rows <= terms.sample:
        raise UsageError(f"--sample is {terms.sample}; there are {rows} questions, and some must be left over")
    found = repeat(clusters, looks, terms)
    curves = [_curve(look, looks[0]) for look in looks[1:]]
    figures = {"rows": rows, "promise": asdict(found), "curves": curves}
    title = f"{source.title}, {job.model}, {job.engine.strategy}: {rows} questions"
    return figures, "\n".join([title, "", *_curve_lines(curves, found.unpruned), "", *_lines(found)])


def summary(worlds: Sequence[dict[str, Any]]) -> str:
    """A line for each world."""
    columns = {"": "<18", "kept, %": "9.1f", "agreement": "11.4f", "least": "8.4f", "again, %": "10.1f"}
    columns |= {"prompt tokens, % of unpruned": "30.1f"}
    found = [(world["world"], world["promise"]) for world in worlds]
    return table(
        columns,
        [
            (name, 100 * one["kept"] / one["chosen"], one["agreement"], one["worst"], 100 * one["escalated_share"],
             100 * one["prompt_tokens"] / one["unpruned"])
            for name, one in found
        ],
    )  # fmt: skip


def drawn(source: ExampleSource, terms: Terms) -> Iterator[Example | Skipped]:
    """Some of the rows, at random: so that they are on many pictures, as a user's sample is."""
    found = list(source.examples())
    order = np.random.default_rng(terms.seed).permutation(len(found))[: terms.rows]
    yield from (found[place] for place in sorted(order))


def ask(
    job: JobOptions, rows: Iterable[Example | Skipped], batch_size: int, keeps: Sequence[float]
) -> tuple[list[str], list[BudgetAnswers]]:
    """The cluster of each question, and the looks as a calibration has them, the unpruned one first. Rows that can't be
    asked are left out.

    Raises UsageError as `exam.Setting.check` does.
    """
    contenders = [Contender("none", replace(job.engine, strategy="none", keep=1.0))]
    contenders += [Contender(job.engine.strategy, replace(job.engine, keep=keep)) for keep in keeps]
    setting = Setting.of(job, contenders, batch_size)
    setting.check()
    examiner = Examiner(setting)
    clusters: list[str] = []
    labels: list[list[Label]] = [[] for _ in contenders]
    for chunk in chunks(rows, BATCHES * setting.batch_size):
        fit, found, _ = examiner.labels([one for one in chunk if isinstance(one, Example)])
        clusters += [example.cluster for example in fit]
        for known, more in zip(labels, found, strict=True):
            known += more
    return clusters, [look_of(keep, some, labels[0]) for keep, some in zip((1.0, *keeps), labels, strict=True)]


def look_of(keep: float, labels: Sequence[Label], unpruned: Sequence[Label]) -> BudgetAnswers:
    agree = AGREEMENTS["normalised"]
    agrees = np.array([agree(one.answer, other.answer) for one, other in zip(labels, unpruned, strict=True)])
    prompts = np.array([label.prompt_tokens for label in labels])
    return BudgetAnswers(
        keep=keep,
        scores=agrees,
        agrees=agrees,
        right=None,
        confidence=np.array([label.mean_logprob for label in labels]),
        tokens=prompts + np.array([label.output_tokens for label in labels]),
        prompt_tokens=prompts,
        seconds=0.0,
        again=0.0,
    )


def repeat(questions: Sequence[str], looks: Sequence[BudgetAnswers], terms: Terms) -> Promise:
    """Calibrate again and again. `questions`: the cluster of each."""
    clusters, random, rows = np.array(questions), np.random.default_rng(terms.seed), len(questions)
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
    columns = {"kept": "<8.3g"} | {f"{100 * share:.0f} %": "14" for share in SHARES}
    cells = [
        [f"{100 * point['agreement']:.1f} / {point['prompt_tokens']:.0f}" for point in curve["points"]]
        for curve in curves
    ]
    return [
        f"agreement, % / prompt tokens a question ({unpruned:.0f} unpruned), by the share asked again unpruned",
        table(columns, [(100 * curve["keep"], *some) for curve, some in zip(curves, cells, strict=True)]),
    ]


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
