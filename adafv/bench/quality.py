"""Does pruning hurt, and which strategy hurts least: every strategy and budget on the same questions.

The unpruned model is the yardstick: differences to it are taken question by question, and their intervals cluster by
cluster (`bootstrap`). What the figures mean, and what they don't, is in docs/quality.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from adafv.bench.exam import Contender, Results, Setting, hold, processes
from adafv.bench.examples import ALL, ExampleSource
from adafv.engine import EngineOptions
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pruning import WITH_TEXT_TOWER
from adafv.scoring.bootstrap import Bootstrap
from adafv.worlds.drawn.score import CAPTION

UNPRUNED = "none"
SMALL = "small"
FIRST, LAST = (ALL, SMALL, "several", "large", "scene"), (CAPTION,)  # question types, where a table begins and ends
HEADLINES = (ALL, SMALL, CAPTION)  # those that get a table of their own
TITLES = {ALL: "all questions", SMALL: "small objects", CAPTION: "captions"}
Measure = Callable[[str], str]  # what the accuracy on questions of a type is


@dataclass(frozen=True)
class Entry:
    """One strategy at one budget on one type of questions. Intervals hold 95 %; shares are from 0 to 1.

    Attributes:
        n: how many questions there are.
        accuracy, low, high: mean of what the answers are worth, and its interval.
        difference, difference_low, difference_high: to what it is compared with, on the same questions: the unpruned
            model, or, in an ablation, the corrected rule.
        agreement: share of the answers that are the unpruned model's, word for word.
        select_ms: mean time to prune a sample: to select its tokens and to put together what the model reads.
        kept_tokens: mean number of visual tokens that the model read.
    """

    strategy: str
    keep: float
    question_type: str
    n: int
    accuracy: float
    low: float
    high: float
    difference: float
    difference_low: float
    difference_high: float
    agreement: float
    select_ms: float
    kept_tokens: float


def run(
    job: JobOptions,
    source: ExampleSource,
    strategies: Sequence[str],
    keeps: Sequence[float],
    seed: int,
    text_tower: str | None = None,
) -> tuple[list[Entry], str]:
    """Compare the strategies on the source's questions: the figures, and a table of them.

    Raises:
        UsageError: a text tower that none of the strategies reads; or as for `hold`.
    """
    rivals = contenders(job.engine, strategies, keeps, text_tower)
    if text_tower is not None and all(rival.options.text_tower is None for rival in rivals):
        raise UsageError(f"--text-tower is read by {', '.join(WITH_TEXT_TOWER)} only, and none of them is compared")
    results = hold(Setting.of(job, rivals, source.batch_size), source.examples(), processes(job, source))
    found = entries(results, rivals, seed)
    text = table(found, source.measure)
    return found, "\n".join([f"{source.title}, {job.model}", "", text, *results.skipped_lines()])


def contenders(
    options: EngineOptions, strategies: Sequence[str], keeps: Sequence[float], text_tower: str | None = None
) -> tuple[Contender, ...]:
    """The unpruned model, then each strategy at each budget; the rest of `options` they have in common, but for the
    text tower, which only those have that read it.
    """
    pairs = [(UNPRUNED, 1.0), *((strategy, keep) for strategy in strategies for keep in keeps)]
    towers = dict.fromkeys(WITH_TEXT_TOWER, text_tower)
    return tuple(
        Contender(name, replace(options, strategy=name, keep=keep, text_tower=towers.get(name))) for name, keep in pairs
    )


def entries(results: Results, contenders: Sequence[Contender], seed: int, baseline: int = 0) -> list[Entry]:
    """Every contender on every type of questions, in that order, compared with the contender number `baseline`."""
    bootstrap = Bootstrap(results.clusters, seed)
    types = {type_: results.of_type(type_) for type_ in results.types(FIRST, LAST)}
    return [
        _entry(results, bootstrap, contender, type_, chosen, column, baseline)
        for column, contender in enumerate(contenders)
        for type_, chosen in types.items()
    ]


def _entry(
    results: Results,
    bootstrap: Bootstrap,
    contender: Contender,
    type_: str,
    chosen: np.ndarray,
    column: int,
    baseline: int,
) -> Entry:
    points = results.points[:, column]
    mean, difference = bootstrap.mean(points, chosen), bootstrap.difference(points, results.points[:, baseline], chosen)
    return Entry(
        strategy=contender.name,
        keep=contender.options.keep,
        question_type=type_,
        n=int(chosen.sum()),
        accuracy=mean.value,
        low=mean.low,
        high=mean.high,
        difference=difference.value,
        difference_low=difference.low,
        difference_high=difference.high,
        agreement=float(results.agrees[chosen, column].mean()),
        select_ms=float(results.select_ms[chosen, column].mean()),
        kept_tokens=float(results.kept_tokens[chosen, column].mean()),
    )


def table(found: Sequence[Entry], measure: Measure) -> str:
    """For each headline its strategies by budget; then, for each budget, its strategies by type of question."""
    present = [type_ for type_ in HEADLINES if any(entry.question_type == type_ for entry in found)]
    parts = [_by_budget([entry for entry in found if entry.question_type == type_], measure) for type_ in present]
    keeps = dict.fromkeys(entry.keep for entry in found if entry.strategy != UNPRUNED)
    parts += [_by_type([entry for entry in found if entry.keep == keep or entry.strategy == UNPRUNED], keep)
              for keep in keeps]  # fmt: skip
    return "\n\n".join([*parts, "* the interval of the difference to the unpruned model lies below 0"])


def _by_budget(found: Sequence[Entry], measure: Measure) -> str:
    """Strategies x budgets, for one type of questions."""
    unpruned = found[0]
    title = f"{TITLES.get(unpruned.question_type, unpruned.question_type)}: {unpruned.n}"
    keeps = list(dict.fromkeys(entry.keep for entry in found[1:]))
    lines = [
        f"{title}; {measure(unpruned.question_type)}, % [95 % interval]; unpruned {_cell(unpruned).strip()}",
        f"{'kept':<14}" + "".join(f"{keep:>20.3g} " for keep in keeps),
    ]
    for strategy in dict.fromkeys(entry.strategy for entry in found[1:]):
        cells = {entry.keep: _cell(entry) for entry in found[1:] if entry.strategy == strategy}
        lines.append(f"{strategy:<14}" + "".join(f"{cells[keep]:>21}" for keep in keeps))
    return "\n".join(lines)


def _cell(entry: Entry) -> str:
    mark = "*" if entry.difference_high < 0 else " "
    return f"{100 * entry.accuracy:.1f} [{100 * entry.low:.1f}, {100 * entry.high:.1f}]{mark}"


def _by_type(found: Sequence[Entry], keep: float) -> str:
    """Strategies x types of questions, for one budget, the unpruned model above."""
    types = list(dict.fromkeys(entry.question_type for entry in found))
    columns = "".join(f"{type_[:8]:>9}" for type_ in types)
    lines = [
        f"{100 * keep:.3g} % kept, by type of question",
        f"{'':<14}{columns}{'agreement':>11}{'tokens':>8}{'select ms':>11}",
    ]
    for strategy in dict.fromkeys(entry.strategy for entry in found):
        row = [entry for entry in found if entry.strategy == strategy]
        cells = "".join(f"{100 * entry.accuracy:>9.1f}" for entry in row)
        costs = f"{100 * row[0].agreement:>11.1f}{row[0].kept_tokens:>8.1f}{row[0].select_ms:>11.2f}"
        lines.append(f"{strategy:<14}{cells}{costs}")
    return "\n".join(lines)
