"""AdaFV as published against AdaFV corrected, piece by piece.

Each variant differs from the corrected rule (the strategy `adafv`) in what its name says, and is compared with it
question by question. The last ones are a ladder: the rule as published, then one flaw of the authors' code after the
other, up to all of them. Variants are no strategies: nobody should label with them, so they have no names there.

One flaw can't be shown: where the authors' code keeps a token twice, the sequence here holds it once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from adafv.bench.exam import Contender, Setting, hold, processes
from adafv.bench.examples import ExampleSource
from adafv.bench.quality import HEADLINES, TITLES, UNPRUNED, Entry, entries
from adafv.engine import EngineOptions
from adafv.pipeline.options import JobOptions
from adafv.pruning import Cues, Selection, Strategy, mix, mix_paper, text_similarity

CORRECTED = "corrected"
NEEDS = frozenset({"saliency", "similarity", "visual", "text", "places"})


@dataclass(frozen=True)
class Rule:
    """The mixture with pieces exchanged; as it stands, the corrected one. Picklable, for the processes of an exam.

    Attributes:
        published: the rule as published, which divides the budget before it looks at the overlap.
        scale: factor on the cosines before the softmax.
        reserve: share of the budget that each cue is sure to get.
        per_crop: the saliency of each crop is divided by its sum, so that all crops weigh the same.
        misplaced: the saliency of patch p of crop n counts for the token number n + p, which lies in the base crop.
        floored: the budget is rounded down to a multiple of the crops.
        unsorted: the reserve is the first tokens of the sequence, for both cues. Only where `published`.
    """

    published: bool = False
    scale: float = 100.0
    reserve: float = 0.25
    per_crop: bool = False
    misplaced: bool = False
    floored: bool = False
    unsorted: bool = False

    def __call__(self, cues: Cues, keep: int | Tensor) -> Selection:
        assert cues.saliency is not None and cues.similarity is not None and cues.places is not None
        crop, patch = cues.places.unbind(dim=-1)  # [B, N] each
        saliency, similarity = cues.saliency, cues.similarity
        if self.scale != Rule.scale:
            assert cues.text is not None and cues.visual is not None
            similarity = text_similarity(cues.text, cues.visual, cues.text_valid, cues.valid, self.scale)
        if self.per_crop:
            saliency = _per_crop(saliency, crop)
        if self.misplaced:
            saliency = _misplaced(saliency, crop + patch)
        if self.floored:
            crops = crop.amax(dim=1) + 1
            keep = (torch.as_tensor(keep, device=crop.device) // crops * crops).clamp_min(1)
        if self.unsorted:
            reserved = (torch.as_tensor(keep, device=crop.device) * self.reserve).long()
            saliency, similarity = (_first(cue, reserved) for cue in (saliency, similarity))
        rule = mix_paper if self.published else mix
        return rule(saliency, similarity, keep, cues.valid, self.reserve)


def _per_crop(saliency: Tensor, crop: Tensor) -> Tensor:
    """float [B, N], every crop's values divided by their sum. Padding lies in no crop (-1), and has no saliency."""
    crop = crop.clamp_min(0)
    sums = torch.zeros_like(saliency).scatter_add(1, crop, saliency)  # a row has fewer crops than tokens
    return saliency / sums.gather(1, crop).clamp_min(torch.finfo(saliency.dtype).tiny)


def _misplaced(saliency: Tensor, place: Tensor) -> Tensor:
    """float [B, N]: at each place the largest saliency that falls there, 0 where none does."""
    return torch.zeros_like(saliency).scatter_reduce(1, place.clamp_min(0), saliency, "amax")


def _first(cue: Tensor, count: Tensor) -> Tensor:
    """float [B, N]: the cue with the first `count` [B] tokens above all others, in their own order."""
    first = torch.arange(cue.shape[1], device=cue.device) < count[:, None]
    return cue + first * (cue.amax(dim=1, keepdim=True) + 1)


LADDER = {
    "published rule": Rule(published=True),
    "+ floored budget": Rule(published=True, floored=True),
    "+ unsorted reserve": Rule(published=True, floored=True, unsorted=True),
    "+ misplaced crops": Rule(published=True, floored=True, unsorted=True, misplaced=True),
}
RULES = {
    CORRECTED: Rule(),
    "softmax scale 20": Rule(scale=20.0),
    "softmax scale 50": Rule(scale=50.0),
    "softmax scale 200": Rule(scale=200.0),
    "reserve 0": Rule(reserve=0.0),
    "reserve 0.5": Rule(reserve=0.5),
    "saliency per crop": Rule(per_crop=True),
    "floored budget": Rule(floored=True),
    "misplaced crops": Rule(misplaced=True),
}


def run(job: JobOptions, source: ExampleSource, seed: int) -> tuple[list[Entry], str]:
    """Compare the variants at the job's budget: the figures, and a table of them."""
    variants = contenders(job.engine)
    results = hold(Setting.of(job, variants, source.batch_size), source.examples(), processes(job, source))
    baseline = next(number for number, one in enumerate(variants) if one.name == CORRECTED)
    found = entries(results, variants, seed, baseline)
    return found, f"{source.title}, {job.model}, {100 * job.engine.keep:.3g} % kept\n\n{table(found)}"


def contenders(options: EngineOptions) -> tuple[Contender, ...]:
    """The unpruned model, the corrected rule with `options`, and its variants."""
    other_scope = replace(options, text_scope="prompt" if options.text_scope == "question" else "question")
    other_newlines = replace(options, newlines="rows" if options.newlines == "drop" else "drop")
    last = LADDER["+ misplaced crops"]
    return (
        Contender(UNPRUNED, replace(options, strategy=UNPRUNED, keep=1.0)),
        *(Contender(name, options, _strategy(rule)) for name, rule in RULES.items()),
        Contender(f"text scope: {other_scope.text_scope}", other_scope, _strategy(RULES[CORRECTED])),
        Contender(f"newlines: {other_newlines.newlines}", other_newlines, _strategy(RULES[CORRECTED])),
        *(Contender(name, options, _strategy(rule)) for name, rule in LADDER.items()),
        Contender("+ text scope: prompt", replace(options, text_scope="prompt"), _strategy(last)),
    )


def _strategy(rule: Rule) -> Strategy:
    return Strategy("variant", rule, NEEDS)


def table(found: Sequence[Entry]) -> str:
    """A line for each variant: its accuracy, and its difference to the corrected rule with the interval."""
    types = [type_ for type_ in HEADLINES if any(entry.question_type == type_ for entry in found)]
    counts = {entry.question_type: entry.n for entry in found}
    heads = "".join(f"{f'{TITLES[type_]} ({counts[type_]}), %':>30}" for type_ in types)
    lines = [f"{'':<22}{heads}{'tokens':>8}"]
    for name in dict.fromkeys(entry.strategy for entry in found):
        row = {entry.question_type: entry for entry in found if entry.strategy == name}
        lines.append(f"{name:<22}{''.join(_cell(row[type_]) for type_ in types)}{row[types[0]].kept_tokens:>8.1f}")
    return "\n".join([*lines, "", f"in brackets the 95 % interval of the difference to '{CORRECTED}'"])


def _cell(entry: Entry) -> str:
    difference = (
        f"{100 * entry.difference:+.1f} [{100 * entry.difference_low:+.1f}, {100 * entry.difference_high:+.1f}]"
    )
    return f"{100 * entry.accuracy:>9.1f}{difference:>21}"
