"""One output, one way of labelling.

A rerun labels only what has no label yet. With another model, strategy, budget or prompt it would add labels of another
kind to those that are there, and nobody could tell which came from what without looking at each row. So the options
that decide what a label is are kept beside the labels, in `recipe.json`, and a run that differs is refused, unless it
says `--allow-mixed`.
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

# Strategies that select otherwise than they once did. What an earlier version of one labelled is of another kind.
STRATEGY_VERSIONS = {"adafv-plus": 2}


def recipe_of(options: JobOptions) -> dict[str, Any]:
    """The options that decide what a label is, without those that the others leave no part to play: the model, the
    prompt, and those of the engine that don't say what hardware it runs on."""
    engine = {name: getattr(options.engine, name) for name in _engine_fields() if name not in options.engine.idle}
    engine = {name: list(value) if isinstance(value, tuple) else value for name, value in engine.items()}  # as in JSON
    if options.engine.strategy in STRATEGY_VERSIONS:
        engine["strategy_version"] = STRATEGY_VERSIONS[options.engine.strategy]
    model = {"model": options.model} | ({} if options.revision is None else {"revision": options.revision})
    asked = {
        name: getattr(options, name) for name in ("system", "choices_column") if getattr(options, name) is not None
    }
    if options.columns is not None:
        asked["columns"] = list(options.columns)
    if options.prompts is not None:
        asked["prompts"] = [list(pair) for pair in options.prompts]
    return model | {"prompt": options.prompt} | asked | engine


def _engine_fields() -> dict[str, Field[Any]]:
    return {item.name: item for item in fields(EngineOptions) if item.metadata["group"] == "model"}


def settle_recipe(output: Output, options: JobOptions) -> None:
    """Hold `options` against the labels that are there; where there are none, write down the recipe for those to come.

    Raises:
        UsageError: the labels were made in another way, and `--allow-mixed` isn't given.
    """
    if not check_recipe(output, options):
        output.put(NAME, (json.dumps(recipe_of(options), indent=2) + "\n").encode())


def check_recipe(output: Output, options: JobOptions) -> bool:
    """Hold `options` against the labels that are there; whether there are any.

    Raises UsageError as `settle_recipe` does.
    """
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
    """What differs between two recipes, in words."""
    held = {name: item.metadata["formerly"] for name, item in _engine_fields().items() if name in recipe}
    # Recipes written before models were pinned don't name a revision: it is taken to be this one.
    revision = {name: recipe[name] for name in ("revision",) if name in recipe}
    version = {"strategy_version": 1} if "strategy_version" in recipe else {}
    earlier = {name: value for name, value in held.items() if value is not None} | revision | version | earlier
    return [
        f"{name.replace('_', '-')} was {_shown(earlier.get(name))} and is {_shown(recipe.get(name))}"
        for name in dict.fromkeys((*earlier, *recipe))
        if earlier.get(name) != recipe.get(name)
        and (name != "strategy_version" or earlier.get("strategy") == recipe.get("strategy"))
    ]


def _shown(value: Any) -> str:
    return shorten(repr(value), LONGEST)
