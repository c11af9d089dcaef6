"""How options are declared: a dataclass's field with what a command line says of it, and the error for a wrong value.

`EngineOptions` and `JobOptions` are made of these. The command line, `--config`, the recipe and the run's record follow
from their fields, so that an option is written down once. Options travel to where torch and Ray aren't.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, field
from os import PathLike
from pathlib import Path
from typing import Any

LONGEST = 200  # characters of a value in a message


class OptionError(ValueError):
    """An option's value is wrong.

    Attributes:
        name: the field's name; `value`: what it is; `demand`: what it must be, in words.
    """

    def __init__(self, name: str, value: object, demand: str) -> None:
        super().__init__(name, value, demand)
        self.name, self.value, self.demand = name, value, demand

    def __str__(self) -> str:
        return f"{self.name} is {self.shown}; it must be {self.demand}"

    @property
    def shown(self) -> str:
        """The value, not too long."""
        text = repr(self.value)
        return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def option(
    group: str,
    help: str,
    default: Any = MISSING,
    *,
    type: Any = str,
    metavar: str | None = None,
    after: str | None = None,
    formerly: Any = None,
    several: bool = False,
) -> Any:
    """A field that is an option.

    Args:
        group: the heading of `--help` that it stands under; `after`: the option that it follows there, where that is
            another class's.
        help, metavar: its line there; `type`: what turns an argument into its value.
        formerly: the value that held before there was the option, for recipes that don't name it.
        several: whether it is a list of texts, which `texts_of` reads.
    """
    metadata = {"group": group, "help": help, "type": type, "metavar": metavar, "after": after, "formerly": formerly}
    metadata["several"] = several
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


def require(holds: bool, name: str, value: object, demand: str) -> None:
    """Raises OptionError unless it `holds` that the option `name` has a `value` as `demand` says."""
    if not holds:
        raise OptionError(name, value, demand)


def require_one_of(name: str, value: str | None, known: Collection[str]) -> None:
    """Raises OptionError unless `value` is one of those `known`."""
    require(value in known, name, value, f"one of {', '.join(known)}")


def text_of_file(name: str, value: str) -> str:
    """`value`, or what stands in the file that it names as `@FILE`, without white space around it.

    Raises OptionError where the file can't be read.
    """
    if not value.startswith("@"):
        return value
    try:
        return Path(value[1:]).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise OptionError(name, value, f"@ and a file that can be read ({error})") from error


def texts_of(name: str, value: str | Sequence[str], spaced: bool = False) -> tuple[str, ...]:
    """A list of texts: given as one, as `a,b`, as JSON, which may hold commas, or as `@FILE`, one to a line. They have
    no white space around them, unless they may be `spaced`.

    Raises OptionError for what is no such list, an empty text, or one that is there twice.
    """
    texts = value
    if isinstance(texts, str):
        text = text_of_file(name, texts)
        if text.lstrip().startswith("["):
            try:
                texts = json.loads(text)
            except json.JSONDecodeError as error:
                raise OptionError(name, value, f"a list in JSON, as it begins with a bracket ({error})") from error
        else:
            parts = text.splitlines() if texts.startswith("@") else text.split(",")
            texts = [part.strip() for part in parts if part.strip() or not texts.startswith("@")]
    listed = isinstance(texts, list | tuple) and all(isinstance(one, str) for one in texts)
    require(listed and len(texts) > 0, name, value, "a list of texts, at least one")
    bare = all(one and (spaced or one == one.strip()) for one in texts)
    require(bare, name, value, "texts that aren't empty" if spaced else "texts without white space around them")
    twice = [one for one, times in Counter(texts).items() if times > 1]
    require(not twice, name, value, f"each text once: {', '.join(map(repr, twice[:3]))}")
    return tuple(texts)


def json_object(name: str, value: str | Mapping[str, Any]) -> str:
    """An object as JSON: given as that, or as a mapping. Raises OptionError for what is none."""
    try:
        found = json.loads(value) if isinstance(value, str) else value
        text = json.dumps(found, sort_keys=True)
    except (ValueError, TypeError) as error:
        raise OptionError(name, value, f"an object in JSON ({error})") from error
    require(isinstance(found, Mapping), name, value, "an object in JSON")
    return text


def json_schema(name: str, value: Any) -> str:
    """A JSON schema as text: given as that, as a file's path, as a mapping, or as a Pydantic model.

    Raises OptionError for what is none.
    """
    if hasattr(value, "model_json_schema"):
        value = value.model_json_schema()
    if isinstance(value, Mapping):
        return json.dumps(value)
    text = str(value) if isinstance(value, str | PathLike) else ""
    try:
        if text and not text.lstrip().startswith("{"):
            text = Path(text).read_text(encoding="utf-8")
        schema = json.loads(text)
    except (OSError, ValueError) as error:
        raise OptionError(name, value, f"a file with a JSON schema, or one itself ({error})") from error
    require(isinstance(schema, dict), name, value, "a JSON schema, which is an object")
    return json.dumps(schema)


def _json_or_yaml(text: str) -> Any:
    """What a text says as JSON, else as YAML, which takes JSON's escape of an emoji for two characters."""
    import yaml  # here: options travel to where nobody reads files

    try:
        return json.loads(text)
    except ValueError:
        return yaml.safe_load(text)


def weighted_texts(name: str, value: Any) -> tuple[tuple[str, float], ...]:
    """Texts with their weights: a mapping from text to weight, a list of texts or of pairs, one of these as JSON, or a
    YAML file's path.

    Raises OptionError for what is none of these, and for a weight that isn't above 0.
    """
    import yaml  # here: options travel to where nobody reads files

    found = value
    if isinstance(value, str | PathLike):
        text = str(value)
        try:
            if not text.startswith(("[", "{")):
                text = Path(text).read_text(encoding="utf-8")
            found = _json_or_yaml(text)
        except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
            raise OptionError(name, value, f"a YAML file ({error})") from error
    listed = found.items() if isinstance(found, Mapping) else found if isinstance(found, list | tuple) else ()
    pairs = [(one, 1.0) if isinstance(one, str) else tuple(one) for one in listed if isinstance(one, str | Sequence)]
    whole = len(pairs) == len(listed) > 0 and all(len(pair) == 2 and isinstance(pair[0], str) for pair in pairs)
    require(whole, name, value, "texts with weights, such as {'Describe it.': 2, 'What is it?': 1}")
    sound = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 < w < math.inf for _, w in pairs)
    require(sound, name, value, "texts with weights above 0")
    require(len({text for text, _ in pairs}) == len(pairs), name, value, "each text once")
    return tuple((text, float(weight)) for text, weight in pairs)
