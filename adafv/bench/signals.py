"""What might say of a pruned answer whether the unpruned model would have said the same, measured question by question.

Each question is answered by the unpruned model and at each budget of one strategy. Beside an answer stand its signals,
each the larger the surer:

    mean_logprob   mean log-probability of the answer's tokens
    min_logprob    that of the least likely token
    sum_logprob    their sum: the log-probability of the whole answer
    first_margin   the first token's probability, less that of the runner-up
    entropy        of the distribution that a token was chosen from, averaged over the tokens, negative
    length         tokens, negative
    demand         share of what the question asks about (Q of `adafv.pruning.adafv_plus`) that was kept
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from adafv.bench.exam import BATCHES, Contender, Examiner, Setting
from adafv.bench.examples import Example, ExampleSource
from adafv.engine import Engine, EngineOptions, Label
from adafv.engine.generation import Answer, Generator
from adafv.engine.sequence import Prompts
from adafv.pipeline.options import JobOptions
from adafv.pruning import Cues, Selection, Strategy
from adafv.pruning.adafv_plus import question
from adafv.pruning.cues import text_cosines

SIGNALS = ("mean_logprob", "min_logprob", "sum_logprob", "first_margin", "entropy", "length", "demand")


@dataclass(frozen=True)
class ContenderAnswers:
    """All answers of one contender, R of them.

    Attributes:
        keep: the keep ratio; 1.0 for the unpruned model.
        tokens: int64 [R], positions that the language model took: prompt and answer; `prompt_tokens`: of the prompt.
        signals: float64 [R] each, by name.
    """

    keep: float
    answers: list[str]
    tokens: np.ndarray
    prompt_tokens: np.ndarray
    signals: dict[str, np.ndarray]


@dataclass(frozen=True)
class Survey:
    """R questions: the cluster and the types of each, and every look at all of them, the unpruned one first."""

    ids: list[str]
    clusters: list[str]
    types: list[tuple[str, ...]]
    looks: list[ContenderAnswers]


def ask(job: JobOptions, options: EngineOptions, source: ExampleSource, keeps: Sequence[float]) -> Survey:
    """Ask all of the source's questions. Rows that can't be asked are left out.

    Raises UsageError as `exam.hold` does.
    """
    contenders = [Contender("none", replace(options, strategy="none", keep=1.0))]
    contenders += [Contender(options.strategy, replace(options, keep=keep)) for keep in keeps]
    setting = Setting.of(job, contenders, source.batch_size)
    setting.check()
    listener, asked = Listener(setting), [example for example in source.examples() if isinstance(example, Example)]
    rows: list[tuple[Example, list[_Heard]]] = []
    step = BATCHES * setting.batch_size
    for start in range(0, len(asked), step):
        rows += listener.hear(asked[start : start + step])
    looks = [
        ContenderAnswers(
            keep=contender.options.ratio or 1.0,
            answers=[heard[number].label.answer for _, heard in rows],
            tokens=np.array(
                [heard[number].label.prompt_tokens + heard[number].label.output_tokens for _, heard in rows]
            ),
            prompt_tokens=np.array([heard[number].label.prompt_tokens for _, heard in rows]),
            signals={name: np.array([heard[number].signals[name] for _, heard in rows]) for name in SIGNALS},
        )
        for number, contender in enumerate(contenders)
    ]
    examples = [example for example, _ in rows]
    return Survey(
        [example.row.id or "" for example in examples],
        [example.cluster for example in examples],
        [example.types for example in examples],
        looks,
    )


@dataclass(frozen=True)
class _Heard:
    label: Label
    signals: dict[str, float]


class Listener(Examiner):
    """Asks the contenders, and notes what the labels don't say."""

    def __init__(self, setting: Setting) -> None:
        super().__init__(setting)
        self._ears = [_Ear(engine, one.options) for engine, one in zip(self._engines, setting.contenders, strict=True)]

    def hear(self, examples: Sequence[Example]) -> list[tuple[Example, list[_Heard]]]:
        """The examples that can be asked, with what each contender gave."""
        fit, samples, _ = self._prepared(list(examples))
        order = sorted(range(len(fit)), key=lambda i: fit[i].words)
        batches = [order[start : start + self._batch_size] for start in range(0, len(order), self._batch_size)]
        heard: list[list[_Heard]] = [[] for _ in fit]
        for ear in self._ears:
            for batch in batches:
                for row, one in zip(batch, ear.hear([samples[i] for i in batch]), strict=True):
                    heard[row].append(one)
        self._memory.forget()
        return list(zip(fit, heard, strict=True))


class _Ear:
    """An engine like the given one, whose generator and strategy are listened to."""

    def __init__(self, engine: Engine, options: EngineOptions) -> None:
        adapter, processing = engine._adapter, engine._processing
        self._generator, self._demand = Recorder(adapter, options), DemandWatch(options.rule)
        self._engine = Engine(adapter, processing, options, strategy=self._demand.strategy, generator=self._generator)

    def hear(self, samples: Sequence[Any]) -> list[_Heard]:
        self._demand.kept.clear()
        labels = self._engine.label(samples)
        kept = self._demand.kept if len(self._demand.kept) == len(labels) else [math.nan] * len(labels)
        each = zip(labels, self._generator.signals, kept, strict=True)
        return [_Heard(label, signals | {"demand": share}) for label, signals, share in each]


class Recorder(Generator):
    """A generator that keeps the signals of the last batch's answers, in the batch's order."""

    LEAVING = math.inf  # so that a step has all rows

    signals: list[dict[str, float]]

    def __call__(
        self,
        groups: Sequence[Prompts],
        seeds: Sequence[int],
        on_prefilled: Callable[[], None],
        on_step: Callable[[], None],
        prompt_ids: Sequence[np.ndarray] = (),
    ) -> list[Answer]:
        self._entropies: list[Tensor] = []
        self._margins: list[Tensor] = []
        answers = super().__call__(groups, seeds, on_prefilled, on_step, prompt_ids)
        entropies = torch.stack(self._entropies, dim=1).tolist()
        place = {row: at for at, row in enumerate(row for group in groups for row in group.rows)}
        margins = self._margins[0].tolist()
        self.signals = [
            {
                "mean_logprob": answer.mean_logprob,
                "min_logprob": min(answer.logprobs),
                "sum_logprob": sum(answer.logprobs),
                "first_margin": margins[place[row]],
                "entropy": -sum(entropies[place[row]][: len(answer.ids)]) / len(answer.ids),
                "length": -float(len(answer.ids)),
            }
            for row, answer in enumerate(answers)
        ]
        return answers

    def _choose(self, answers: Tensor, scores: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        chosen = super()._choose(answers, scores, draws)
        logprobs = self._raw_scores.scores.log_softmax(dim=1)
        probable = logprobs.exp()
        self._entropies.append(-(probable * logprobs.clamp_min(torch.finfo(logprobs.dtype).min)).sum(dim=1))
        first, second = probable.topk(2, dim=1).values.unbind(dim=1)
        self._margins.append(first - second)
        return chosen


class DemandWatch:
    """A strategy that is watched: how much of Q each selection keeps. It sees one image of one question at a time."""

    def __init__(self, rule: Strategy) -> None:
        self.kept: list[float] = []
        self._rule = rule
        needs = rule.needs | {"visual", "text", "neighbours"}
        self.strategy = replace(rule, select=self._select, needs=needs)

    def _select(self, cues: Cues, keep: int | Tensor) -> Selection:
        selection = self._rule.select(cues, keep)
        assert cues.text is not None and cues.visual is not None and cues.neighbours is not None
        cosines = text_cosines(cues.text, cues.visual, cues.text_valid, cues.valid)
        asked = question(cosines, cues.neighbours, cues.valid, cues.text_valid)
        all_asked = asked.sum(dim=1)
        self.kept += torch.where(all_asked > 0, (asked * selection.mask).sum(dim=1) / all_asked, 1.0).tolist()
        return selection
