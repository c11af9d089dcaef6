"""A run that would add labels of another kind is refused, and told what differs."""

from __future__ import annotations

import json

import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.outputs.recipe import recipe_of, settle_recipe
from adafv.pipeline.store.output import LocalOutput


@pytest.fixture
def output(tmp_path):
    """An output with a label made by the default options."""
    output = LocalOutput(str(tmp_path))
    settle_recipe(output, options())
    output.put("labels/x.parquet", b"")
    return output


def options(**changes) -> JobOptions:
    return JobOptions.of(**{"input": ("in",), "output": "out"} | changes)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"model": "other/model"}, "model was 'testbed' and is 'other/model'"),
        ({"strategy": "none"}, "strategy was 'adafv-plus' and is 'none'"),
        ({"keep": 0.25}, "keep was 0.1 and is 0.25"),
        ({"keep_tokens": 64}, "keep-tokens was None and is 64"),
        ({"prompt": "Describe."}, "prompt was '{question}' and is 'Describe.'"),
        ({"max_new_tokens": 9}, "max-new-tokens was 64 and is 9"),
        ({"temperature": 1.0}, "temperature was 0.0 and is 1.0"),
        ({"temperature": 1.0, "samples": 2}, "samples was None and is 2"),
        ({"system": "Be brief."}, "system was None and is 'Be brief.'"),
        ({"prompts": ["a", "b"]}, "prompts was None and is [['a', 1.0], ['b', 1.0]]"),
        ({"stop": ["."]}, "stop was None and is ['.']"),
        ({"choices": ["a", "b"]}, "choices was None and is ['a', 'b']"),
        ({"choices_column": "labels"}, "choices-column was None and is 'labels'"),
        ({"backend": "vllm"}, "backend was 'transformers' and is 'vllm'"),
    ],
)
def test_a_change_is_refused_and_named(output, changes, said):
    before = output.read("recipe.json")
    with pytest.raises(UsageError) as refused:
        settle_recipe(output, options(**changes))
    assert said in str(refused.value) and "--allow-mixed" in str(refused.value)
    settle_recipe(output, options(**changes, allow_mixed=True))
    assert output.read("recipe.json") == before, "the first labels' recipe stays on record"


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"batch_size": 3},
        {"input": ("more",)},
        {"seed": 5},
        {"top_p": 0.5},
        {"price_per_hour": 1.0},
        {"workers": "2"},
    ],
)
def test_what_changes_no_label_is_welcome(output, changes):
    settle_recipe(output, options(**changes))


def test_labels_made_with_a_text_tower_are_of_another_kind(tmp_path):
    """And a recipe from before there was that option says that there was none."""
    output = LocalOutput(str(tmp_path))
    before = {name: value for name, value in recipe_of(options(strategy="eadp")).items() if name != "text_tower"}
    output.put("recipe.json", json.dumps(before).encode())
    output.put("labels/x.parquet", b"")
    settle_recipe(output, options(strategy="eadp"))
    with pytest.raises(UsageError, match="text-tower was None and is 'clip'"):
        settle_recipe(output, options(strategy="eadp", text_tower="clip"))


def test_labels_from_before_there_were_back_ends_are_of_transformers(tmp_path):
    output = LocalOutput(str(tmp_path))
    before = {name: value for name, value in recipe_of(options()).items() if name != "backend"}
    output.put("recipe.json", json.dumps(before).encode())
    output.put("labels/x.parquet", b"")
    settle_recipe(output, options())
    with pytest.raises(UsageError, match="backend was 'transformers' and is 'vllm'"):
        settle_recipe(output, options(backend="vllm"))


def test_labels_of_an_earlier_version_of_a_strategy_are_of_another_kind(tmp_path):
    output = LocalOutput(str(tmp_path))
    before = {name: value for name, value in recipe_of(options(strategy="adafv-plus")).items() if "version" not in name}
    output.put("recipe.json", json.dumps(before).encode())
    output.put("labels/x.parquet", b"")
    with pytest.raises(UsageError, match="strategy-version was 1 and is 2"):
        settle_recipe(output, options(strategy="adafv-plus"))
    with pytest.raises(UsageError, match=r"another way: strategy was 'adafv-plus' and is 'adafv'\. Give"):
        settle_recipe(output, options(strategy="adafv"))


def test_without_labels_the_last_recipe_counts(tmp_path):
    output = LocalOutput(str(tmp_path))
    settle_recipe(output, options())
    settle_recipe(output, options(keep=0.5))
    assert json.loads(output.read("recipe.json") or b"")["keep"] == 0.5


def test_the_budget_does_not_matter_where_nothing_is_pruned(tmp_path):
    output = LocalOutput(str(tmp_path))
    settle_recipe(output, options(strategy="none"))
    output.put("labels/x.parquet", b"")
    settle_recipe(output, options(strategy="none", keep=0.5, newlines="rows"))
