"""Does pruning hurt, and which strategy hurts least: every strategy and budget on the same questions.

The unpruned model is the yardstick: differences to it are taken question by question, and their intervals cluster by
cluster (`bootstrap`). What the figures mean, and what they don't, is in docs/quality.md.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from adafv.bench.bootstrap import Bootstrap
from adafv.bench.exam import Contender, Results, Setting, hold, processes
from adafv.bench.examples import ALL, HALLUCINATED, RECALLED, ExampleSource, Scenes
from adafv.bench.table import table as text_table
from adafv.engine import EngineOptions
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pruning import WITH_TEXT_TOWER
from adafv.worlds.drawn.score import CAPTION
from adafv.worlds.registry import WORLDS, World

LOG = logging.getLogger("adafv")
UNPRUNED = "none"
RESIZED = "resize"  # no strategy: the model is shown a smaller picture, and nothing is pruned
SMALL = "small"
FIRST = (ALL, SMALL, "several", "large", "scene")  # question types with which a table begins
LAST = (CAPTION, HALLUCINATED, RECALLED)  # and ends
HEADLINES = (ALL, SMALL, CAPTION)  # those that are drawn
TABLES = (*HEADLINES, HALLUCINATED, RECALLED)  # those that get a table of their own
TITLES = {ALL: "all questions", SMALL: "small objects", CAPTION: "captions"}
Measure = Callable[[str], str]  # what the accuracy on questions of a type is


@dataclass(frozen=True)
class Entry:
    """One strategy at one budget on one type of questions. Intervals hold 95 %; shares are from 0 to 1.

    Attributes:
        n: how many questions there are.
        accuracy, low, high: mean of what the answers are worth, and its interval.
        difference, difference_low, difference_high: to the unpruned model on the same questions.
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

    @property
    def good(self) -> int:
        """1 where more is better, else -1."""
        return -1 if self.question_type == HALLUCINATED else 1

    @property
    def is_worse(self) -> bool:
        """Than the unpruned model: all of the difference's interval is."""
        return self.difference_low > 0 if self.good < 0 else self.difference_high < 0


@dataclass(frozen=True, kw_only=True)
class Contest:
    """Every strategy and budget on the questions of one source.

    Attributes:
        skipped: what to say of rows that could not be asked.
    """

    source: ExampleSource
    model: str
    entries: Sequence[Entry]
    skipped: Sequence[str]

    @property
    def title(self) -> str:
        return f"{self.source.title}, {self.model}"

    @property
    def world(self) -> str:
        """The world's name, or where a user's data lies."""
        return self.source.of.name if isinstance(self.source, Scenes) else self.source.title

    def rows(self) -> list[dict[str, Any]]:
        """The entries, with the world and the model that they are of."""
        return [{"world": self.world, "model": self.model, **asdict(entry)} for entry in self.entries]

    def text(self) -> str:
        return "\n".join([self.title, "", table(self.entries, self.source.measure), *self.skipped])


def run(
    job: JobOptions,
    source: ExampleSource,
    strategies: Sequence[str],
    keeps: Sequence[float],
    seed: int,
    text_tower: str | None = None,
) -> Contest:
    """Compare the strategies on the source's questions.

    Raises:
        UsageError: a text tower that none of the strategies reads; or as for `hold`.
    """
    rivals = contenders(job.engine, strategies, keeps, text_tower)
    if text_tower is not None and all(rival.options.text_tower is None for rival in rivals):
        raise UsageError(f"--text-tower is read by {', '.join(WITH_TEXT_TOWER)} only, and none of them is compared")
    results = hold(Setting.of(job, rivals, source.batch_size), source.examples(), processes(job, source))
    found = entries(results, rivals, seed)
    return Contest(source=source, model=job.model, entries=found, skipped=results.skipped_lines())


def in_worlds(
    job: JobOptions,
    worlds: Sequence[World],
    scenes: int | None,
    strategies: Sequence[str],
    keeps: Sequence[float],
    seed: int,
) -> Iterator[Contest]:
    """Compare the strategies in each world that is there, with its own model; of the others say what they lack.

    Args:
        scenes: of each world, its `seed`-th first; as many as the world says, if left out.

    Raises:
        UsageError: none is there; or as for `hold`.
    """
    for world in present(worlds):
        source = Scenes(world.scenes if scenes is None else scenes, seed, world)
        yield run(job_in(world, job), source, strategies, keeps, seed)


def present(worlds: Sequence[World]) -> list[World]:
    """Those of the worlds that are there; of the others it is said what they lack.

    Raises:
        UsageError: none is there.
    """
    lacking = {world.name: reason for world in worlds if (reason := world.missing()) is not None}
    lines = [f"world {name} is skipped: {reason}" for name, reason in lacking.items()]
    if len(lacking) == len(worlds):
        raise UsageError("\n".join(["there is no world to compare in", *lines]))
    for line in lines:
        LOG.warning(line)
    return [world for world in worlds if world.name not in lacking]


def job_in(world: World, job: JobOptions) -> JobOptions:
    """`job` with the world's own model, and in its dtype where the job leaves that open."""
    dtype = world.dtype if job.engine.dtype == "auto" else job.engine.dtype
    return job.changed(model=world.model, dtype=dtype)


def parse_worlds(text: str) -> list[World]:
    """Names of worlds, comma-separated, in the registry's order; `all` for all of them."""
    names = list(WORLDS) if text == "all" else text.split(",")
    if unknown := [name for name in names if name not in WORLDS]:
        raise UsageError(f"--worlds names {', '.join(map(repr, unknown))}; there are {', '.join(WORLDS)}, and 'all'")
    return [world for name, world in WORLDS.items() if name in names]


def contenders(
    options: EngineOptions, strategies: Sequence[str], keeps: Sequence[float], text_tower: str | None = None
) -> tuple[Contender, ...]:
    """The unpruned model, then each strategy at each budget; the rest of `options` they have in common, but for the
    text tower, which only those have that read it.
    """
    pairs = [(UNPRUNED, 1.0), *((strategy, keep) for strategy in strategies for keep in keeps)]
    towers = dict.fromkeys(WITH_TEXT_TOWER, text_tower)
    return tuple(
        Contender(name, replace(options, strategy=UNPRUNED, keep=keep, text_tower=None), resized=True)
        if name == RESIZED
        else Contender(name, replace(options, strategy=name, keep=keep, text_tower=towers.get(name)))
        for name, keep in pairs
    )


def entries(results: Results, contenders: Sequence[Contender], seed: int) -> list[Entry]:
    """Every contender on every type of questions, in that order, compared with the first."""
    bootstrap = Bootstrap(results.clusters, seed)
    types = {type_: results.of_type(type_) for type_ in results.types(FIRST, LAST)}
    return [
        _entry(results, bootstrap, contender, type_, chosen, column)
        for column, contender in enumerate(contenders)
        for type_, chosen in types.items()
    ]


def _entry(
    results: Results, bootstrap: Bootstrap, contender: Contender, type_: str, chosen: np.ndarray, column: int
) -> Entry:
    points = results.points[:, column]
    mean, difference = bootstrap.mean(points, chosen), bootstrap.difference(points, results.points[:, 0], chosen)
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
    present = [type_ for type_ in TABLES if any(entry.question_type == type_ for entry in found)]
    parts = [_by_budget([entry for entry in found if entry.question_type == type_], measure) for type_ in present]
    keeps = dict.fromkeys(entry.keep for entry in found if entry.strategy != UNPRUNED)
    parts += [_by_type([entry for entry in found if entry.keep == keep or entry.strategy == UNPRUNED], keep)
              for keep in keeps]  # fmt: skip
    return "\n\n".join([*parts, "* worse than the unpruned model: so is all of the difference's interval"])


def summary(comparisons: Sequence[Contest]) -> str:
    """For each headline its strategies by budget: how far each lies from the best strategy of a world, in the mean and
    at the worst over worlds.
    """
    points = {
        (entry.question_type, entry.strategy, entry.keep, one.world): 100 * entry.good * entry.accuracy
        for one in comparisons
        for entry in one.entries
        if entry.strategy != UNPRUNED
    }
    types, strategies, keeps, _ = (list(dict.fromkeys(values)) for values in zip(*points, strict=True))
    parts = []
    for type_ in (type_ for type_ in TABLES if type_ in types):
        rows = [(name, *(_behind(points, type_, name, keep) for keep in keeps)) for name in strategies]
        shown = text_table([("kept", "<14"), *((f"{keep:.3g} ", "33") for keep in keeps)], rows)
        parts.append(
            f"{TITLES.get(type_, type_)}: points behind the best of each world: mean; worst, and where\n{shown}"
        )
    return "\n\n".join([f"over {len(comparisons)} worlds", *parts])


def _behind(points: Mapping[tuple[str, str, float, str], float], type_: str, strategy: str, keep: float) -> str:
    """A cell of `summary`, of the accuracies in % by type, strategy, budget and world."""
    behind = {}
    for (a_type, name, budget, world), own in points.items():
        if (a_type, name, budget) == (type_, strategy, keep):
            there = [value for (*at, where), value in points.items() if (at[0], at[2], where) == (type_, keep, world)]
            behind[world] = own - max(there)
    worst = min(behind, key=lambda world: behind[world])
    return f"{sum(behind.values()) / len(behind):.1f}; {behind[worst]:.1f} {worst}"


def _by_budget(found: Sequence[Entry], measure: Measure) -> str:
    """Strategies x budgets, for one type of questions."""
    unpruned = found[0]
    title = f"{TITLES.get(unpruned.question_type, unpruned.question_type)}: {unpruned.n}"
    keeps = list(dict.fromkeys(entry.keep for entry in found[1:]))
    cells = {(entry.strategy, entry.keep): _cell(entry) for entry in found[1:]}
    rows = [(name, *(cells[name, keep] for keep in keeps)) for name in dict.fromkeys(name for name, _ in cells)]
    shown = text_table([("kept", "<14"), *((f"{keep:.3g} ", "21") for keep in keeps)], rows)
    return f"{title}; {measure(unpruned.question_type)}, % [95 % interval]; unpruned {_cell(unpruned).strip()}\n{shown}"


def _cell(entry: Entry) -> str:
    mark = "*" if entry.is_worse else " "
    return f"{100 * entry.accuracy:.1f} [{100 * entry.low:.1f}, {100 * entry.high:.1f}]{mark}"


def _by_type(found: Sequence[Entry], keep: float) -> str:
    """Strategies x types of questions, for one budget, the unpruned model above."""
    types = list(dict.fromkeys(entry.question_type for entry in found))
    columns = [("", "<14"), *((type_[:8], "9.1f") for type_ in types)]
    columns += [("agreement", "11.1f"), ("tokens", "8.1f"), ("select ms", "11.2f")]
    by_strategy = {entry.strategy: [one for one in found if one.strategy == entry.strategy] for entry in found}
    rows = [
        (name, *(100 * one.accuracy for one in row), 100 * row[0].agreement, row[0].kept_tokens, row[0].select_ms)
        for name, row in by_strategy.items()
    ]
    return f"{100 * keep:.3g} % kept, by type of question\n{text_table(columns, rows)}"
