"""What a second look costs beside the same questions asked unpruned at once.

A batch is answered in turn pruned; pruned, with some of it asked again unpruned; and unpruned, once as many of its
questions as a batch of their own, and once all. What second looks cost is by how much the second takes longer than the
first. A second look finds its image encoded, so that is held against the third without its encoding. The fourth says
what a question takes in a full batch.

On a CPU it is processor time, with one thread, that is counted: on a shared machine that is the steadiest.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import torch

from adafv.bench.rivals import Again, BatchAnswers, Ours, Started, engine_options, timed
from adafv.bench.shapes import PRESETS, Shape, Subject, ask


@dataclass(frozen=True, kw_only=True)
class SecondLookTerms:
    """What is measured: `again` of a batch's questions are asked again, in each of so many `rounds`."""

    preset: str
    strategy: str
    keep: float
    batch_size: int
    again: int
    max_new_tokens: int
    rounds: int
    device: str
    dtype: str


@dataclass(frozen=True)
class Round:
    """Seconds of a batch: pruned, with second looks, of as many questions unpruned, and of all unpruned; of these two
    the encoding is left out.
    """

    pruned: float
    both: float
    unpruned: float
    full: float

    @property
    def overhead(self) -> float:
        """Of second looks, as a share of what the same questions take unpruned."""
        return (self.both - self.pruned) / self.unpruned - 1


def run(settings: SecondLookTerms, shape: Shape | None = None) -> tuple[dict[str, Any], str]:
    """The figures, and a table of them; of the preset's shape, or another."""
    shape, device = shape or PRESETS[settings.preset], torch.device(settings.device)
    torch.set_num_threads(1)
    subject = Subject.build(shape, device, getattr(torch, settings.dtype))
    size, again = settings.batch_size, settings.again
    pruned, unpruned = engine_options(settings, settings.strategy, settings.keep), engine_options(settings, "none", 1.0)
    rivals = (
        (Ours(subject, pruned, size), size),
        (Again(subject, pruned, size, again / size), size),
        (Ours(subject, unpruned, again), again),
        (Ours(subject, unpruned, size), size),
    )
    started = [(rival, rival.start(), count) for rival, count in rivals]
    rounds = []
    for number in range(settings.rounds + 1):
        questions = ask(shape, size, 1, False, seed=number)  # about other pictures: the engine knows one again
        timed = [_timed(one, rival.prepare(questions[:count]), device) for rival, one, count in started]
        pruned_s, both_s, *others = (seconds for seconds, _ in timed)
        encoding = [_encoding(answers) for _, answers in timed[2:]]
        rounds.append(Round(pruned_s, both_s, *(s * (1 - share) for s, share in zip(others, encoding, strict=True))))
    rounds = rounds[1:]  # the first warms up
    overheads = [one.overhead for one in rounds]
    figures = {
        "settings": asdict(settings),
        "overhead": median(overheads),
        "pruned_s": median(one.pruned for one in rounds),
        "both_s": median(one.both for one in rounds),
        "unpruned_s": median(one.unpruned for one in rounds),
        "full_s": median(one.full for one in rounds),
        "small_batch": median(one.unpruned / again / (one.full / size) for one in rounds) - 1,
        "rounds": [asdict(one) | {"overhead": one.overhead} for one in rounds],
    }
    return figures, _text(settings, figures, overheads)


def _timed(started: Started, batch: Any, device: torch.device) -> tuple[float, BatchAnswers]:
    return timed(started, batch, device, time.process_time if device.type == "cpu" else time.perf_counter)


def _encoding(answers: BatchAnswers) -> float:
    """Its share of a batch's time."""
    return answers.stage_ms["encode"] / sum(answers.stage_ms.values())


def _text(settings: SecondLookTerms, figures: dict[str, Any], overheads: list[float]) -> str:
    return "\n".join(
        [
            f"{settings.preset}, random weights, {settings.dtype}, {settings.device}; batches of "
            f"{settings.batch_size}, {settings.again} asked again, {settings.max_new_tokens} new tokens; "
            f"medians of {settings.rounds} rounds",
            f"seconds of a batch: {figures['pruned_s']:.3g} pruned, {figures['both_s']:.3g} with second looks; "
            f"as many questions unpruned, without encoding: {figures['unpruned_s']:.3g}",
            f"overhead of second looks: {100 * figures['overhead']:.1f} % ({100 * min(overheads):.1f} to "
            f"{100 * max(overheads):.1f}); a question in so small a batch takes {100 * figures['small_batch']:.1f} % "
            "longer than in a full one",
        ]
    )
