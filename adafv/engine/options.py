"""The engine's one configuration class, with its checks beside it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from adafv.pruning import Strategy

DTYPES = ("auto", "float32", "bfloat16", "float16")
TEXT_SCOPES = ("question", "prompt")
NEWLINES = ("drop", "rows")
BACKENDS = ("transformers", "vllm")
QUANTIZATIONS = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to prune and generate. Everything here can change a label; batch sizes cannot, so they are not here.

    Attributes:
        strategy: a name from `adafv.pruning.STRATEGIES`.
        keep: fraction of each image's visual tokens to keep, in (0, 1]; K = round(keep * N), at least 1.
        keep_tokens: a count instead of a fraction, of each image; one with fewer tokens keeps all of them.
        max_new_tokens: at most so many tokens are generated.
        text_scope: which text the text cue sees: the `question`, or all of the `prompt` that follows the image, as the
            authors' code does.
        text_tower: a folder or hub id of the CLIP model that the model's vision tower comes from, for strategies that
            take the question's relevance from CLIP's text tower. Without it they make do with input embeddings.
        escalate: an answer whose confidence is below `escalate_below` is asked again with this share of each image's
            visual tokens; 1.0 is unpruned, whatever the strategy. The images aren't encoded again.
        escalate_below: a log-probability, compared with `Label.confidence`; needed with `escalate`, and idle without.
        newlines: what becomes of the newline embeddings of any-resolution models when tokens are pruned: `drop` them,
            or keep those of `rows` that keep a token.
        temperature: 0 is greedy; above, tokens are sampled, and `top_p` and `seed` apply.
        device: `auto` (CUDA where there is one), or a torch device.
        dtype: `auto` (bfloat16 on CUDA, float32 elsewhere), `float32`, `bfloat16` or `float16`.
        quantize: the language model's weights in 8 or 4 bits: `int8` or `int4` (adafv.models.quantization).
        backend: what the language model runs on: `transformers` with the engine's own loop, or `vllm` (docs/vllm.md).
        tensor_parallel: GPUs that the language model is spread over; more than one with `vllm` alone.
    """

    strategy: str = "adafv-plus"
    keep: float = 0.1
    keep_tokens: int | None = None
    escalate: float | None = None
    escalate_below: float | None = None
    max_new_tokens: int = 64
    text_scope: str = "question"
    text_tower: str | None = None
    newlines: str = "drop"
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    backend: str = "transformers"
    tensor_parallel: int = 1

    def __post_init__(self) -> None:
        from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER  # here: options travel to where there is no need of torch

        _one_of("strategy", self.strategy, tuple(STRATEGIES))
        _require(
            self.text_tower is None or self.strategy in WITH_TEXT_TOWER,
            "text_tower",
            self.text_tower,
            f"left out: strategy {self.strategy!r} doesn't read it; those that do are {', '.join(WITH_TEXT_TOWER)}",
        )
        _one_of("text_scope", self.text_scope, TEXT_SCOPES)
        _one_of("newlines", self.newlines, NEWLINES)
        _one_of("dtype", self.dtype, DTYPES)
        _one_of("backend", self.backend, BACKENDS)
        most = "at least 1" if self.backend == "vllm" else f"1 with backend {self.backend!r}; give backend 'vllm'"
        fits = self.tensor_parallel >= 1 and (self.tensor_parallel == 1 or self.backend == "vllm")
        _require(fits, "tensor_parallel", self.tensor_parallel, most)
        if self.quantize is not None:
            _one_of("quantize", self.quantize, QUANTIZATIONS)
            ours = f"left out: backend {self.backend!r} loads its weights itself"
            _require(self.backend == "transformers", "quantize", self.quantize, ours)
            gpu = self.quantize != "int4" or (self.device != "cpu" and self.dtype in ("auto", "bfloat16"))
            _require(
                gpu, "quantize", self.quantize, f"int8 for {self.dtype} on {self.device}: int4 is for bfloat16 on a GPU"
            )
        _require(0 < self.keep <= 1, "keep", self.keep, "a fraction above 0 and at most 1")
        _require(self.keep_tokens is None or self.keep_tokens >= 1, "keep_tokens", self.keep_tokens, "at least 1")
        self._check_second_look()
        _require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        _require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or above")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")

    def _check_second_look(self) -> None:
        """Raise a ValueError if answers can't be asked again as `escalate` and `escalate_below` say."""
        if self.escalate is None:
            _require(self.escalate_below is None, "escalate_below", self.escalate_below, "left out without escalate")
            return
        least = 0.0 if self.keep_tokens is not None else self.keep
        _require(
            self.strategy != "none", "escalate", self.escalate, "left out: strategy 'none' keeps all tokens at once"
        )
        _require(least < self.escalate <= 1, "escalate", self.escalate, f"a fraction above {least:g} and at most 1")
        number = self.escalate_below is not None and not math.isnan(self.escalate_below)
        _require(number, "escalate_below", self.escalate_below, "a log-probability, such as -0.1, with escalate")

    @property
    def second_look(self) -> EngineOptions | None:
        """How an answer that isn't sure is asked again: as one that is labelled with `escalate` at once. None where
        none is.
        """
        if self.escalate is None:
            return None
        again = replace(self, keep=self.escalate, keep_tokens=None, escalate=None, escalate_below=None)
        return replace(again, strategy="none", text_tower=None) if self.escalate == 1 else again

    @property
    def ratio(self) -> float | None:
        """The share of an image's visual tokens that is kept; None where `keep_tokens` says how many."""
        if self.strategy == "none":
            return 1.0
        return self.keep if self.keep_tokens is None else None

    @property
    def rule(self) -> Strategy:
        """The strategy, in its form with or without the text tower."""
        from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER

        return (STRATEGIES if self.text_tower is None else WITH_TEXT_TOWER)[self.strategy]

    def kept_of(self, visual_tokens: int) -> int:
        """K, how many of an image's `visual_tokens` (N) to keep."""
        if self.strategy == "none":
            return visual_tokens
        if self.keep_tokens is not None:
            return min(self.keep_tokens, visual_tokens)
        return max(1, int(self.keep * visual_tokens + 0.5))


def _one_of(name: str, value: str, known: tuple[str, ...]) -> None:
    if value not in known:
        raise ValueError(f"{name} is {value!r}; it must be one of {', '.join(known)}")


def _require(holds: bool, name: str, value: object, demand: str) -> None:
    if not holds:
        raise ValueError(f"{name} is {value!r}; it must be {demand}")
