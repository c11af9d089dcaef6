"""Options refuse what makes no sense, naming it."""

from __future__ import annotations

import math

import pytest

from adafv.engine import EngineOptions
from adafv.option import OptionError
from adafv.pruning import STRATEGIES, WITH_TEXT_TOWER


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"strategy": "magic"}, "strategy is 'magic'; it must be one of none, random"),
        ({"keep": 0.0}, "keep is 0.0"),
        ({"keep": 1.5}, "keep is 1.5"),
        ({"keep_tokens": 0}, "keep_tokens is 0"),
        ({"max_new_tokens": 0}, "max_new_tokens is 0"),
        ({"temperature": -1.0}, "temperature is -1.0"),
        ({"top_p": 0.0}, "top_p is 0.0"),
        ({"dtype": "int8"}, "dtype is 'int8'"),
        ({"text_scope": "all"}, "text_scope is 'all'"),
        ({"backend": "tgi"}, "backend is 'tgi'; it must be one of transformers, vllm"),
        ({"newlines": "some"}, "newlines is 'some'"),
        ({"positions": "none"}, "positions is 'none'"),
        (
            {"text_tower": "clip"},
            "text_tower is 'clip'; it must be unset with strategy 'adafv-plus': only cdpruner, eadp use it",
        ),
        ({"audit": 1.5}, "audit is 1.5"),
        ({"strategy": "none", "audit": 0.1}, "audit is 0.1"),
        ({"escalate": 1.0}, "escalate_below is None"),
        ({"escalate": 1.0, "escalate_below": math.nan}, "escalate_below is nan"),
        ({"escalate_below": -0.1}, "unset without escalate"),
        ({"escalate": 0.1, "escalate_below": -0.1}, "above 0.1 and at most 1"),
        ({"escalate": 1.5, "escalate_below": -0.1}, "above 0.1 and at most 1"),
        ({"strategy": "none", "escalate": 1.0, "escalate_below": -0.1}, "keeps all tokens anyway"),
        ({"escalate_flags": "cut"}, "escalate_flags is 'cut'; it must be unset without escalate"),
        ({"escalate": 1.0, "escalate_flags": "long"}, "escalate_flags is 'long'; it must be one of loop, cut, empty"),
        ({"thresholds": '{"type": {"count": -0.02}}'}, "unset without escalate"),
        ({"stop": ""}, "stop is ''; it must be texts that aren't empty"),
        ({"min_new_tokens": 0}, "min_new_tokens is 0; it must be at least 1"),
        ({"min_new_tokens": 65}, "at most max_new_tokens, 64"),
        ({"no_repeat_ngram": 0}, "no_repeat_ngram is 0"),
        ({"top_k": 0}, "top_k is 0"),
        ({"repetition_penalty": 0.0}, "repetition_penalty is 0.0; it must be above 0"),
        ({"answer_prefix": " a"}, "answer_prefix is ' a'; it must be a text"),
        ({"choices": "a,b", "stop": "."}, "stop is ('.',); it must be unset with choices"),
        ({"samples": 0, "temperature": 1.0}, "samples is 0; it must be at least 1"),
        (
            {"samples": 4},
            "it must be unset at temperature 0, where all samples are the same; give a temperature such as 0.7",
        ),
        ({"samples": 4, "choices": "a,b"}, "it must be unset with choices: they are scored"),
        ({"regex": "a", "answer_prefix": "b"}, "answer_prefix is 'b'; it must be unset with regex"),
        ({"schema": "{}", "banned_words": "b"}, "banned_words is ('b',); it must be unset with schema"),
        ({"backend": "vllm", "choices": "a,b"}, "which gives no log-probabilities of prompts of embeddings"),
        ({"quantize": "int3"}, "quantize is 'int3'; it must be one of int8, int4"),
        ({"quantize": "int4", "device": "cpu"}, "it must be int8 for auto on cpu"),
        ({"quantize": "int4", "dtype": "float16"}, "it must be int8 for float16 on auto"),
        ({"quantize": "int8", "backend": "vllm"}, "unset with backend 'vllm', which loads the weights itself"),
    ],
)
def test_nonsense_is_named(options, message):
    with pytest.raises(OptionError) as error:
        EngineOptions(**options)
    assert message in str(error.value)


def test_stops_are_kept_with_their_spaces():
    assert EngineOptions(stop='["\\n", ". "]').stop == ("\n", ". ")


def test_positions_are_kept_where_the_backend_can():
    assert EngineOptions().positions == "kept"
    assert EngineOptions(backend="vllm").positions == "compact"


def test_the_rule_is_the_one_for_the_text_tower_where_there_is_one():
    assert EngineOptions(strategy="eadp").rule is STRATEGIES["eadp"]
    assert EngineOptions(strategy="eadp", text_tower="clip").rule is WITH_TEXT_TOWER["eadp"]


@pytest.mark.parametrize(
    ("options", "tokens", "budget"),
    [
        ({"keep": 0.1}, 180, 18),
        ({"keep": 0.05}, 180, 9),
        ({"keep": 0.29}, 100, 29),
        ({"keep": 0.35}, 90, 32),
        ({"keep": 0.35}, 89, 31),
        ({"keep": 0.7}, 45, 32),
        ({"keep": 0.001}, 180, 1),
        ({"keep": 1.0}, 180, 180),
        ({"keep_tokens": 64}, 180, 64),
        ({"keep_tokens": 64}, 40, 40),
        ({"strategy": "none", "keep": 0.1}, 180, 180),
    ],
)
def test_budget(options, tokens, budget):
    assert EngineOptions(**options).kept_of(tokens) == budget


def test_the_second_look_is_as_one_that_is_labelled_so_at_once():
    options = EngineOptions(
        strategy="eadp", text_tower="clip", keep_tokens=9, escalate=0.5, escalate_below=-0.1, seed=3
    )
    assert options.second_look == EngineOptions(strategy="eadp", text_tower="clip", keep=0.5, seed=3)
    assert EngineOptions(escalate=1.0, escalate_below=-0.1).second_look == EngineOptions(strategy="none", keep=1.0)
    assert EngineOptions().second_look is None


def test_the_ratio_is_known_where_it_is_given():
    kept = [EngineOptions(keep=0.2), EngineOptions(strategy="none", keep=0.2), EngineOptions(keep_tokens=9)]
    assert [options.ratio for options in kept] == [0.2, 1.0, None]


def test_thresholds_by_stratum():
    by_type = '{"type": {"count": -0.02, "7": -1}}'
    options = EngineOptions(escalate=1.0, escalate_below=-0.1, thresholds=by_type)
    assert options.stratum_column == "type" and EngineOptions().stratum_column is None
    found = [options.threshold_of(kind) for kind in ("count", "7", "colour", None)]
    assert found == [-0.02, -1.0, -0.1, -0.1] and options.second_look == EngineOptions(strategy="none", keep=1.0)


@pytest.mark.parametrize(
    "text", ["", "type", "[]", "{}", '{"type": 1}', '{"a": {"b": 1}, "c": {"d": 1}}', '{"a": {"b": "1"}}',
             '{"a": {"b": NaN}}', '{"a": {"b": true}}', '{"a": {}}', '{"a": {"b": null}}']
)  # fmt: skip
def test_thresholds_that_say_nothing(text):
    with pytest.raises(OptionError, match=r"thresholds is .*JSON that maps a column"):
        EngineOptions(escalate=1.0, escalate_below=-0.1, thresholds=text)
