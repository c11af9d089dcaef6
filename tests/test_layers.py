"""Imports point downwards: each layer of the package imports only what lies below it, and so do pipeline's layers."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import adafv

ROOT = Path(adafv.__file__).parent

# From the top down. What stands in one line may not import each other.
PACKAGE = [
    {"__main__"},
    {"commands"},
    {"bench"},
    {"worlds"},
    {"calibration"},
    {"reporting", "exporting"},
    {"pipeline"},
    {"engine"},
    {"models"},
    {"pruning", "scoring", "counting"},
    {"onednn", "turn", "spot", "embedded", "option", "boxes", "uploading"},
    {"internals", "hardware"},
]
PIPELINE = [
    {"run", "arguments"},
    {"collector", "config", "result"},
    {"stream", "limits"},
    {"planning"},
    {"setup"},
    {"workers"},
    {"isolation"},
    {"images"},
    {"outputs"},
    {"sources"},
    {"record"},
    {"control"},
    {"store"},
    {"options"},
    {"fields"},
    {"rejects", "uris", "schema", "passed", "where"},
    {"errors"},
    {"redaction"},
]


def imports_of(path: Path) -> Iterator[tuple[str, int]]:
    """The modules of the package that a file imports, wherever in it, by dotted name, and the lines."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def upward(root: Path, package: str, layers: list[set[str]]) -> list[str]:
    """Imports between the parts of `package` that don't point downwards, and parts that have no layer."""
    depth = {name: number for number, names in enumerate(layers) for name in names}
    found = []
    for path in sorted(root.rglob("*.py")):
        part = path.relative_to(root).parts[0].removesuffix(".py")
        if part == "__init__":
            continue
        if part not in depth:
            found.append(f"{path.relative_to(root)}: {part} has no layer")
            continue
        for module, line in imports_of(path):
            other = module.removeprefix(package + ".").partition(".")[0]
            if module.startswith(package + ".") and other in depth and other != part and depth[other] <= depth[part]:
                found.append(f"{path.relative_to(root)}:{line} imports {module}")
    return found


def test_layers_of_the_package():
    assert not upward(ROOT, "adafv", PACKAGE)


def test_layers_of_the_pipeline():
    assert not upward(ROOT / "pipeline", "adafv.pipeline", PIPELINE)


@pytest.mark.parametrize("line", ["from adafv.pipeline import run", "from adafv.pipeline.run import run"])
def test_an_import_upwards_is_named(tmp_path, line):
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "s3.py").write_text(f"def late():\n    {line}\n")
    [found] = upward(tmp_path, "adafv.pipeline", PIPELINE)
    assert found.startswith("store/s3.py:2 imports adafv.pipeline.run")
    (tmp_path / "elsewhere.py").write_text("")
    assert "elsewhere has no layer" in upward(tmp_path, "adafv.pipeline", PIPELINE)[0]
