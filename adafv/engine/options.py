"""The engine's one configuration class, with its checks beside it.

An option of the engine is declared here and nowhere else: `adafv label` has it, `--config` takes it, and the recipe of
an output names it where its group is `model`.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING

from adafv.engine.flags import FLAGS
from adafv.option import json_schema, option, require, require_one_of, texts_of

if TYPE_CHECKING:
    from adafv.pruning import Strategy

DTYPES = ("auto", "float32", "bfloat16", "float16")
TEXT_SCOPES = ("question", "prompt")
NEWLINES = ("drop", "rows")
POSITIONS = ("compact", "kept")
BACKENDS = ("transformers", "vllm")
QUANTIZATIONS = ("int8", "int4")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOptions:
    """How to prune and generate. Everything here can change a label; batch sizes, on a CPU in float32, can't, so they
    are not here.

    Raises OptionError for a wrong value.

    Attributes:
        strategy: a name from `adafv.pruning.STRATEGIES`.
        keep: fraction of each image's visual tokens to keep, in (0, 1]; K = keep * N, rounded half up, at least 1.
        keep_tokens: a count instead of a fraction, of each image; one with fewer tokens keeps all of them.
        choices: the answer is the one of these that the model finds most probable (adafv.engine.choices).
        schema: the answer is JSON that this JSON schema allows: its text, a file, a mapping, or a Pydantic model; it is
            kept as text (adafv.engine.grammar). `regex`: likewise a regular expression that the whole answer matches.
        max_new_tokens: at most so many tokens are generated; `min_new_tokens`: at least so many.
        stop: an answer ends before the first of these texts.
        banned_words: texts whose tokens don't stand in an answer, neither as its beginning nor behind a space.
        repetition_penalty, no_repeat_ngram: as transformers has them; None leaves what the checkpoint asks for. The
            penalty is for the prompt's tokens as well.
        answer_prefix: what an answer begins with; the model goes on from there.
        text_scope: which text the text cue sees: the `question`, or all of the `prompt` that follows the image, as the
            authors' code does.
        text_tower: a folder or hub id of the CLIP model that the model's vision tower comes from, for strategies that
            take the question's relevance from CLIP's text tower. Without it they make do with input embeddings.
        escalate: an answer whose confidence is below `escalate_below` is asked again with this share of each image's
            visual tokens; 1.0 is unpruned, whatever the strategy. The images aren't encoded again.
        escalate_below: compared with `Label.confidence`: a log-probability, or with choices a difference of two
            probabilities; needed with `escalate` unless there are `escalate_flags`, and idle without.
        thresholds: as JSON, a column and, by its values (`Sample.stratum`), what is used in place of `escalate_below`.
        escalate_flags: answers with one of these flags are asked again as well.
        audit: fraction of the samples, drawn by their ids, that are asked unpruned as well (`Label.audit_answer`).
        newlines: what becomes of the newline embeddings of any-resolution models when tokens are pruned: `drop` them,
            or keep those of `rows` that keep a token.
        positions: where the language model sees what is left of a pruned prompt: where it stood unpruned (`kept`; the
            default with `transformers`), or one place after the other (`compact`; all that `vllm` can do, and its
            default; also what becomes of a prompt that doesn't fit the model's context unpruned). Families with M-RoPE
            always keep theirs.
        temperature: 0 is greedy; above, tokens are sampled, and `top_p`, `top_k` and `seed` apply.
        samples: so many answers are sampled behind one prefill, that of number i with `seed` + i, from 0 on.
        device: `auto` (CUDA where there is one), or a torch device.
        dtype: `auto` (on a GPU bfloat16, or float16 where it has none; elsewhere float32), `float32`, `bfloat16` or
            `float16`.
        quantize: the language model's weights in 8 or 4 bits: `int8` or `int4` (adafv.models.quantization).
        backend: what the language model runs on: `transformers` with the engine's own loop, or `vllm` (docs/vllm.md).
        tensor_parallel: GPUs that the language model is spread over; more than one with `vllm` alone.
    """

    strategy: str = option("model", "how visual tokens are selected; 'none' keeps all", "adafv-plus", metavar="NAME")
    keep: float = option("model", "fraction of the visual tokens to keep", 0.1, type=float, metavar="X")
    keep_tokens: int | None = option(
        "model", "number of visual tokens to keep, instead of --keep", None, type=int, metavar="K"
    )
    escalate: float | None = option(
        "model",
        "ask again, with this fraction of the visual tokens, where the answer's confidence is below --escalate-below; "
        "1.0: unpruned (docs/output.md)",
        None,
        type=float,
        metavar="X",
    )
    escalate_below: float | None = option(
        "model",
        "the least confidence that needs no second look, a log-probability: --escalate-below=-0.05; with choices the "
        "best one's lead, such as 0.2; adafv calibrate finds it",
        None,
        type=float,
        metavar="X",
    )
    thresholds: str | None = option(
        "model",
        "as JSON, thresholds in place of --escalate-below for rows with certain values in a column: "
        """'{"type": {"colour": -0.1, "count": -0.02}}'; adafv calibrate --stratify finds them""",
        None,
        metavar="JSON",
    )
    choices: tuple[str, ...] | None = option(
        "model",
        "the answer is one of these, and each has its probability: a,b,c, or @FILE with one to a line (docs/output.md)",
        None,
        metavar="A,B,...",
        several=True,
    )
    schema: str | None = option(
        "model",
        "a file with a JSON schema: the answer is JSON that it allows, with its properties as columns "
        "(docs/answers.md; adafv[schema])",
        None,
        metavar="FILE",
    )
    regex: str | None = option(
        "model", "a regular expression that the whole answer matches (adafv[schema])", None, metavar="TEXT"
    )
    escalate_flags: tuple[str, ...] | None = option(
        "model",
        "also ask again where the answer has one of these flags: loop, cut, empty, refusal (docs/answers.md)",
        None,
        metavar="A,B,...",
        several=True,
        after="escalate_below",
    )
    answer_prefix: str | None = option(
        "model",
        "what each answer begins with, such as 'A photo of'; the model goes on from there",
        None,
        metavar="TEXT",
    )
    max_new_tokens: int = option(
        "model",
        "longest answer, in tokens; the closing table says how many were cut off, and what to try",
        64,
        type=int,
        metavar="N",
    )
    min_new_tokens: int | None = option("model", "shortest answer, in tokens", None, type=int, metavar="N")
    stop: tuple[str, ...] | None = option(
        "model",
        "an answer ends before any of these texts: a,b, or JSON such as '[\"\\n\"]'",
        None,
        metavar="A,B,...",
        several=True,
    )
    banned_words: tuple[str, ...] | None = option(
        "model", "words that answers are kept from: a,b,c, or @FILE", None, metavar="A,B,...", several=True
    )
    repetition_penalty: float | None = option(
        "model",
        "above 1, tokens of the prompt and of the answer so far become less likely (default: the checkpoint's)",
        None,
        type=float,
        metavar="X",
    )
    no_repeat_ngram: int | None = option(
        "model",
        "no N tokens in a row stand twice in an answer (default: the checkpoint's)",
        None,
        type=int,
        metavar="N",
    )
    text_scope: str = option("model", "which text guides the selection: question or prompt", "question", metavar="NAME")
    text_tower: str | None = option(
        "model",
        "the CLIP model that the model's vision tower comes from, named like --model: cdpruner and eadp then "
        "take their relevance from its text tower",
        None,
        metavar="PATH",
    )
    newlines: str = option(
        "model",
        "newline embeddings of any-resolution models: drop, or keep those of rows that keep a token (rows)",
        "drop",
        metavar="NAME",
    )
    positions: str | None = option(
        "model",
        "places of a pruned prompt's tokens: kept as unpruned, or compact, counted anew (default: kept; with "
        "--backend vllm compact); M-RoPE keeps them anyway",
        None,
        metavar="NAME",
        formerly="compact",
    )
    temperature: float = option("model", "0 answers greedily; above, tokens are sampled", 0.0, type=float, metavar="T")
    top_p: float = option(
        "model", "sample from the most likely tokens that make up this share", 1.0, type=float, metavar="P"
    )
    top_k: int | None = option("model", "sample from the K most likely tokens", None, type=int, metavar="K")
    seed: int = option("model", "seed of sampling", 0, type=int, metavar="N")
    samples: int | None = option(
        "model",
        "with a temperature: N sampled answers a row, in a column `samples`; `answer` is the most probable",
        None,
        type=int,
        metavar="N",
    )
    quantize: str | None = option(
        "model",
        "the language model's weights in fewer bits: int8, or on a GPU int4 (adafv[quantize])",
        None,
        metavar="NAME",
    )
    backend: str = option(
        "model",
        "what the language model runs on: transformers, or vllm where that is installed (adafv[vllm])",
        "transformers",
        metavar="NAME",
        formerly="transformers",
    )
    audit: float = option(
        "ending",
        "fraction of the rows, drawn by their ids, that are asked unpruned as well, to watch agreement on this data",
        0.0,
        type=float,
        metavar="X",
        after="max_hours",
    )
    device: str = option(
        "hardware",
        "auto (GPUs where the cluster has any now), cuda (waits for them) or cpu",
        "auto",
        metavar="NAME",
        after="batch_size",
    )
    dtype: str = option(
        "hardware",
        "auto (bfloat16 on a GPU, float16 on one that has none; float32 on a CPU), float32, bfloat16 or float16",
        "auto",
        metavar="NAME",
        after="device",
    )
    tensor_parallel: int = option(
        "hardware",
        "GPUs of each worker, for a language model that doesn't fit one: it is spread over them; with --backend vllm",
        1,
        type=int,
        metavar="N",
        after="batch_timeout",
    )

    def __post_init__(self) -> None:
        from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER  # here: options travel to where there is no need of torch

        require_one_of("strategy", self.strategy, tuple(STRATEGIES))
        require(
            self.text_tower is None or self.strategy in WITH_TEXT_TOWER,
            "text_tower",
            self.text_tower,
            f"left out: strategy {self.strategy!r} doesn't read it; those that do are {', '.join(WITH_TEXT_TOWER)}",
        )
        require_one_of("text_scope", self.text_scope, TEXT_SCOPES)
        require_one_of("newlines", self.newlines, NEWLINES)
        if self.positions is None:
            object.__setattr__(self, "positions", "kept" if self.backend == "transformers" else "compact")
        require_one_of("positions", self.positions, POSITIONS)
        plain = self.positions == "compact" or self.backend == "transformers"
        require(plain, "positions", self.positions, f"compact: backend {self.backend!r} counts positions itself")
        require_one_of("dtype", self.dtype, DTYPES)
        require_one_of("backend", self.backend, BACKENDS)
        most = "at least 1" if self.backend == "vllm" else f"1 with backend {self.backend!r}; give backend 'vllm'"
        fits = self.tensor_parallel >= 1 and (self.tensor_parallel == 1 or self.backend == "vllm")
        require(fits, "tensor_parallel", self.tensor_parallel, most)
        if self.quantize is not None:
            require_one_of("quantize", self.quantize, QUANTIZATIONS)
            ours = f"left out: backend {self.backend!r} loads its weights itself"
            require(self.backend == "transformers", "quantize", self.quantize, ours)
            gpu = self.quantize != "int4" or (self.device != "cpu" and self.dtype in ("auto", "bfloat16"))
            require(
                gpu, "quantize", self.quantize, f"int8 for {self.dtype} on {self.device}: int4 is for bfloat16 on a GPU"
            )
        require(0 < self.keep <= 1, "keep", self.keep, "a fraction above 0 and at most 1")
        require(self.keep_tokens is None or self.keep_tokens >= 1, "keep_tokens", self.keep_tokens, "at least 1")
        self._check_second_look()
        require(self.max_new_tokens >= 1, "max_new_tokens", self.max_new_tokens, "at least 1")
        self._check_choices()
        self._check_grammar()
        self._check_decoding()
        self._check_samples()
        require(self.temperature >= 0, "temperature", self.temperature, "0 (greedy) or above")
        require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")

    @property
    def has_grammar(self) -> bool:
        """Whether answers are held to a schema or a regular expression."""
        return self.schema is not None or self.regex is not None

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

    def _check_grammar(self) -> None:
        if self.schema is not None:
            object.__setattr__(self, "schema", json_schema("schema", self.schema))
        require(self.regex is None or self.schema is None, "regex", self.regex, "left out with schema")
        require(self.regex != "", "regex", self.regex, "a regular expression")
        for name in ("schema", "regex"):
            value, ours = getattr(self, name), f"left out: backend {self.backend!r} isn't held to it here"
            require(value is None or self.backend == "transformers", name, value, ours)
            require(value is None or self.choices is None, name, value, "left out with choices")

    def _check_decoding(self) -> None:
        for name in ("stop", "banned_words"):
            if getattr(self, name) is not None:
                object.__setattr__(self, name, texts_of(name, getattr(self, name), spaced=name == "stop"))
        for name in ("min_new_tokens", "no_repeat_ngram", "top_k"):
            require(getattr(self, name) is None or getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        least, most = self.min_new_tokens, self.max_new_tokens
        require(least is None or least <= most, "min_new_tokens", least, f"at most max_new_tokens, {most}")
        penalty = self.repetition_penalty
        require(penalty is None or 0 < penalty < math.inf, "repetition_penalty", penalty, "above 0")
        prefix = self.answer_prefix
        require(prefix is None or (bool(prefix) and prefix == prefix.strip()), "answer_prefix", prefix, "a text")
        forbidding = ("stop", "banned_words", "no_repeat_ngram", "min_new_tokens")
        barred = {
            "choices": (self.choices is not None, (*forbidding, "repetition_penalty")),
            "schema": (self.schema is not None, (*forbidding, "answer_prefix")),
            "regex": (self.regex is not None, (*forbidding, "answer_prefix")),
            f"backend {self.backend!r}, which does it otherwise": (self.backend != "transformers", forbidding),
        }
        for other, (given, names) in barred.items():
            for name in names if given else ():
                require(getattr(self, name) is None, name, getattr(self, name), f"left out with {other}")
        ours = penalty in (None, 1) or self.backend == "transformers"
        none = f"1, for none even where the checkpoint asks for one: backend {self.backend!r} does it otherwise"
        require(ours, "repetition_penalty", penalty, none)

    def _check_samples(self) -> None:
        if self.samples is None:
            return
        require(self.samples >= 1, "samples", self.samples, "at least 1")
        require(
            self.temperature > 0,
            "samples",
            self.samples,
            "left out at temperature 0, where all are the same; give a temperature such as 0.7",
        )
        ours = f"left out: backend {self.backend!r} draws one answer a row here; give backend 'transformers'"
        require(self.backend == "transformers", "samples", self.samples, ours)

    def _check_choices(self) -> None:
        if self.choices is None:
            return
        object.__setattr__(self, "choices", texts_of("choices", self.choices))
        scored = "left out with choices: they are scored, and choice_probabilities has the probability of each"
        require(self.samples is None, "samples", self.samples, scored)
        require(self.temperature == 0, "temperature", self.temperature, "0 with choices: they are scored, not drawn")
        require(
            self.backend == "transformers", "choices", self.choices, f"left out: backend {self.backend!r} scores none"
        )

    def _check_second_look(self) -> None:
        """Raise a ValueError if answers can't be asked again as `escalate`, `escalate_below` and `audit` say."""
        require(0 <= self.audit <= 1, "audit", self.audit, "a fraction from 0 to 1")
        pruned = self.strategy != "none" or not self.audit
        require(pruned, "audit", self.audit, "left out: strategy 'none' prunes nothing that could be audited")
        if self.escalate is None:
            for name in ("escalate_below", "escalate_flags", "thresholds"):
                value = getattr(self, name)
                require(value is None, name, value, "left out without escalate")
            return
        least = 0.0 if self.keep_tokens is not None else self.keep
        require(
            self.strategy != "none", "escalate", self.escalate, "left out: strategy 'none' keeps all tokens at once"
        )
        require(least < self.escalate <= 1, "escalate", self.escalate, f"a fraction above {least:g} and at most 1")
        if self.escalate_flags is not None:
            object.__setattr__(self, "escalate_flags", texts_of("escalate_flags", self.escalate_flags))
            for flag in self.escalate_flags:
                require_one_of("escalate_flags", flag, FLAGS)
            if self.escalate_below is None:
                require(self.thresholds is None, "thresholds", self.thresholds, "left out without escalate_below")
                return
        number = self.escalate_below is not None and not math.isnan(self.escalate_below)
        require(number, "escalate_below", self.escalate_below, "a log-probability, such as -0.1, with escalate")
        if self.thresholds is not None:
            wanted = """JSON of a column and thresholds by its values, such as '{"type": {"colour": -0.1}}'"""
            require(_by_stratum(self.thresholds) is not None, "thresholds", self.thresholds, wanted)

    @property
    def stratum_column(self) -> str | None:
        """The column whose values `thresholds` go by."""
        found = None if self.thresholds is None else _by_stratum(self.thresholds)
        return None if found is None else found[0]

    def threshold_of(self, stratum: str | None) -> float:
        """The least confidence that needs no second look; there must be second looks."""
        assert self.escalate_below is not None
        found = None if self.thresholds is None else _by_stratum(self.thresholds)
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
        return max(1, int(self.keep * visual_tokens + 0.5))


@cache
def _by_stratum(text: str) -> tuple[str, dict[str, float]] | None:
    """The column and the thresholds by its values that `thresholds` says; None where it says none."""
    try:
        [(column, values)] = json.loads(text).items()
        numbers = {value: float(threshold) for value, threshold in values.items()}
    except (ValueError, TypeError, AttributeError):
        return None
    good = column and numbers and not any(isinstance(value, bool | str) for value in values.values())
    return (column, numbers) if good and all(map(math.isfinite, numbers.values())) else None
