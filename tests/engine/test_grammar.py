"""Answers that are held to a schema or a regular expression fulfil it, whatever the model and the batch."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from adafv.engine import Engine, EngineOptions, Preparer, load_model
from adafv.engine.grammar import check_grammar
from adafv.option import OptionError
from tests.models.conftest import picture
from tests.tiny_models import Shape, build

COLOURS = {
    "type": "object",
    "properties": {"colour": {"enum": ["red", "dark blue"]}, "many": {"type": "boolean"}},
    "required": ["colour", "many"],
    "additionalProperties": False,
}


@pytest.fixture(scope="module")
def loaded(tmp_path_factory):
    return load(tmp_path_factory.mktemp("letters"), seed=0)


@pytest.fixture(scope="module")
def several(tmp_path_factory, loaded):
    """Three models."""
    return [loaded, *(load(tmp_path_factory.mktemp("letters"), seed) for seed in (1, 2))]


def load(folder: Path, seed: int):
    """Of a model that writes byte by byte: its adapter, its processing, and some samples."""
    path = str(build(folder, Shape(hidden=64, layers=3, letters=True, seed=seed)))
    adapter, processing = load_model(path, EngineOptions())
    preparer = Preparer(processing, EngineOptions())
    samples = [preparer.prepare(f"r{i}", picture((64, 40 + i), i), "what" * (i + 1)) for i in range(5)]
    return path, adapter, processing, samples


def labels_of(loaded, size: int = 5, **options):
    _, adapter, processing, samples = loaded
    engine = Engine(adapter, processing, EngineOptions(**options))
    return [label for start in range(0, 5, size) for label in engine.label(samples[start : start + size])]


CONSTANTS = st.one_of(st.none(), st.booleans(), st.integers(-99, 99), st.text('aé"\\ ', max_size=3))
LEAVES = st.one_of(
    st.just({"type": "boolean"}),
    st.just({"type": "null"}),
    st.builds(
        lambda low, more: {"type": "integer", "minimum": low, "maximum": low + more},
        st.integers(-50, 50),
        st.integers(0, 900),
    ),
    st.builds(lambda most: {"type": "string", "maxLength": most}, st.integers(0, 3)),
    st.lists(CONSTANTS, min_size=1, max_size=3, unique_by=json.dumps).map(lambda values: {"enum": values}),
)


def objects(part: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    def schema(properties: dict[str, Any], chance: Any) -> dict[str, Any]:
        required = [name for name in properties if chance.random() < 0.7]
        return {"type": "object", "properties": properties, "required": required, "additionalProperties": False}

    named = st.dictionaries(st.text("abé _", min_size=1, max_size=4), part, min_size=1, max_size=3)
    return st.builds(schema, named, st.randoms(use_true_random=False))


SCHEMAS = objects(
    st.recursive(
        LEAVES,
        lambda part: st.one_of(
            objects(part),
            st.builds(lambda items, most: {"type": "array", "items": items, "maxItems": most}, part, st.integers(0, 2)),
            st.lists(part, min_size=1, max_size=2).map(lambda parts: {"anyOf": parts}),
        ),
        max_leaves=4,
    )
)


@pytest.mark.slow
@settings(max_examples=10)
@given(SCHEMAS, st.sampled_from([0.0, 1.5]), st.integers(0, 2), st.sampled_from([1, 2, 3]))
def test_every_answer_validates_at_any_batch_size(several, schema, temperature, model, size):
    loaded = several[model]
    together = labels_of(loaded, schema=schema, max_new_tokens=90, temperature=temperature)
    for label in together:
        if label.error:
            assert label.error == "answer_incomplete" and label.finish_reason == "length" and label.answer == ""
        else:
            jsonschema.validate(json.loads(label.answer), schema)
    others = labels_of(loaded, size, schema=schema, max_new_tokens=90, temperature=temperature)
    assert [(one.answer, one.error) for one in others] == [(one.answer, one.error) for one in together]


def test_what_fits_is_complete(loaded):
    labels = labels_of(loaded, schema=COLOURS)
    assert {label.finish_reason for label in labels} == {"stop"} and not any(label.error for label in labels)
    for label in labels:
        assert set(json.loads(label.answer)) == {"colour", "many"} and label.confidence < 0
    assert all(label.answer.startswith('{"colour": "') for label in labels), "as Python writes it"


def test_what_is_cut_off_is_incomplete_and_says_so(loaded):
    for label in labels_of(loaded, schema=COLOURS, max_new_tokens=12):
        assert label.error == "answer_incomplete" and label.answer == ""
        assert 'isn\'t complete after 12 tokens (--max-new-tokens): {"colour": ' in label.problem


def test_of_several_a_complete_answer_is_preferred(loaded):
    most = 32  # tokens, within which some of the answers are complete
    labels = labels_of(loaded, schema=COLOURS, max_new_tokens=most, temperature=1.5, samples=6)
    whole = [[one for one in label.samples if one.answer is not None] for label in labels]
    assert any(0 < len(complete) < 6 for complete in whole)
    for label, complete in zip(labels, whole, strict=True):
        for one in complete:
            jsonschema.validate(json.loads(one.answer), COLOURS)
        assert label.error == ("" if complete else "answer_incomplete")
        if complete:
            assert label.answer == max(complete, key=lambda one: one.mean_logprob).answer


@pytest.mark.parametrize(
    "expression", [r"[a-c]{3}/\d", r"(yes|no), .{2}", r" x|y", r"é+z?", r"[^\n]{5}", "[a-c]\\\n[a-c]"]
)
def test_the_whole_answer_matches_a_regular_expression(loaded, expression):
    found = labels_of(loaded, regex=expression, max_new_tokens=20)
    for label in found:
        assert re.fullmatch(expression, label.answer) if not label.error else label.finish_reason == "length"
    assert not all(label.error for label in found)


def test_an_answer_that_could_go_on_is_one_where_it_is_cut(loaded):
    for label in labels_of(loaded, regex="[a-z]*", max_new_tokens=6):
        assert not label.error and re.fullmatch("[a-z]*", label.answer)


def test_a_generation_config_that_forbids_what_the_grammar_needs_gives_way(loaded):
    _, adapter, processing, _ = loaded
    model, before = adapter.model, adapter.model.generation_config
    plain = [label.answer for label in labels_of(loaded, schema=COLOURS)]
    model.generation_config = type(before).from_dict(before.to_dict())
    braces = processing.tokenizer("{}", add_special_tokens=False)["input_ids"]
    model.generation_config.update(
        suppress_tokens=braces, no_repeat_ngram_size=1, min_new_tokens=60, forced_eos_token_id=2
    )
    try:
        assert [label.answer for label in labels_of(loaded, schema=COLOURS)] == plain
    finally:
        model.generation_config = before


def test_second_looks_and_audits_are_held_to_it(loaded):
    labels = labels_of(loaded, schema=COLOURS, escalate=1.0, escalate_below=0.0, audit=1.0)
    for label in labels:
        assert label.looks == 2 and label.audit_answer == label.answer
        jsonschema.validate(json.loads(label.first_answer), COLOURS)
    _, adapter, processing, _ = loaded
    Engine(adapter, processing, EngineOptions(schema=COLOURS)).try_out()


def test_schemas_come_in_four_ways(tmp_path):
    pydantic = pytest.importorskip("pydantic")

    class Colours(pydantic.BaseModel):
        many: bool

    (tmp_path / "colours.json").write_text(json.dumps(COLOURS))
    ways = [COLOURS, json.dumps(COLOURS), tmp_path / "colours.json", str(tmp_path / "colours.json")]
    assert {EngineOptions(schema=way).schema for way in ways} == {json.dumps(COLOURS)}
    assert json.loads(EngineOptions(schema=Colours).schema) == Colours.model_json_schema()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"schema": "none.json"}, "schema is 'none.json'; it must be a file with a JSON schema"),
        ({"schema": "{"}, "schema is '{'; it must be a file with a JSON schema"),
        ({"schema": COLOURS, "regex": "a"}, "regex is 'a'; it must be unset with schema"),
        ({"regex": "a", "choices": "a,b"}, "regex is 'a'; it must be unset with choices"),
        ({"regex": "a["}, "regex is 'a['; it must be one that llguidance can do"),
        ({"regex": "(?=x)y"}, "look-around"),
        ({"schema": {"type": "nonsense"}}, "Invalid type: nonsense"),
        ({"schema": {"type": "object", "not": {}}}, 'Unimplemented keys: ["not"]'),
    ],
)
def test_what_cannot_be_done_is_named(options, said):
    with pytest.raises(OptionError) as caught:
        check_grammar(EngineOptions(**options))
    assert said in str(caught.value)


def test_a_model_of_words_cannot_write_json(tmp_path):
    path = str(build(tmp_path))
    with pytest.raises(ValueError, match="tokenizer can't be held to a grammar"):
        Preparer.load(path, EngineOptions(schema=COLOURS))
