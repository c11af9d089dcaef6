"""transformers' own `generate`, observed.

The loop, its stopping rules and whatever a model's generation config asks for stay transformers'; a logits processor
that changes nothing looks on. At each step it sees the scores and the tokens chosen so far, so that the log-probability
of each chosen token is known one step later, without keeping every step's scores. Its first call marks the end of
prefill.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from torch import Tensor
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList, PreTrainedModel

from adafv.engine.options import EngineOptions


@dataclass(frozen=True, slots=True)
class Answer:
    """One generated answer: `ids` with the end token, if there is one; `finish_reason` `stop` or `length`."""

    ids: list[int]
    finish_reason: str
    mean_logprob: float


class _Observer(LogitsProcessor):
    """Collects the log-probability of each chosen token; calls `on_step` at each step, `on_prefilled` at the first."""

    def __init__(self, on_prefilled: Callable[[], None], on_step: Callable[[], None]) -> None:
        self._on_prefilled, self._on_step = on_prefilled, on_step
        self._last: Tensor | None = None  # [B, V], log-probabilities of the newest step
        self._chosen: list[Tensor] = []

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        self._on_step()
        if self._last is None:
            self._on_prefilled()
        else:
            self._note(input_ids[:, -1])
        self._last = scores.log_softmax(dim=-1)
        return scores

    def logprobs(self, tokens: Tensor) -> Tensor:
        """float32 [B, S], for the whole output `tokens` [B, S]."""
        self._note(tokens[:, -1])
        return torch.stack(self._chosen, dim=1)

    def _note(self, tokens: Tensor) -> None:
        assert self._last is not None
        self._chosen.append(self._last.gather(1, tokens[:, None]).squeeze(1))


@torch.inference_mode()
def generate(
    model: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor,
    options: EngineOptions,
    seed: int,
    on_prefilled: Callable[[], None],
    on_step: Callable[[], None],
) -> list[Answer]:
    """Answer a left-padded batch.

    Args:
        inputs_embeds: [B, L, D].
        attention_mask: [B, L], 1 where a token stands, 0 where padded.
        seed: for sampling; greedy decoding ignores it.
        on_prefilled: called when the first token's scores are queued.
        on_step: called when each token's scores are queued.
    """
    observer = _Observer(on_prefilled, on_step)
    config = _generation_config(model, options)
    with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
        torch.manual_seed(seed)
        tokens: Tensor = cast(Any, model).generate(
            inputs_embeds=inputs_embeds,
            attention_mask=attention_mask,
            generation_config=config,
            logits_processor=LogitsProcessorList([observer]),
        )
    logprobs = observer.logprobs(tokens).tolist()
    ends = _end_tokens(config)
    return [_answer(row, row_logprobs, ends) for row, row_logprobs in zip(tokens.tolist(), logprobs, strict=True)]


def _generation_config(model: PreTrainedModel, options: EngineOptions) -> GenerationConfig:
    """The model's own, with decoding as `options` ask: a checkpoint that defaults to sampling must not sample here."""
    config = copy.deepcopy(model.generation_config)
    sampling = options.temperature > 0
    config.update(
        max_new_tokens=options.max_new_tokens,
        max_length=None,
        num_beams=1,
        do_sample=sampling,
        temperature=options.temperature if sampling else None,
        top_p=options.top_p if sampling else None,
        top_k=0 if sampling else None,  # None would mean transformers' default of 50
        return_dict_in_generate=False,
    )
    if config.pad_token_id is None:  # finished rows of a batch are filled up with it; any token would do
        config.pad_token_id = min(_end_tokens(config), default=0)
    return config


def _end_tokens(config: GenerationConfig) -> set[int]:
    end = config.eos_token_id
    return set(end) if isinstance(end, list) else set() if end is None else {end}


def _answer(tokens: list[int], logprobs: list[float], ends: set[int]) -> Answer:
    """Cut one row at its first end token; what follows is padding."""
    stop = next((place for place, token in enumerate(tokens) if token in ends), None)
    length = len(tokens) if stop is None else stop + 1
    mean = sum(logprobs[:length]) / length
    return Answer(tokens[:length], "length" if stop is None else "stop", mean)
