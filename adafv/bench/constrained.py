"""What a schema costs a decoding step: the same number of steps with and without it, in turns.

The language model has the testbed's sizes and random weights. Its tokenizer can write any text, which the testbed's
can't; it has letters and made-up syllables. Two grammars bound the cost: `any text` accepts nearly all that the model
would say anyway, as a model does that was trained to write JSON; `schema` refuses nearly every first choice.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass
from itertools import islice, product
from statistics import median
from string import ascii_lowercase
from typing import Any, cast

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from adafv.bench.shapes import BOS, CHAT_TEMPLATE, EOS, IMAGE, Shape, Stack, Subject
from adafv.engine import EngineOptions
from adafv.engine.generation import Generator
from adafv.engine.grammar import Grammar
from adafv.engine.sequence import Prompts
from adafv.models import Processing

TOWER, LANGUAGE = Stack(4, 128, 384, 4), Stack(3, 128, 320, 4)  # the testbed's
LONGER = 4096  # characters that an answer must have at least, so that none ends before its last step
CONSTRAINTS: dict[str, dict[str, Any]] = {
    "nothing": {},
    "any text": {"regex": f"(.|\\n){{{LONGER}}}"},
    "schema": {
        "schema": {"type": "object", "properties": {"caption": {"type": "string", "minLength": LONGER}}}
        | {"required": ["caption"], "additionalProperties": False}
    },
}


@dataclass(frozen=True, kw_only=True)
class ConstrainedTerms:
    """What is measured: so many `steps` of a batch, in each of so many `rounds`."""

    vocabulary: int
    batch_size: int
    steps: int
    rounds: int
    device: str


def run(terms: ConstrainedTerms) -> tuple[dict[str, Any], str]:
    """The figures, and a table of them. On a CPU it is processor time, with one thread."""
    torch.set_num_threads(1)
    device, end = torch.device(terms.device), 1
    shape = Shape(tower=TOWER, language=LANGUAGE, crop=48, patch=8, vocabulary=terms.vocabulary)
    subject = Subject.build(shape, device, torch.float32)
    with torch.no_grad():
        cast(Any, subject.model).get_output_embeddings().weight[end] = 0  # so that it is never the most probable
    adapter = subject.processing.family(subject.fresh_model(), subject.processing.normalisation())
    adapter.model.generation_config.eos_token_id = end
    processing = _processing(subject, terms.vocabulary)
    generators = {}
    for name, asked in CONSTRAINTS.items():
        options = EngineOptions(max_new_tokens=terms.steps, device=terms.device, **asked)
        grammar = Grammar(processing, options, [end], terms.vocabulary) if asked else None
        generators[name] = Generator(adapter, options, processing, grammar)
    prompts = torch.randn(terms.batch_size, 30, LANGUAGE.hidden, device=device)
    lengths = torch.full((terms.batch_size,), 30, device=device)
    group = Prompts(rows=[*range(terms.batch_size)], embeds=prompts, lengths=lengths)
    rounds = [{name: _step(one, group) for name, one in generators.items()} for _ in range(terms.rounds + 1)]
    rounds = rounds[1:]  # the first warms up
    over = {name: [each[name] / each["nothing"] - 1 for each in rounds] for name in CONSTRAINTS if name != "nothing"}
    figures: dict[str, Any] = {
        "settings": asdict(terms),
        "step_us": {name: median(each[name] for each in rounds) for name in CONSTRAINTS},
        "overhead": {name: median(shares) for name, shares in over.items()},
        "rounds": rounds,
    }
    lines = [f"{name:10} {time_us:8.0f} us a step" for name, time_us in figures["step_us"].items()]
    lines += [
        f"{name:10} {100 * median(shares):+8.1f} % ({100 * min(shares):.1f} to {100 * max(shares):.1f})"
        for name, shares in over.items()
    ]
    title = f"{terms.vocabulary} tokens, batches of {terms.batch_size}, {terms.steps} steps, {terms.device}; medians of"
    return figures, "\n".join([f"{title} {terms.rounds} rounds", *lines])


def _step(generator: Generator, group: Prompts) -> float:
    """Microseconds of a decoding step."""
    cuda = group.embeds.device.type == "cuda"
    clock = time.perf_counter if cuda else time.process_time
    marks: list[float] = []

    def mark() -> None:
        if cuda:
            torch.cuda.synchronize()
        marks.append(clock())

    answers = generator([group], [0] * len(group.rows), mark, lambda: None)
    mark()
    [steps] = {len(answer.ids) for answer in answers}
    return (marks[1] - marks[0]) / steps * 1e6


def _processing(subject: Subject, vocabulary: int) -> Processing:
    """The subject's, with a tokenizer of bytes and syllables."""
    known = [BOS, EOS, IMAGE, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    syllables = ("".join(letters) for length in (2, 3, 4) for letters in product(ascii_lowercase, repeat=length))
    known += islice(syllables, max(0, vocabulary - len(known)))
    core = Tokenizer(models.BPE({token: place for place, token in enumerate(known)}, [], ignore_merges=True))
    core.pre_tokenizer, core.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, bos_token=BOS, eos_token=EOS, extra_special_tokens={"image_token": IMAGE}
    )
    config = subject.processing.config
    config.image_token_id = known.index(IMAGE)
    return Processing(
        family=subject.processing.family,
        config=config,
        image_processor=subject.processor.image_processor,
        tokenizer=tokenizer,
        chat_template=CHAT_TEMPLATE,
    )
