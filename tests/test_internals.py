"""Other libraries' private names: which one is gone, and whether one is used elsewhere than in `adafv.internals`."""

from __future__ import annotations

import ast
import importlib
import importlib.metadata
import re
from collections.abc import Iterator
from functools import reduce
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from adafv import internals
from adafv.internals import PRIVATE_NAMES, TRIED

ROOT = Path(__file__).parents[1]
SOURCES = sorted(path for path in (ROOT / "adafv").rglob("*.py") if path.name != "internals.py")
# Python's own: documented for os and named tuples, and a type of argparse's that only annotations need.
STANDARD = {"_exit", "_asdict", "_fields", "_replace", "_ActionsContainer"}


def resolve(path: str) -> Any:
    """What a dotted path names: a module, or a part of the longest module that it begins with."""
    names = path.split(".")
    for length in range(len(names), 0, -1):
        try:
            module = importlib.import_module(".".join(names[:length]))
        except ModuleNotFoundError:
            continue
        return reduce(getattr, names[length:], module)
    raise AttributeError(f"there is no module {names[0]}")


@pytest.mark.parametrize("name", PRIVATE_NAMES)
def test_it_is_still_there(name):
    library = name.partition(".")[0]
    try:
        resolve(name)
    except AttributeError as error:
        installed = f"{library} {importlib.metadata.version(library)}"
        pytest.fail(
            f"{installed} has no {name} any more, which {TRIED[library]} had: {error}. "
            f"adafv.internals must do without it in {PRIVATE_NAMES[name]}"
        )


def test_a_stage_reserves_what_it_is_told(ray_local):
    """One that only instances have."""
    import ray.data

    dataset = ray.data.from_items([1, 2]).map_batches(dict).repartition(target_num_rows_per_block=1)
    assert hasattr(dataset, "_logical_plan"), f"Ray had Dataset._logical_plan in {TRIED['ray']}: set_last_stage_cpus"
    internals.set_last_stage_cpus(dataset, 0.25)
    assert dataset._logical_plan.dag.ray_remote_args["num_cpus"] == 0.25
    assert "num_cpus" not in dataset._logical_plan.dag.input_dependencies[0].ray_remote_args, "and no other"


def test_an_answers_body_has_its_stream(s3):
    """The other one."""
    bucket = s3.new_bucket()
    s3.client.put_object(Bucket=bucket, Key="x", Body=b"some bytes")
    body = s3.client.get_object(Bucket=bucket, Key="x")["Body"]
    assert hasattr(body, "_raw_stream"), "botocore had it in 1.43: read_arrived"
    assert [internals.read_arrived(body, 6), internals.read_arrived(body, 6), internals.read_arrived(body, 6)] == [
        b"some b", b"ytes", b""
    ]  # fmt: skip


def test_what_replaces_a_method_needs_it_to_be_there():
    with pytest.raises(AttributeError, match="_deepstack_process"):
        internals.replace_deepstack(SimpleNamespace(), lambda *_: None)


def test_the_versions_tried_are_those_installed_by_make():
    pinned = (ROOT / "constraints.txt").read_text() + (ROOT / "Makefile").read_text()
    assert {library: re.search(rf"\b{library}==([\d.]+)", pinned)[1] for library in TRIED} == TRIED


def private_uses(tree: ast.AST) -> Iterator[str]:
    """Names with a leading underscore that a module imports from elsewhere, or takes from something."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            yield node.attr
        elif isinstance(node, ast.Import):
            yield from (part for alias in node.names for part in alias.name.split("."))
        elif isinstance(node, ast.ImportFrom):
            yield from [*(node.module or "").split("."), *(alias.name for alias in node.names)]


def own_names(tree: ast.AST) -> Iterator[str]:
    """Names that a module gives to what is its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            yield node.id if isinstance(node, ast.Name) else node.attr


def test_there_are_no_others_elsewhere():
    trees = {path: ast.parse(path.read_text()) for path in SOURCES}
    allowed = STANDARD.union(*map(own_names, trees.values()))
    found = {
        (str(path.relative_to(ROOT)), name)
        for path, tree in trees.items()
        for name in private_uses(tree)
        if name.startswith("_") and not name.startswith("__") and name not in allowed
    }
    assert not found, "a private name of another library belongs into adafv/internals.py"
