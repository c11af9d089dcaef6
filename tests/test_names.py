"""A class has its name for itself: whoever reads `Source` need not ask which."""

from __future__ import annotations

import ast
from collections import defaultdict
from pathlib import Path

ROOT = Path(__file__).parents[1]
TWICE: dict[str, str] = {}  # names that several modules may give to classes of theirs, each with the reason


def classes() -> dict[str, list[str]]:
    """The modules of the package that define a class of a name, by that name. Each world has its own scenes, questions
    and training, by the same names."""
    found = defaultdict(list)
    for path in sorted((ROOT / "adafv").rglob("*.py")):
        if "worlds" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ClassDef):
                found[node.name].append(str(path.relative_to(ROOT)))
    return found


def test_a_class_name_stands_for_one_class():
    found = classes()
    assert len(found) > 100, "the package is there"
    twice = {name: places for name, places in found.items() if len(places) > 1}
    assert twice.keys() == TWICE.keys(), {name: twice.get(name) for name in twice.keys() ^ TWICE.keys()}
