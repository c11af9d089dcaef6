"""The engine's one configuration class, with its checks beside it.

An option of the engine is declared here and nowhere else: `adafv label` has it, `--config` takes it, and the recipe of
an output names it where its group is `model`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any

from adafv.engine.flags import FLAGS
from adafv.option import json_object, json_schema, option, require, require_one_of, texts_of

if TYPE_CHECKING:
    from adafv.pruning import Strategy

DTYPES = ("auto", "float32", "bfloat16", "float16")
TEXT_SCOPES = ("question", "prompt")
NEWLINES = ("drop", "rows")
POSITIONS = ("compact", "kept")
BACKENDS = ("transformers", "vllm")
QUANTIZATIONS = ("int8", "int4")

_COUNTS = ("keep_tokens", "max_image_tokens", "max_new_tokens", "min_new_tokens", "no_repeat_ngram", "top_k", "samples")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to prune and generate. Everything here can change a label; batch sizes, on a CPU in float32, can't, so they
    are not here.

    Raises OptionError for a wrong value. Below each option says what it does; some need more words:

    Attributes:
        keep: K = keep * N, rounded half up, at least 1. `keep_tokens`: an image with fewer tokens keeps all of them.
        choices: the answer is the one that the model finds most probable (adafv.engine.choices).
        schema: its text, a file, a mapping, or a Pydantic model; it is kept as text (adafv.engine.grammar).
        banned_words: texts whose tokens don't stand in an answer: as its beginning, after a space or after a sign.
        repetition_penalty: for the prompt's tokens as well, as transformers has it.
        text_scope: the `question`, or all of the `prompt` that follows the image, as the authors' code does, if
            anything does.
        text_tower: a folder or hub id of the CLIP model that the model's vision tower comes from, for strategies that
            take the question's relevance from CLIP's text tower. Without it they make do with input embeddings.
        escalate: 1.0 is unpruned, whatever the strategy. The images aren't encoded again.
        escalate_below: compared with `Label.confidence`: a log-probability, or with choices a difference of two
            probabilities; needed with `escalate` unless there are `escalate_flags`, and idle without.
        thresholds: as JSON, a column and, by its values (`Sample.stratum`), what is used in place of `escalate_below`.
        audit: fraction of the samples, drawn by their ids, that are asked unpruned as well (`Label.audit_answer`).
        positions: where the language model sees what is left of a pruned prompt: where it stood unpruned (`kept`; the
            default with `transformers`), or one place after the other (`compact`; the default with `vllm`, which keeps
            those of some models only; also what becomes of a prompt that doesn't fit the model's context unpruned).
            Families with M-RoPE always keep theirs.
        samples: so many answers are sampled after one prefill, that of number i with `seed` + i, from 0 on.
        backend: what the language model runs on: `transformers` with the engine's own loop, or `vllm` (docs/vllm.md).
    """

    strategy: str = option("model", "how visual tokens are selected; none keeps all", "adafv-plus", metavar="NAME")
    keep: float = option("model", "fraction of each image's visual tokens to keep", 0.1, type=float, metavar="X")
    keep_tokens: int | None = option(
        "model", "instead: visual tokens to keep of each image", None, type=int, metavar="K"
    )
    escalate: float | None = option(
        "model",
        "ask unsure answers again with this fraction; 1.0 is unpruned",
        None,
        type=float,
        metavar="X",
    )
    escalate_below: float | None = option(
        "model",
        "answers less confident than this are unsure; a log-probability, with choices a lead such as 0.2",
        None,
        type=float,
        metavar="X",
    )
    thresholds: str | None = option(
        "model",
        "other thresholds for rows with certain values in a column, as JSON",
        None,
        metavar="JSON",
    )
    choices: tuple[str, ...] | None = option(
        "model",
        "the answer is one of these; or @FILE, one per line",
        None,
        metavar="A,B,...",
        several=True,
    )
    schema: str | None = option(
        "model", "JSON schema of the answer; its properties become columns", None, metavar="FILE"
    )
    regex: str | None = option("model", "regular expression that the whole answer matches", None, metavar="TEXT")
    escalate_flags: tuple[str, ...] | None = option(
        "model",
        "also ask answers with these flags again: loop, cut, empty, refusal",
        None,
        metavar="A,B,...",
        several=True,
        after="escalate_below",
    )
    answer_prefix: str | None = option("model", "text that every answer begins with", None, metavar="TEXT")
    max_new_tokens: int = option("model", "longest answer, in tokens", 64, type=int, metavar="N")
    min_new_tokens: int | None = option("model", "shortest answer, in tokens", None, type=int, metavar="N")
    stop: tuple[str, ...] | None = option("model", "texts that end an answer", None, metavar="A,B,...", several=True)
    banned_words: tuple[str, ...] | None = option(
        "model", "words to keep out of answers, or @FILE", None, metavar="A,B,...", several=True
    )
    repetition_penalty: float | None = option(
        "model",
        "above 1, tokens of prompt and answer are less likely (default: the checkpoint's)",
        None,
        type=float,
        metavar="X",
    )
    no_repeat_ngram: int | None = option(
        "model",
        "no N tokens in a row occur twice in an answer (default: the checkpoint's)",
        None,
        type=int,
        metavar="N",
    )
    max_image_tokens: int | None = option(
        "model",
        "shrink images to at most N visual tokens each, before pruning",
        None,
        type=int,
        metavar="N",
    )
    image_options: str | None = option("model", "image processor settings, as JSON", None, metavar="JSON")
    text_scope: str = option("model", "text that guides selection: question or prompt", "question", metavar="NAME")
    text_tower: str | None = option(
        "model", "the vision tower's CLIP model, for cdpruner and eadp", None, metavar="PATH"
    )
    newlines: str = option(
        "model", "newline embeddings: drop, or keep those of rows that keep a token (rows)", "drop", metavar="NAME"
    )
    positions: str | None = option(
        "model",
        "positions of kept tokens: kept, as unpruned, or compact, renumbered (default: kept; compact with vllm)",
        None,
        metavar="NAME",
        formerly="compact",
    )
    temperature: float = option("model", "0 is greedy; above, sample", 0.0, type=float, metavar="T")
    top_p: float = option(
        "model", "sample from the most likely tokens with this probability together", 1.0, type=float, metavar="P"
    )
    top_k: int | None = option("model", "sample from the K most likely tokens", None, type=int, metavar="K")
    seed: int = option("model", "seed of sampling", 0, type=int, metavar="N")
    samples: int | None = option(
        "model", "draw N answers per row, at a --temperature above 0", None, type=int, metavar="N"
    )
    quantize: str | None = option(
        "model",
        "language model's weights: int8, or int4, untested, on a GPU in bfloat16 (needs adafv[quantize])",
        None,
        metavar="NAME",
    )
    backend: str = option(
        "model",
        "what runs the language model: transformers or vllm",
        "transformers",
        metavar="NAME",
        formerly="transformers",
    )
    audit: float = option(
        "ending",
        "fraction of rows to label unpruned as well, for agreement",
        0.0,
        type=float,
        metavar="X",
        after="max_hours",
    )
    device: str = option(
        "hardware",
        "cpu, cuda (waits for GPUs) or auto (GPUs if the cluster has any now)",
        "auto",
        metavar="NAME",
        after="batch_size",
    )
    dtype: str = option(
        "hardware",
        "float32, bfloat16, float16 or auto: bfloat16 on a GPU, float16 if it has none, float32 on a CPU",
        "auto",
        metavar="NAME",
        after="device",
    )
    tensor_parallel: int = option(
        "hardware", "GPUs per worker, with --backend vllm", 1, type=int, metavar="N", after="batch_timeout"
    )

    def __post_init__(self) -> None:
        from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER  # here: options travel to where there is no need of torch

        require_one_of("strategy", self.strategy, tuple(STRATEGIES))
        unset = f"unset with strategy {self.strategy!r}: only {', '.join(WITH_TEXT_TOWER)} use it"
        require(self.text_tower is None or self.strategy in WITH_TEXT_TOWER, "text_tower", self.text_tower, unset)
        require_one_of("text_scope", self.text_scope, TEXT_SCOPES)
        require_one_of("newlines", self.newlines, NEWLINES)
        if self.positions is None:
            object.__setattr__(self, "positions", "kept" if self.backend == "transformers" else "compact")
        require_one_of("positions", self.positions, POSITIONS)
        require_one_of("dtype", self.dtype, DTYPES)
        require_one_of("backend", self.backend, BACKENDS)
        most = "at least 1" if self.backend == "vllm" else f"1 with backend {self.backend!r}; backend 'vllm' takes more"
        fits = self.tensor_parallel >= 1 and (self.tensor_parallel == 1 or self.backend == "vllm")
        require(fits, "tensor_parallel", self.tensor_parallel, most)
        if self.quantize is not None:
            require_one_of("quantize", self.quantize, QUANTIZATIONS)
            ours = f"unset with backend {self.backend!r}, which loads the weights itself"
            require(self.backend == "transformers", "quantize", self.quantize, ours)
            gpu = self.quantize != "int4" or (self.device != "cpu" and self.dtype in ("auto", "bfloat16"))
            require(
                gpu, "quantize", self.quantize, f"int8 for {self.dtype} on {self.device}: int4 needs a GPU and bfloat16"
            )
        require(0 < self.keep <= 1, "keep", self.keep, "a fraction above 0 and at most 1")
        for name in _COUNTS:
            require(getattr(self, name) is None or getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        if self.image_options is not None:
            object.__setattr__(self, "image_options", json_object("image_options", self.image_options))
        self._check_second_look()
        self._check_choices()
        self._check_decoding()
        same = "unset at temperature 0, where all samples are the same; give a temperature such as 0.7"
        require(self.samples is None or self.temperature > 0, "samples", self.samples, same)
        require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or above")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")

    @property
    def has_grammar(self) -> bool:
        """Whether answers are held to a schema or a regular expression."""
        return self.schema is not None or self.regex is not None

    @property
    def image_settings(self) -> dict[str, Any]:
        """`image_options` by name."""
        return {} if self.image_options is None else json.loads(self.image_options)

    @property
    def idle(self) -> frozenset[str]:
        """The options that the others leave no part to play, whatever they are set to."""
        idle = {"keep"} if self.keep_tokens is not None else set()
        if self.strategy == "none":
            idle |= {"keep", "keep_tokens", "text_scope", "newlines", "positions"}
        if self.escalate is None:
            idle |= {"escalate", "escalate_below", "escalate_flags", "thresholds"}
        if self.temperature == 0:
            idle |= {"top_p", "top_k", "seed"}
        if self.choices is not None:
            idle |= {"max_new_tokens"}
        return frozenset(idle)

    def _check_decoding(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "schema", json_schema("schema", self.schema))
        require(self.regex != "", "regex", self.regex, "a regular expression")
        for name in ("stop", "banned_words"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, texts_of(name, getattr(self, name), spaced=name == "stop"))
        least, most = self.min_new_tokens, self.max_new_tokens
        require(least is None or least <= most, "min_new_tokens", least, f"at most max_new_tokens, {most}")
        penalty = self.repetition_penalty
        require(penalty is None or 0 < penalty < math.inf, "repetition_penalty", penalty, "above 0")
        prefix = self.answer_prefix
        require(prefix is None or (bool(prefix) and prefix == prefix.strip()), "answer_prefix", prefix, "a text")
        forbidding = ("stop", "banned_words", "no_repeat_ngram", "min_new_tokens")
        barred = {
            "choices": (self.choices is not None, ("schema", "regex", *forbidding, "repetition_penalty")),
            "schema": (self.schema is not None, ("regex", *forbidding, "answer_prefix")),
            "regex": (self.regex is not None, (*forbidding, "answer_prefix")),
        }
        for other, (given, names) in barred.items():
            for name in names if given else ():
                require(getattr(self, name) is None, name, getattr(self, name), f"unset with {other}")

    def _check_choices(self) -> None:
        if self.choices is None:
            return
        object.__setattr__(self, "choices", texts_of("choices", self.choices))
        scored = "unset with choices: they are scored, and choice_probabilities has the probability of each"
        require(self.samples is None, "samples", self.samples, scored)
        require(self.temperature == 0, "temperature", self.temperature, "0 with choices: they are scored, not drawn")
        ours = f"unset with backend {self.backend!r}, which gives no log-probabilities of prompts of embeddings"
        require(self.backend == "transformers", "choices", self.choices, ours)

    def _check_second_look(self) -> None:
        """Raise a ValueError if answers can't be asked again as `escalate`, `escalate_below` and `audit` say."""
        require(0 <= self.audit <= 1, "audit", self.audit, "a fraction from 0 to 1")
        pruned = self.strategy != "none" or not self.audit
        require(pruned, "audit", self.audit, "0 with strategy 'none': nothing is pruned")
        if self.escalate is None:
            for name in ("escalate_below", "escalate_flags", "thresholds"):
                value = getattr(self, name)
                require(value is None, name, value, "unset without escalate")
            return
        least = 0.0 if self.keep_tokens is not None else self.keep
        unset = "unset with strategy 'none', which keeps all tokens anyway"
        require(self.strategy != "none", "escalate", self.escalate, unset)
        require(least < self.escalate <= 1, "escalate", self.escalate, f"a fraction above {least:g} and at most 1")
        if self.escalate_flags is not None:
            object.__setattr__(self, "escalate_flags", texts_of("escalate_flags", self.escalate_flags))
            for flag in self.escalate_flags:
                require_one_of("escalate_flags", flag, FLAGS)
            if self.escalate_below is None:
                require(self.thresholds is None, "thresholds", self.thresholds, "unset without escalate_below")
                return
        number = self.escalate_below is not None and not math.isnan(self.escalate_below)
        require(
            number, "escalate_below", self.escalate_below, "a log-probability such as -0.1, since escalate is given"
        )
        if self.thresholds is not None:
            wanted = """JSON that maps a column to thresholds by value, such as '{"type": {"colour": -0.1}}'"""
            require(_by_stratum(self.thresholds) is not None, "thresholds", self.thresholds, wanted)

    @property
    def stratum_column(self) -> str | None:
        """The column whose values `thresholds` go by."""
        found = _by_stratum(self.thresholds)
        return None if found is None else found[0]

    def threshold_of(self, stratum: str | None) -> float:
        """The least confidence that needs no second look; there must be second looks."""
        assert self.escalate_below is not None
        found = _by_stratum(self.thresholds)
        return self.escalate_below if found is None or stratum is None else found[1].get(stratum, self.escalate_below)

    @property
    def second_look(self) -> EngineOptions | None:
        """How an answer that isn't sure is asked again: as one that is labelled with `escalate` at once. None where
        none is.
        """
        if self.escalate is None:
            return None
        if self.escalate == 1:
            return self.unpruned
        return replace(self._once, keep=self.escalate, keep_tokens=None)

    @property
    def unpruned(self) -> EngineOptions:
        """The same without pruning."""
        return replace(self._once, keep=1.0, keep_tokens=None, strategy="none", text_tower=None)

    @property
    def _once(self) -> EngineOptions:
        """The same without second looks and audit."""
        return replace(self, escalate=None, escalate_below=None, escalate_flags=None, thresholds=None, audit=0.0)

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
        return max(1, int(self.keep * visual_tokens + 0.5 + 1e-9))  # 0.35 * 90 is a little less than 31.5


@cache
def _by_stratum(text: str | None) -> tuple[str, dict[str, float]] | None:
    """The column and the thresholds by its values that `thresholds` says; None where it says none."""
    try:
        [(column, values)] = json.loads(text or "").items()
        numbers = {value: float(threshold) for value, threshold in values.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    good = column and numbers and not any(isinstance(value, bool | str) for value in values.values())
    return (column, numbers) if good and all(map(math.isfinite, numbers.values())) else None
