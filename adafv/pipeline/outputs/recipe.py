"""One output, one way of labelling.

A rerun with another model, strategy, budget or prompt would mix labels of two kinds in one output. So the options that
decide what a label is are kept beside the labels in `recipe.json`, and a run that differs is refused without
`--allow-mixed`.
"""

from __future__ import annotations

import json
from dataclasses import Field, fields
from typing import Any

from adafv.engine.options import EngineOptions
from adafv.option import LONGEST
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.redaction import shorten
from adafv.pipeline.store.output import Output

NAME = "recipe.json"

# Strategies whose selection has changed: labels of an earlier version are of another kind.
STRATEGY_VERSIONS = {"adafv-plus": 2}


def recipe_of(options: JobOptions) -> dict[str, Any]:
    """The options that decide what a label is: the model, the prompt, and the engine's options except those about
    hardware and those that have no effect."""
    engine = {name: getattr(options.engine, name) for name in _engine_fields() if name not in options.engine.idle}
    if options.engine.strategy in STRATEGY_VERSIONS:
        engine["strategy_version"] = STRATEGY_VERSIONS[options.engine.strategy]
    names = ("model", "revision", "prompt", "system", "choices_column", "columns", "prompts")
    asked = {name: value for name in names if (value := getattr(options, name)) is not None}
    return json.loads(json.dumps(asked | engine))  # as it is read back, with lists for tuples


def _engine_fields() -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(EngineOptions) if item.metadata["group"] == "model"}


def settle_recipe(output: Output, options: JobOptions) -> None:
    """Compare `options` with the labels that are there; if there are none, write the recipe.

    Raises:
        UsageError: the labels were made in another way, and `--allow-mixed` isn't given.
    """
    if not check_recipe(output, options):
        output.put(NAME, (json.dumps(recipe_of(options), indent=2) + "\n").encode())


def check_recipe(output: Output, options: JobOptions) -> bool:
    """Compare `options` with the labels that are there. Returns whether there are any. Raises UsageError as
    `settle_recipe` does."""
    found = output.read(NAME)
    if found is None or not output.parquet_files("labels"):
        return False
    changes = changes_of(json.loads(found), recipe_of(options))
    if changes and not options.allow_mixed:
        raise UsageError(
            f"--output {output.uri} holds labels made in another way: {'; '.join(changes)}. Give a new --output, or "
            "--allow-mixed to have both kinds in one place"
        )
    return True


def changes_of(earlier: dict[str, Any], recipe: dict[str, Any]) -> list[str]:
    """The differences between two recipes, in words."""
    # The values of options that an older recipe doesn't name; a missing revision is taken to be the current one.
    formerly = {name: item.metadata["formerly"] for name, item in _engine_fields().items()}
    formerly |= {"revision": recipe.get("revision"), "strategy_version": 1}
    earlier = {name: value for name, value in formerly.items() if name in recipe and value is not None} | earlier
    return [
        f"{name.replace('_', '-')} was {_shown(earlier.get(name))} and is {_shown(recipe.get(name))}"
        for name in dict.fromkeys((*earlier, *recipe))
        if earlier.get(name) != recipe.get(name)
        and (name != "strategy_version" or earlier.get("strategy") == recipe.get("strategy"))
    ]


def _shown(value: Any) -> str:
    return shorten(repr(value), LONGEST)
