"""What is installed stands without the repository's tools."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "adafv"
TOOLS = ("bench", "worlds")  # not in the wheel: pyproject.toml
DOOR = "adafv/commands/bench.py"  # says where the benchmarks are, if they aren't there


def imported(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports aren't read here"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize(
    "room", sorted({path.relative_to(PACKAGE).parts[0] for path in PACKAGE.rglob("*.py")} - {*TOOLS})
)
def test_nothing_that_is_installed_imports_the_tools(room):
    place = PACKAGE / room
    for path in [place] if place.is_file() else sorted(place.rglob("*.py")):
        name = str(path.relative_to(PACKAGE.parent))
        wrong = {one for one in imported(path) if one.startswith(tuple(f"adafv.{tool}" for tool in TOOLS))}
        assert wrong == ({"adafv.bench.command"} if name == DOOR else set()), f"{name} imports {wrong}"


def test_the_tools_are_there_to_be_told_apart():
    assert all((PACKAGE / tool / "__init__.py").is_file() for tool in TOOLS)
    assert "adafv.worlds.registry.WORLDS" in imported(PACKAGE / "bench" / "examples.py")
