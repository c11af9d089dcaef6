"""Each package's docstring names all of its modules, so that a folder is known from its first lines."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import adafv

ROOT = Path(adafv.__file__).parent
PACKAGES = [path.parent for path in sorted(ROOT.rglob("__init__.py")) if len(list(path.parent.glob("*.py"))) > 2]


def parts(folder: Path) -> set[str]:
    """The modules and packages that lie in a folder, without those for Python alone."""
    modules = {path.stem for path in folder.glob("*.py")}
    packages = {path.parent.name for path in folder.glob("*/__init__.py")}
    return (modules | packages) - {"__init__", "__main__"}


@pytest.mark.parametrize("folder", PACKAGES, ids=lambda folder: str(folder.relative_to(ROOT.parent)))
def test_the_docstring_names_each_module(folder):
    said = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    missing = {name for name in parts(folder) if not re.search(rf"\b{name}\b", said)}
    assert not missing, f"{folder.name}/__init__.py says nothing of {', '.join(sorted(missing))}"
