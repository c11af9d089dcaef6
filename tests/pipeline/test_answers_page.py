"""The commands of docs/answers.md do what it says, with the files that it shows."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from adafv.commands.export import main as export
from adafv.pipeline.run import run
from tests.parsing import parse_options
from tests.pipeline.inputs import NAMES, write_images
from tests.tiny_models import Shape, build

PAGE = (Path(__file__).parents[2] / "docs" / "answers.md").read_text().replace("\\\n", "")
COMMANDS = re.findall(r"^adafv label (.*)$", PAGE, re.M)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return build(tmp_path_factory.mktemp("letters"), Shape(letters=True))


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder with what the page's commands name."""
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "photos")
    for language, name in {"json": "car.json", "yaml": "prompts.yaml"}.items():
        [shown] = re.findall(rf"```{language}\n(.*?)```", PAGE, re.S)
        (tmp_path / name).write_text(shown)
    return tmp_path


def labels(command: str, model: Path, *more: str, output: str = "out") -> pa.Table:
    run(parse_options([*shlex.split(command), "--model", str(model), *more], "", ""))
    return ds.dataset(f"{output}/labels").to_table()


def test_there_are_commands():
    assert len(COMMANDS) == 5


def test_choices(ray_local, place, model):
    rows = labels(COMMANDS[0], model).to_pylist()
    assert len(rows) == len(NAMES)
    for row in rows:
        shares = dict(row["choice_probabilities"])
        first, second, _ = sorted(shares.values(), reverse=True)
        assert list(shares) == ["cat", "dog", "neither"] and sum(shares.values()) == pytest.approx(1)
        assert shares[row["answer"]] == first and row["confidence"] == pytest.approx(first - second, abs=1e-6)


def test_a_schema(ray_local, place, model):
    table = labels(COMMANDS[1], model, "--max-new-tokens", "350", "--temperature", "0.5")
    types = {name: str(table.schema.field(name).type) for name in ("colour", "people", "signs")}
    assert types == {"colour": "string", "people": "int64", "signs": "list<element: string>"}
    assert table.num_rows
    for row in table.to_pylist():
        assert row["colour"] in ("red", "blue", "other") and 0 <= row["people"] <= 99 and len(row["signs"]) <= 5


def test_several_answers_to_prompts_of_a_file(ray_local, place, model):
    given = COMMANDS[2].replace("--prompt 'How many people?'", "--prompts prompts.yaml --answer-prefix 'A photo of'")
    rows = labels(given, model, "--max-new-tokens", "6").to_pylist()
    assert len(rows) == len(NAMES) and {row["prompt"] for row in rows} <= {
        "Describe the picture in one sentence.", "List what is in the picture.",
    }  # fmt: skip
    for row in rows:
        assert len(row["samples"]) == 5 and row["answer"] in [one["answer"] for one in row["samples"]]
        assert row["mean_logprob"] == max(one["mean_logprob"] for one in row["samples"])
        assert all(one["answer"].startswith("A photo of") for one in row["samples"])


def test_a_captioning_session(ray_local, place, model):
    (place / "photos" / "plain.png").unlink()  # whose text would be plain.jpg's
    first = run(parse_options([*shlex.split(COMMANDS[3]), "--model", str(model), "--max-new-tokens", "4"], "", ""))
    assert "by --max-new-tokens 4; try 8" in first.run.table()
    command = COMMANDS[4].replace("128", "8").replace("loop,", "loop,cut,")  # such answers this model has
    rows = labels(command, model, output="captions").to_pylist()
    assert {row["looks"] for row in rows if row["flags"]} == {2}
    [exported] = re.findall(r"^adafv export (.*)$", PAGE, re.M)
    assert export(shlex.split(exported)) == 0
    for row in rows:
        assert Path("photos", row["image"]).with_suffix(".txt").read_text().strip() == row["answer"]
