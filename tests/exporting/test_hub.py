"""Labels pushed to a Hub on loopback, read back by datasets and by a job's own input."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset

from adafv.exporting import hub as exporting
from adafv.exporting.formats import LISTS
from adafv.pipeline.schema import labels_schema
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.store.hub import pin
from adafv.pipeline.store.storage import Storage
from adafv.reporting.card import card
from adafv.reporting.report import make_report
from jobs.export import main
from tests.loopback_hub import LoopbackHub
from tests.pipeline.store.test_hub import COLUMNS
from tests.reporting.outputs import label, reject, run, write

CONFIG = {
    "model": "/home/someone/models/llava",
    "prompt": "What | is `it`?",
    "keep": 0.1,
    "escalate": 1.0,
    "escalate_below": -0.05,
    "input": ["hf://datasets/org/photos@" + "a" * 40, "/home/someone/private"],
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub() as server:
        server.use(monkeypatch, server.token)
        yield server


@pytest.fixture
def output(tmp_path: Path) -> str:
    labels = [label(f"r{i}", choice_probabilities=None, kept_indices=[1, 2]) for i in range(6)]
    runs = [run(input=8, labelled=6, seconds=10, worker_seconds=36, price=100.0, config=CONFIG)]
    folder = write(tmp_path / "out", labels, runs, [reject(f"x{i}", "image_missing") for i in range(2)], files=3)
    table = pq.read_table(tmp_path / "out/labels/0.parquet")
    chosen = pa.array(
        [[("cat", 0.9)]] * 2, labels_schema(optional=["choice_probabilities"]).field("choice_probabilities").type
    )
    table = table.append_column("choice_probabilities", chosen).append_column("colour", pa.array(["red", None]))
    pq.write_table(table, tmp_path / "out/labels/0.parquet")
    return folder


def test_labels_and_a_card(hub, output, capsys, tmp_path):
    """All columns, those too that only some files have; no path of the machine that labelled."""
    assert main([output, "--format", "hub", "--to", "org/labels"]) == 0
    assert "org/labels: 6 labels" in capsys.readouterr().out
    files = hub.files("org/labels")
    assert sorted(files) == ["README.md", "data/train-00000.parquet"] and "org/labels" in hub.private
    table = pq.read_table(io.BytesIO(files["data/train-00000.parquet"]))
    assert set(table.column_names) == {*labels_schema(optional=["choice_probabilities"]).names, "colour"} - set(LISTS)
    rows = {row["id"]: row for row in table.to_pylist()}
    assert len(rows) == 6 and rows["r0"]["choice_probabilities"] == '{"cat": 0.9}' and rows["r0"]["colour"] == "red"
    text = files["README.md"].decode()
    for said in (
        "| Labels | 6, of 8 rows |",
        f"| Made from | hf://datasets/org/photos@{'a' * 40} |",
        "| Model | llava |",
        "| Prompt | `What \\| is `it`?` |",
        "| Pruning | adafv |",
        "| Budget | 60 of 600 visual tokens kept (10.0%) |",
        "| Plan | escalate `1.0`; escalate-below `-0.05` |",
        "| Agreement | not audited (`--audit`) |",
        "| Cost | 1.0000 USD, 166.6667 for 1,000 labels |",
        "| Rejects | 2 image_missing |",
    ):
        assert said in text, text
    assert "someone" not in text and hub.token not in text


def test_the_card_of_several_prompts_has_no_default_one(tmp_path):
    config = CONFIG | {"prompt": "{question}", "prompts": [["Describe it.", 1.0]]}
    report = make_report(write(tmp_path / "out", [], [run(config=config, labelled=1)]))
    assert '| Prompt | `[["Describe it.", 1.0]]` |' in card(report, "x")


def test_it_is_read_again(hub, output, tmp_path):
    """By datasets, from the files that the card names, and by --input."""
    assert main([output, "--format", "hub", "--to", "org/labels", "--public"]) == 0
    for path, data in hub.files("org/labels").items():
        (tmp_path / "copy" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "copy" / path).write_bytes(data)
    loaded = load_dataset(str(tmp_path / "copy"), split="train", cache_dir=str(tmp_path / "cache"))
    assert sorted(loaded["id"]) == [f"r{i}" for i in range(6)] and set(loaded["answer"]) == {"red"}
    (unit,) = open_source(pin(["hf://datasets/org/labels/data"])[0], Storage(), COLUMNS).units
    assert len(list(read_unit(unit, Storage(), COLUMNS))) == 6


def test_pushed_again_it_takes_the_place_of_the_first(hub, output, monkeypatch):
    monkeypatch.setattr(exporting, "SHARD", 1)
    assert main([output, "--format", "hub", "--to", "org/labels"]) == 0
    assert len(hub.files("org/labels")) == 4
    monkeypatch.undo()
    hub.use(monkeypatch, hub.token)
    assert main([output, "--format", "hub", "--to", "org/labels"]) == 0
    assert sorted(hub.files("org/labels")) == ["README.md", "data/train-00000.parquet"]
    assert len(hub.commits["org/labels"]) == 3


def test_a_hub_that_refuses(hub, output, monkeypatch, capsys):
    """Without a token or with another's, before a label is read; and an output without labels."""
    monkeypatch.setattr(exporting, "_write", lambda *given: pytest.fail("labels were written first"))
    for token, said in (("hf_other", "HF_TOKEN"), ("", "HF_TOKEN")):
        hub.use(monkeypatch, token)
        assert main([output, "--format", "hub", "--to", "org/labels"]) == 1
        printed = capsys.readouterr().err
        assert said in printed and "hf_other" not in printed, printed
    assert "org/labels" not in hub.branches
    for path in (Path(output) / "labels").iterdir():
        path.unlink()
    assert main([output, "--format", "hub", "--to", "org/labels"]) == 2 and "no labels" in capsys.readouterr().err


def test_columns_of_different_types_are_refused(hub, output, capsys):
    """An answer's property under two schemas, by --allow-mixed. Nothing is pushed."""
    path = Path(output) / "labels/1.parquet"
    pq.write_table(pq.read_table(path).append_column("colour", pa.array([1, 2])), path)
    assert main([output, "--format", "hub", "--to", "org/labels"]) == 2
    assert "Field colour has incompatible types" in capsys.readouterr().err and not hub.files("org/labels")
