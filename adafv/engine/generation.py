"""Answering: prefill in groups of like length, then all rows of the batch take their decoding steps together.

The loop is ours, since transformers' `generate` pads a whole batch to its longest prompt's length, copies all keys and
values at each token (see `cache`), goes on computing rows that have ended, and asks the device at each step whether to
go on. What a model's generation config asks for (penalties, suppressed tokens, warpers) is transformers' own.

The host runs ahead of the device and never waits for it until the end. Which rows have ended it learns from a copy that
is on its way while later steps are queued; a row that ended in between has answered a few tokens too many, which are
cut off.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import numpy as np
import torch
from torch import Tensor
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    RepetitionPenaltyLogitsProcessor,
)

from adafv.engine.cache import BatchCache
from adafv.engine.grammar import Grammar
from adafv.engine.masks import BatchMasks
from adafv.engine.options import EngineOptions
from adafv.engine.sequence import Prompts
from adafv.internals import logits_processors
from adafv.models import Adapter, Processing
from adafv.uploading import uploaded


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer: `ids` with the end token, if there is one, and each one's log-probability; `finish_reason`
    `stop` or `length`.

    Where scores were NaN or infinite, so is `mean_logprob`, and the rest is of no account.
    """

    ids: list[int]
    finish_reason: str
    logprobs: list[float]

    @property
    def mean_logprob(self) -> float:
        return sum(self.logprobs) / len(self.logprobs)


class Generator:
    """Answers batches with a loaded model.

    Attributes:
        grammar: what answers are held to, if anything.
        LEAVING: ended rows leave the batch when they are this share of it: leaving costs a copy of what stays.
    """

    LEAVING: ClassVar[float] = 0.25

    def __init__(
        self,
        adapter: Adapter,
        options: EngineOptions,
        processing: Processing | None = None,
        grammar: Grammar | None = None,
    ) -> None:
        self._masks = None if grammar is None else BatchMasks(grammar)
        self.grammar = grammar
        self._adapter, self._steps, self._sampling = adapter, options.max_new_tokens, options.temperature > 0
        self._device = adapter.model.device
        config, self._processing = generation_config(adapter, options), processing
        self._stops = None if options.stop is None else Stops(options.stop, processing)
        self._ends = sorted(end_tokens(config))
        self._end_ids = torch.tensor(self._ends, dtype=torch.int64, device=self._device)
        self._raw_scores = _RawScores()
        own: list[LogitsProcessor] = [self._raw_scores] if self._masks is None else [self._raw_scores, self._masks]
        if options.banned_words is not None:
            own.insert(0, _Banned(_spellings(processing, options.banned_words), self._device))
        self._processors = processors(adapter, config, own)
        self._penalty: _Penalty | None = None
        for place, one in enumerate(self._processors):
            if isinstance(one, RepetitionPenaltyLogitsProcessor):
                self._penalty = self._processors[place] = _Penalty(one)

    def with_options(self, options: EngineOptions) -> Generator:
        """The same model, decoding by other options."""
        return Generator(self._adapter, options, self._processing, self.grammar)

    @torch.inference_mode()
    def __call__(
        self,
        groups: Sequence[Prompts],
        seeds: Sequence[int],
        on_prefilled: Callable[[], None],
        on_step: Callable[[], None],
        prompt_ids: Sequence[np.ndarray] = (),
    ) -> list[Answer]:
        """Answer a batch.

        Args:
            groups: the B prompts.
            seeds: of each answer, for sampling; greedy decoding ignores them. As many for each prompt, one prompt's
                behind the other's, in the batch's order.
            on_prefilled: called when all prompts' prefill is queued.
            on_step: called when a group's prefill, and when a step of all rows, is queued.
            prompt_ids: int [T] each, the tokens of the samples' prompts, in the batch's order, which a repetition
                penalty applies to as well; without them it applies to the answers' tokens only.

        Returns:
            The answers, one to a seed, in their order. Several to a prompt share its prefill.
        """
        prompts = [row for group in groups for row in group.rows]
        each = len(seeds) // len(prompts)
        order = [row * each + number for row in prompts for number in range(each)]
        draws = self._draws([seeds[one] for one in order])
        if self._penalty is not None:
            self._penalty.begin([prompt_ids[one // each] for one in order] if prompt_ids else [], self._device)
        if self._masks is not None:
            self._masks.begin(len(order))
        width = max(group.embeds.shape[1] for group in groups)
        cache = BatchCache(self._adapter.depth, len(prompts), width + self._steps)
        scores = prefill(self._adapter, groups, cache, on_step)
        on_prefilled()
        lengths = torch.cat([group.lengths for group in groups])
        following = [group.following for group in groups if group.following is not None]
        behind = torch.cat(following) if following else lengths
        if each > 1:
            cache.repeat(each)
            scores, lengths, behind = (one.repeat_interleave(each, dim=0) for one in (scores, lengths, behind))
        cache.begin_decode(width, lengths, behind)
        masked = self._needs_mask(lengths, width, groups)
        tokens, logprobs = self._decode(scores, cache, masked, draws, on_step)
        found = zip(order, tokens.tolist(), logprobs.tolist(), strict=True)
        answers = {place: self._cut(ids, scored) for place, ids, scored in found}
        return [answers[place] for place in range(len(seeds))]

    def _needs_mask(self, lengths: Tensor, width: int, groups: Sequence[Prompts]) -> bool:
        """Whether some prompt is shorter than the longest, so that decoding has to mask what is behind it. True where
        only the device knows.
        """
        if any(group.embeds.shape[1] < width for group in groups) or self._device.type != "cpu":
            return True
        return bool((lengths < width).any())

    def _decode(
        self, scores: Tensor, cache: BatchCache, masked: bool, draws: Tensor | None, on_step: Callable[[], None]
    ) -> tuple[Tensor, Tensor]:
        """int64 and float32 [B, S], the tokens and their log-probabilities; what follows an end is of no account."""
        rows = len(scores)
        tokens = torch.zeros(rows, self._steps, dtype=torch.int64, device=self._device)
        logprobs = torch.zeros(rows, self._steps, device=self._device)
        alive = torch.arange(rows, device=self._device)  # which rows are still in the batch
        ended = torch.zeros(rows, dtype=torch.bool, device=self._device)
        watcher = _EndWatcher()
        for step in range(self._steps):
            chosen, logprob = self._choose(tokens[alive, :step], scores, None if draws is None else draws[alive, step])
            tokens[alive, step], logprobs[alive, step] = chosen, logprob
            ended = ended | (chosen[:, None] == self._end_ids).any(dim=1) | ~logprob.isfinite()
            on_step()
            flags = self._watched(watcher, ended, tokens, alive, step + 1)
            if step + 1 == self._steps or (flags is not None and all(flags)):
                break
            if flags is not None and sum(flags) >= self.LEAVING * len(flags):
                stay = uploaded(torch.tensor([row for row, flag in enumerate(flags) if not flag]), self._device)
                alive, ended, chosen = alive[stay], ended[stay], chosen[stay]
                cache.keep(stay)
                if self._penalty is not None:
                    self._penalty.keep(stay)
                if self._masks is not None:
                    self._masks.keep([not flag for flag in flags])
                watcher.reset()
            if self._masks is not None:
                self._masks.advance(chosen)
            scores = self._step(chosen, cache, masked)
        return tokens, logprobs

    def _watched(
        self, watcher: _EndWatcher, ended: Tensor, tokens: Tensor, alive: Tensor, length: int
    ) -> list[bool] | None:
        """Which rows of the batch have ended, as far as it is known: by a token, or with one of the texts that stop."""
        if self._stops is None:
            return watcher.check(ended)
        both = watcher.check(torch.cat([ended[:, None].long(), tokens[alive, :length]], dim=1))
        return None if both is None else [bool(flag) or self._stops.length(said) is not None for flag, *said in both]

    def _step(self, chosen: Tensor, cache: BatchCache, masked: bool) -> Tensor:
        """[b, V]: the scores behind `chosen`, int64 [b]."""
        positions = cache.advance()
        embeds = self._adapter.embed(chosen[:, None])
        hidden = self._adapter.forward(embeds, positions, cache.mask() if masked else None, cache)
        return self._adapter.score(hidden[:, -1])

    def _choose(self, answers: Tensor, scores: Tensor, draws: Tensor | None) -> tuple[Tensor, Tensor]:
        """The next token of each row, int64 [b], and its log-probability before any warping, float32 [b]."""
        scores = scores.float()
        for process in self._processors:  # the list itself looks up each one's signature at every step
            scores = process(cast(torch.LongTensor, answers), cast(torch.FloatTensor, scores))
        if draws is None:
            chosen = scores.argmax(dim=1)
        else:  # where the cumulated probability passes a number between 0 and 1
            passed = scores.softmax(dim=1).cumsum(dim=1)
            chosen = torch.searchsorted(passed, draws[:, None] * passed[:, -1:], right=True).squeeze(1)
            chosen = chosen.clamp_max(scores.shape[1] - 1)
        before = self._raw_scores.scores
        return chosen, before.gather(1, chosen[:, None]).squeeze(1) - before.logsumexp(dim=1)

    def _draws(self, seeds: Sequence[int]) -> Tensor | None:
        """float32 [B, S], uniform in [0, 1), a row from each seed: so that a sample draws the same in every batch. None
        for greedy decoding.
        """
        if not self._sampling:
            return None
        drawn = [torch.rand(self._steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return uploaded(torch.stack(drawn), self._device)

    def _cut(self, tokens: list[int], logprobs: list[float]) -> Answer:
        """An answer ends at its first end token."""
        stop = next((place for place, token in enumerate(tokens) if token in self._ends), None)
        length = len(tokens) if stop is None else stop + 1
        if self._stops is not None and (found := self._stops.length(tokens[:length])) is not None:
            return Answer(tokens[:found], "stop", logprobs[:found])
        return Answer(tokens[:length], "length" if stop is None else "stop", logprobs[:length])


def prefill(adapter: Adapter, groups: Sequence[Prompts], cache: BatchCache, on_step: Callable[[], None]) -> Tensor:
    """[B, V]: the scores behind each prompt, whose keys and values go into `cache`. `on_step` is called behind each of
    the groups.
    """
    scores, first = [], 0
    for group in groups:
        count, length, _ = group.embeds.shape
        cache.begin_prefill(first, count, length)
        positions = group.positions
        if positions is None:
            positions = torch.arange(length, device=group.embeds.device).expand(count, -1)
        hidden = adapter.forward(group.embeds, positions, None, cache, group.deepstack)
        last = (group.lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        scores.append(adapter.score(hidden.gather(1, last).squeeze(1)))
        first += count
        on_step()
    return torch.cat(scores)


class _Penalty(LogitsProcessor):
    """A repetition penalty, for the tokens of the prompts as well: transformers' `generate` takes them for the
    beginning of the answers. The other processors see the answer only.
    """

    def __init__(self, inner: RepetitionPenaltyLogitsProcessor) -> None:
        self._inner = inner
        self._prompts: Tensor | None = None

    def begin(self, prompt_ids: Sequence[np.ndarray], device: torch.device) -> None:
        """Start a batch of answers to these prompts; if there are none, to prompts that are not known."""
        self._prompts = None
        if prompt_ids:
            longest = max(map(len, prompt_ids))
            # Filled up with what is penalised in any case, and once however often it is there.
            filled = np.stack(
                [np.pad(row.astype(np.int64), (0, longest - len(row)), mode="edge") for row in prompt_ids]
            )
            self._prompts = uploaded(torch.from_numpy(filled), device)

    def keep(self, rows: Tensor) -> None:
        if self._prompts is not None:
            self._prompts = self._prompts[rows]

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


class _RawScores(LogitsProcessor):
    """Keeps the scores behind what a generation config does to them, and before warpers. Changes nothing."""

    scores: Tensor  # float32 [b, V], of the newest step

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self.scores = scores
        return scores


class Stops:
    """Texts before which an answer ends."""

    def __init__(self, texts: Sequence[str], processing: Processing | None) -> None:
        assert processing is not None  # the engine has it
        self._texts, self._decode = texts, processing.tokenizer.decode

    def length(self, ids: Sequence[int]) -> int | None:
        """How many of an answer's tokens it takes for one of the texts to be there; None if none is."""
        if self._place(ids) is None:
            return None
        low, high = 0, len(ids)  # not there by `low`, there by `high`
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._place(ids[:middle]) is not None else (middle, high)
        return high

    def before(self, text: str) -> str:
        """An answer's text up to the first of them."""
        return text[: min((at for one in self._texts if (at := text.find(one)) >= 0), default=len(text))]

    def _place(self, ids: Sequence[int]) -> int | None:
        text = self._decode(list(ids), skip_special_tokens=True)
        return min((at for one in self._texts if (at := text.find(one)) >= 0), default=None)


class _EndWatcher:
    """Tells the host which rows have ended, without waiting for the device: on a GPU by copies that arrive later."""

    def __init__(self) -> None:
        self._pending: tuple[Tensor, torch.cuda.Event] | None = None

    def check(self, ended: Tensor) -> list[Any] | None:
        """Which rows had ended by the copy that has just arrived; None if none has. Starts the next copy. `ended` is
        bool [b], or has more columns: [b, C].
        """
        if ended.device.type != "cuda":
            return ended.tolist()
        arrived = None
        if self._pending is not None:
            if not self._pending[1].query():
                return None
            arrived = self._pending[0].tolist()
        copied = torch.empty(ended.shape, dtype=ended.dtype, pin_memory=True).copy_(ended, non_blocking=True)
        event = torch.cuda.Event()
        event.record()
        self._pending = copied, event
        return arrived

    def reset(self) -> None:
        """Drop the copy under way: the batch has other rows now."""
        self._pending = None


def processors(adapter: Adapter, config: GenerationConfig, own: Sequence[LogitsProcessor]) -> LogitsProcessorList:
    """What `config` does to scores, in transformers' own order; those of our `own` stand before the warpers."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Passing `repetition_penalty` with `inputs_embeds`")  # see `_Penalty`
        return logits_processors(adapter.model, config, LogitsProcessorList(own))


def generation_config(adapter: Adapter, options: EngineOptions) -> GenerationConfig:
    """The model's own, with decoding as `options` ask: a checkpoint that defaults to sampling must not sample here."""
    config = copy.deepcopy(cast(Any, adapter.model).generation_config)
    sampling = options.temperature > 0
    config.update(
        max_new_tokens=options.max_new_tokens,
        max_length=None,
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
            suppress_tokens=None,
            begin_suppress_tokens=None,
            bad_words_ids=None,
            no_repeat_ngram_size=None,
            min_length=None,
            min_new_tokens=None,
        )
    return config


def _spellings(processing: Processing | None, words: Sequence[str]) -> list[list[int]]:
    """The tokens of each word, by itself and behind a space, as written, in small letters and with a capital one."""
    assert processing is not None  # the engine has it
    forms = dict.fromkeys(form for word in words for form in (word, word.lower(), word.capitalize()))
    texts = [space + form for form in forms for space in ("", " ")]
    found = [processing.tokenizer(text, add_special_tokens=False)["input_ids"] for text in texts]
    found += [processing.answer_ids(word) for word in words]
    unknown = processing.tokenizer.unk_token_id
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids and unknown not in ids]


def end_tokens(config: GenerationConfig) -> set[int]:
    """The tokens that end an answer."""
    end = config.eos_token_id
    return set(end) if isinstance(end, list) else set() if end is None else {end}
