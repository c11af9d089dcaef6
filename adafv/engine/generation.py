"""Answering: prefill in groups of like length, then all rows of the batch take their decoding steps together.

The loop is ours, since transformers' `generate` pads a whole batch to its longest prompt's length, copies all keys and
values at each token (see `cache`), goes on computing rows that have ended, and asks the device at each step whether to
go on. What a model's generation config asks for (penalties, suppressed tokens, warpers) is transformers' own.

The host runs ahead of the device and never waits for it until the end. Which rows have ended it learns from a copy that
is on its way while later steps are queued; a row that ended in between has answered a few tokens too many, which are
cut off.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from adafv.engine.cache import BatchCache, cache_for
from adafv.engine.controls import BatchControls, Controls, Stops
from adafv.engine.grammar import Grammar
from adafv.engine.options import EngineOptions
from adafv.engine.sequence import Prompts
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
        self.grammar = grammar
        self._adapter, self._steps, self._sampling = adapter, options.max_new_tokens, options.temperature > 0
        self._device, self._processing = adapter.model.device, processing
        self._controls = Controls(adapter, options, processing, grammar)
        self._stops = None if options.stop is None else Stops(options, processing)
        self._end_ids = torch.tensor(self._controls.ends, dtype=torch.int64, device=self._device)

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
                after the other's, in the batch's order.
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
        controls = self._controls.begin(len(order), [prompt_ids[one // each] for one in order] if prompt_ids else ())
        begun = prefill(self._adapter, groups, self._steps, on_step)
        on_prefilled()
        if each > 1:
            begun = begun.repeated(each)
        begun.cache.begin_decode(begun.width, begun.lengths, begun.following)
        masked = self._needs_mask(begun.lengths, begun.width, groups)
        tokens, logprobs = self._decode(begun.scores, begun.cache, masked, controls, draws, on_step)
        found = zip(order, tokens.tolist(), logprobs.tolist(), strict=True)
        ends, stops = self._controls.ends, self._stops
        answers = {place: cut(ids, scored, ends, stops) for place, ids, scored in found}
        return [answers[place] for place in range(len(seeds))]

    def _needs_mask(self, lengths: Tensor, width: int, groups: Sequence[Prompts]) -> bool:
        """Whether some prompt is shorter than the longest, so that decoding has to mask what is after it. True where
        only the device knows.
        """
        if any(group.embeds.shape[1] < width for group in groups) or self._device.type != "cpu":
            return True
        return bool((lengths < width).any())

    def _decode(
        self,
        scores: Tensor,
        cache: BatchCache,
        masked: bool,
        controls: BatchControls,
        draws: Tensor | None,
        on_step: Callable[[], None],
    ) -> tuple[Tensor, Tensor]:
        """int64 and float32 [B, S], the tokens and their log-probabilities; what follows an end is of no account."""
        rows = len(scores)
        tokens = torch.zeros(rows, self._steps, dtype=torch.int64, device=self._device)
        logprobs = torch.zeros(rows, self._steps, device=self._device)
        alive = torch.arange(rows, device=self._device)  # which rows are still in the batch
        ended = torch.zeros(rows, dtype=torch.bool, device=self._device)
        watcher = _EndWatcher()
        for step in range(self._steps):
            drawn = None if draws is None else draws[alive, step]
            chosen, logprob = self._choose(controls, tokens[alive, :step], scores, drawn)
            tokens[alive, step], logprobs[alive, step] = chosen, logprob
            ended = ended | (chosen[:, None] == self._end_ids).any(dim=1) | ~logprob.isfinite()
            on_step()
            flags = self._watched(watcher, ended, tokens, alive, step + 1)
            if step + 1 == self._steps or (flags is not None and all(flags)):
                break
            if flags is not None and sum(flags) >= self.LEAVING * len(flags):
                left = [row for row, flag in enumerate(flags) if not flag]
                stay = uploaded(torch.tensor(left), self._device)
                alive, ended, chosen = alive[stay], ended[stay], chosen[stay]
                cache.keep(stay)
                controls.keep(left)
                watcher.reset()
            controls.advance(chosen)
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
        """[b, V]: the scores after `chosen`, int64 [b]."""
        positions = cache.advance()
        embeds = self._adapter.embed(chosen[:, None])
        hidden = cache.forward(self._adapter, embeds, positions, cache.mask() if masked else None)
        return self._adapter.score(hidden[:, -1])

    def _choose(
        self, controls: BatchControls, answers: Tensor, scores: Tensor, draws: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """The next token of each row, int64 [b], and its log-probability before grammar and warpers, float32 [b]."""
        scores = controls.scores(answers, scores)
        if draws is None:
            chosen = controls.greedy(scores)
        else:  # where the cumulated probability passes a number between 0 and 1
            warped = controls.masked(scores)
            for warp in self._controls.warpers:
                warped = warp(answers, warped)
            passed = warped.softmax(dim=1).cumsum(dim=1)
            chosen = torch.searchsorted(passed, draws[:, None] * passed[:, -1:], right=True).squeeze(1)
            chosen = chosen.clamp_max(scores.shape[1] - 1)
        return chosen, scores.gather(1, chosen[:, None]).squeeze(1) - scores.logsumexp(dim=1)

    def _draws(self, seeds: Sequence[int]) -> Tensor | None:
        """float32 [B, S], uniform in [0, 1), a row from each seed: so that a sample draws the same in every batch. None
        for greedy decoding.
        """
        if not self._sampling:
            return None
        drawn = [torch.rand(self._steps, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        return uploaded(torch.stack(drawn), self._device)


def cut(tokens: list[int], logprobs: list[float], ends: Sequence[int], stops: Stops | None) -> Answer:
    """The answer that ends at the first end token or with the first text that stops."""
    end = next((place for place, token in enumerate(tokens) if token in ends), None)
    length, reason = (len(tokens), "length") if end is None else (end + 1, "stop")
    if stops is not None and (found := stops.length(tokens[:length])) is not None:
        length, reason = found, "stop"
    return Answer(tokens[:length], reason, logprobs[:length])


@dataclass(frozen=True, slots=True, eq=False)
class Prefilled:
    """B prompts after prefill.

    Attributes:
        cache: their keys and values, in the first `width` columns.
        lengths, following: int64 [B], see `Prompts`.
        scores: [B, V], of the first tokens of their answers.
    """

    cache: BatchCache
    width: int
    lengths: Tensor
    following: Tensor
    scores: Tensor

    def repeated(self, times: int) -> Prefilled:
        """With so many rows for each prompt, one after the other."""
        self.cache.repeat(times)
        rows = (one.repeat_interleave(times, dim=0) for one in (self.lengths, self.following, self.scores))
        return Prefilled(self.cache, self.width, *rows)


def prefill(adapter: Adapter, groups: Sequence[Prompts], more: int, on_step: Callable[[], None]) -> Prefilled:
    """Prefill each of the groups, after which `on_step` is called. The cache has room for so many `more` tokens."""
    width, first = max(group.embeds.shape[1] for group in groups), 0
    cache = cache_for(adapter, sum(len(group.rows) for group in groups), width + more)
    scores = []
    for group in groups:
        count, length, _ = group.embeds.shape
        cache.begin_prefill(first, count, length)
        place = torch.arange(length, device=group.embeds.device)
        positions = place.expand(count, -1) if group.positions is None else group.positions
        positions = positions.where(place < group.lengths[:, None], 0)  # no padding is the furthest, see `longrope`
        hidden = cache.forward(adapter, group.embeds, positions, None, group.deepstack, group.blocks)
        last = (group.lengths - 1)[:, None, None].expand(-1, 1, hidden.shape[2])
        scores.append(adapter.score(hidden.gather(1, last).squeeze(1)))
        first += count
        on_step()
    lengths = torch.cat([group.lengths for group in groups])
    following = [group.following for group in groups if group.following is not None]
    return Prefilled(cache, width, lengths, torch.cat(following) if following else lengths, torch.cat(scores))


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
