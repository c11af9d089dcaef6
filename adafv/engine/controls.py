"""What options, the checkpoint's generation config and a grammar do to the model's scores before a token is chosen.

Both back ends use it.

In this order: what the generation config asks for (penalties, suppressed tokens), banned words, the grammar, and, where
tokens are sampled, temperature and top-p. An answer's log-probabilities are those before the grammar. What a generation
config asks for is transformers' own code.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    NoRepeatNGramLogitsProcessor,
    RepetitionPenaltyLogitsProcessor,
    SequenceBiasLogitsProcessor,
)

from adafv.engine.grammar import Grammar
from adafv.engine.masks import BatchMasks
from adafv.engine.options import EngineOptions
from adafv.internals import logits_processors
from adafv.models import Adapter, Processing
from adafv.uploading import uploaded


class Controls:
    """What `options` and the checkpoint ask for.

    Args:
        processing: the model's, which `banned_words` need.
        grammar: constrains answers, if there is one.

    Attributes:
        ends: tokens that end an answer, ascending.
        warpers: transformers' processors for sampling, which come last.
    """

    def __init__(
        self, adapter: Adapter, options: EngineOptions, processing: Processing | None, grammar: Grammar | None
    ) -> None:
        config = generation_config(adapter, options)
        if options.stop is not None:
            config.eos_token_id = sorted({*end_tokens(config), *_special_tokens(processing, options.stop)}) or None
        self.ends = end_tokens(config)
        self._grammar, self._device = grammar, adapter.model.device
        mark = LogitsProcessor()  # before the warpers
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Passing `.*` with `inputs_embeds`")  # as documented
            found = [*logits_processors(adapter.model, config, LogitsProcessorList([mark]))]
        self._processors, self.warpers = found[: found.index(mark)], found[found.index(mark) + 1 :]
        if options.banned_words is not None:
            assert processing is not None  # the engine has it
            self._processors.append(_Banned(_spellings(processing, options.banned_words), self._device))
        if options.answer_prefix is not None and processing is not None:
            ids = torch.tensor(processing.answer_ids(options.answer_prefix), dtype=torch.int64)
            prefix = uploaded(ids, self._device)
            self._processors = [
                _Behind(prefix, one) if isinstance(one, _SEQUENCES) else one for one in self._processors
            ]

    @property
    def change_scores(self) -> bool:
        """Whether there is anything beside warpers."""
        return bool(self._processors) or self._grammar is not None

    def begin(self, rows: int, prompt_ids: Sequence[np.ndarray] = ()) -> BatchControls:
        """For so many answers to prompts of these tokens, int64 [T] each, to which a repetition penalty applies as
        well; if there are none, it applies to the answers only.
        """
        processors = [
            _Penalty(one, prompt_ids, self._device) if isinstance(one, RepetitionPenaltyLogitsProcessor) else one
            for one in self._processors
        ]
        masks = None if self._grammar is None else BatchMasks(self._grammar, rows, self._device)
        return BatchControls(processors, masks)


class BatchControls:
    """The same for the answers of a batch."""

    def __init__(self, processors: Sequence[Any], masks: BatchMasks | None) -> None:
        self._processors, self._masks = processors, masks

    def scores(self, answers: Tensor, scores: Tensor) -> Tensor:
        """float32 [b, V]: what the next token's `scores` become after `answers`, int64 [b, t], before the grammar."""
        scores = scores.float()
        for process in self._processors:  # transformers' list looks up each one's signature at every step
            scores = process(cast(torch.LongTensor, answers), cast(torch.FloatTensor, scores))
        return scores

    def masked(self, scores: Tensor) -> Tensor:
        """The same, with -inf for tokens that the grammar refuses."""
        return scores if self._masks is None else self._masks.masked(scores)

    def greedy(self, scores: Tensor) -> Tensor:
        """int64 [b]: the most probable of the tokens that the grammar allows."""
        return scores.argmax(dim=1) if self._masks is None else self._masks.choose(scores)

    def keep(self, rows: Sequence[int]) -> None:
        """Drop all rows but these. Called before `advance`."""
        for process in self._processors:
            if isinstance(process, _Penalty):
                process.keep(rows)
        if self._masks is not None:
            self._masks.keep(rows)

    def advance(self, chosen: Tensor) -> None:
        """Take the rows' next tokens, int64 [b]."""
        if self._masks is not None:
            self._masks.advance(chosen)


class _Penalty(LogitsProcessor):
    """A repetition penalty, for the tokens of the prompts as well: transformers' `generate` takes them for the
    beginning of the answers. The other processors see the answer only.
    """

    def __init__(
        self, inner: RepetitionPenaltyLogitsProcessor, prompt_ids: Sequence[np.ndarray], device: torch.device
    ) -> None:
        self._inner = inner
        self._prompts: Tensor | None = None
        if len(prompt_ids):
            longest = max(map(len, prompt_ids))
            # Filled up with what is penalised in any case, and once however often it is there.
            filled = np.stack(
                [np.pad(row.astype(np.int64), (0, longest - len(row)), mode="edge") for row in prompt_ids]
            )
            self._prompts = uploaded(torch.from_numpy(filled), device)

    def keep(self, rows: Sequence[int]) -> None:
        if self._prompts is not None:
            self._prompts = self._prompts[uploaded(torch.tensor(rows), self._prompts.device)]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        seen = input_ids if self._prompts is None else torch.cat([self._prompts, input_ids], dim=1)
        return self._inner(cast(torch.LongTensor, seen), scores)


class _Banned(LogitsProcessor):
    """Keeps answers from sequences of tokens. transformers' own has the device wait at each step."""

    def __init__(self, sequences: Sequence[Sequence[int]], device: torch.device) -> None:
        single = [ids[0] for ids in sequences if len(ids) == 1]
        self._single = uploaded(torch.tensor(single, dtype=torch.int64), device)
        self._longer = [uploaded(torch.tensor(ids), device) for ids in sequences if len(ids) > 1]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        scores = scores.index_fill(1, self._single, -torch.inf)
        for ids in self._longer:
            before = len(ids) - 1
            if input_ids.shape[1] >= before:
                begun = (input_ids[:, -before:] == ids[:-1]).all(dim=1, keepdim=True)
                barred = torch.where(begun, -torch.inf, scores.index_select(1, ids[-1:]))
                scores = scores.index_copy(1, ids[-1:], barred)
        return scores


class _Behind(LogitsProcessor):
    """Another processor, of sequences of tokens, which may begin in the `prefix` of all answers, int64 [P]."""

    def __init__(self, prefix: Tensor, inner: LogitsProcessor) -> None:
        self._prefix, self._inner = prefix, inner

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        whole = torch.cat([self._prefix.expand(len(input_ids), -1), input_ids], dim=1)
        return self._inner(cast(torch.LongTensor, whole), cast(torch.FloatTensor, scores))


# What looks at several tokens in a row.
_SEQUENCES = (NoRepeatNGramLogitsProcessor, SequenceBiasLogitsProcessor, _Banned)


class Stops:
    """Texts before which an answer ends. They count after its first `min_new_tokens`. Special tokens, which aren't in
    an answer's text, are among `Controls.ends` instead.
    """

    def __init__(self, options: EngineOptions, processing: Processing | None) -> None:
        assert processing is not None and options.stop is not None  # the engine has it
        self._texts, self._least = options.stop, options.min_new_tokens or 0
        self._tokenizer = processing.tokenizer
        self._prefix = [] if options.answer_prefix is None else processing.answer_ids(options.answer_prefix)

    def length(self, ids: Sequence[int]) -> int | None:
        """How many of an answer's tokens it takes for one of the texts to be there; None if none is."""
        if self._place(ids) is None:
            return None
        low, high = 0, len(ids)  # not there by `low`, there by `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._place(ids[:middle]) is not None else (middle, high)
        return high

    def text(self, ids: Sequence[int]) -> str:
        """The answer up to the first of them, with the prefix of all answers, stripped."""
        return self._text(ids)[: self._place(ids)].strip()

    def _place(self, ids: Sequence[int]) -> int | None:
        """Where in an answer's text the first of them is."""
        text, start = self._text(ids), len(self._text(ids[: self._least]).rstrip("\ufffd"))  # half a letter
        return min((at for one in self._texts if (at := text.find(one, start)) >= 0), default=None)

    def _text(self, ids: Sequence[int]) -> str:
        return self._tokenizer.decode([*self._prefix, *ids], skip_special_tokens=True)


def generation_config(adapter: Adapter, options: EngineOptions) -> GenerationConfig:
    """The model's own, with decoding as `options` ask: a checkpoint that defaults to sampling must not sample here."""
    config = copy.deepcopy(cast(Any, adapter.model).generation_config)
    sampling = options.temperature > 0
    config.update(
        max_new_tokens=options.max_new_tokens,
        max_length=options.max_new_tokens,  # where `forced_eos_token_id` stands
        # Stock transformers counts the prompt here, so that these have no effect behind one.
        min_length=None,
        forced_bos_token_id=None,
        guidance_scale=None,  # Janus has it for pictures that it draws, and leaves it out for text
        num_beams=1,
        do_sample=sampling,
        temperature=options.temperature if sampling else None,
        top_p=options.top_p if sampling else None,
        top_k=(options.top_k or 0) if sampling else None,  # None would mean transformers' default of 50
        return_dict_in_generate=False,
    )
    given = {
        "repetition_penalty": options.repetition_penalty,
        "no_repeat_ngram_size": options.no_repeat_ngram,
        "min_new_tokens": options.min_new_tokens,
    }
    config.update(**{name: value for name, value in given.items() if value is not None})
    if options.has_grammar:  # it decides alone which tokens are out of the question
        config.update(
            forced_eos_token_id=None,
            suppress_tokens=None,
            begin_suppress_tokens=None,
            bad_words_ids=None,
            no_repeat_ngram_size=None,
            min_new_tokens=None,
        )
    return config


def end_tokens(config: GenerationConfig) -> list[int]:
    """The tokens that end an answer, ascending."""
    end = config.eos_token_id
    return sorted(end) if isinstance(end, list) else [] if end is None else [end]


def _special_tokens(processing: Processing | None, texts: Sequence[str]) -> list[int]:
    """Those of the texts that are special tokens."""
    assert processing is not None  # the engine has it
    tokens = processing.tokenizer.added_tokens_decoder
    return [number for number, token in tokens.items() if token.special and token.content in texts]


def _spellings(processing: Processing, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word, as written, in small letters and with a capital one: by itself, as the beginning of an
    answer, after a space, and after a sign, for which a line break stands.
    """

    def tokens(text: str) -> list[int]:
        return processing.tokenizer(text, add_special_tokens=False)["input_ids"]

    forms = dict.fromkeys(form for word in words for form in (word, word.lower(), word.capitalize()))
    found = [tokens(space + form) for form in forms for space in ("", " ")]
    found += [processing.answer_ids(form) for form in forms]
    line = tokens("\n")
    found += [ids[len(line) :] for form in forms if (ids := tokens(f"\n{form}"))[: len(line)] == line]
    unknown = processing.tokenizer.unk_token_id
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids and unknown not in ids]
