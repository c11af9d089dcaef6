"""What the worker's child makes of a batch of which some rows have no answer."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from transformers import AutoTokenizer

from adafv.engine import EngineOptions
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import Row, RowImage, row_of, to_table
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers import label as worker
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing
from tests.pipeline.pictures import SOUND


def stages(tiny_model, engine: EngineOptions, reuses: bool = False) -> tuple[Preparing, Labelling]:
    """What a row passes between the fetcher and the sink, without its processes."""
    prepare = Preparing(
        Preparation(
            model=str(tiny_model), engine=engine, storage=Storage(), max_pixels=10**6, max_bytes=10**6, timeout=60.0,
            handler=Preparing,
        )
    )  # fmt: skip
    tariff = Tariff(None, (), 1)
    options = WorkerOptions(
        model="m", path=str(tiny_model), engine=engine, storage=Storage(), run_id="run", tariff=tariff, threads=1,
        batch_timeout=60.0, handler=Labelling, reuses=reuses,
    )  # fmt: skip
    return prepare, Labelling(options)


@pytest.mark.parametrize("strategy", ["none", "saliency"])
def test_a_row_whose_scores_overflow_is_a_reject(tiny_model, strategy):
    image = RowImage("x.png", data=SOUND["plain.png"])
    asked = [Row(f"r{i}", "x.png", (image,), question=f"w{i}", prompt=f"w{i}") for i in range(3)]
    prepare, labelling = stages(tiny_model, EngineOptions(strategy=strategy, keep=0.5, max_new_tokens=2))
    samples = prepare(to_table(asked), lambda: None)
    [token] = AutoTokenizer.from_pretrained(tiny_model)("w1", add_special_tokens=False).input_ids
    with torch.no_grad():
        labelling._engine._adapter.model.get_input_embeddings().weight[token] = torch.inf
    results = labelling(samples, lambda: None).to_pylist()
    assert [row["error"] for row in results] == [None, "label_failed", None]
    assert "NaN or infinite" in results[1]["message"] and results[1]["answer"] is None
    assert all(row["gpu_seconds"] > 0 for row in results), "the batch's time is shared among all of its rows"


def test_thresholds_go_by_a_column_of_the_input(tiny_model):
    """From the record to the label."""
    by_kind = '{"kind": {"always": 1.0, "7": 1.0, "never": -1000.0}}'
    options = JobOptions.of(input=("in",), output="out", escalate=1.0, escalate_below=-1000.0, thresholds=by_kind)
    prepare, labelling = stages(tiny_model, options.engine)
    kinds, png = ["always", "never", 7, None, "unknown", ["always"]], SOUND["plain.png"]
    records = [
        Record("x", "/", {"id": f"r{i}", "image": png, "question": f"w{i}", "kind": kind})
        for i, kind in enumerate(kinds)
    ]
    rows = to_table(row_of(record, Columns.of(options)) for record in records)
    results = labelling(prepare(rows, lambda: None), lambda: None).to_pylist()
    assert [row["looks"] for row in results] == [2, 1, 2, 1, 1, 1]


def counting(label: Callable, asked: list[str]) -> Callable:
    def counted(samples: list, *rest: object) -> list:
        asked.extend(sample.id for sample in samples)
        return label(samples, *rest)

    return counted


def test_a_row_that_repeats_another_has_its_label_and_costs_nothing(tiny_model, monkeypatch):
    """In a batch and in later ones, whatever the ids and the images' names; other pictures and prompts are labelled.
    All labels are what they are without reuse."""

    def row(id: str, picture: str, word: str) -> Row:
        return Row(id, f"{id}.png", (RowImage(f"{id}.png", data=SOUND[picture]),), question=word, prompt=word)

    png, jpg = "plain.png", "plain.jpg"
    batches = [
        [row("a", png, "w1"), row("b", png, "w2"), row("c", png, "w1"), row("d", jpg, "w1")],
        [row("e", png, "w1"), row("f", png, "w3"), row("g", png, "w3")],
        [row("h", png, "w1"), row("i", png, "w2")],
    ]
    found: dict[bool, list[dict]] = {}
    asked: list[str] = []
    for reuses in (False, True):
        prepare, labelling = stages(tiny_model, EngineOptions(keep=0.5, max_new_tokens=4), reuses)
        monkeypatch.setattr(labelling._engine, "label", counting(labelling._engine.label, asked))
        tables = [labelling(prepare(to_table(batch), lambda: None), lambda: None) for batch in batches]
        found[reuses] = [one for table in tables for one in table.to_pylist()]
    assert "".join(asked) == "abcdefghi" + "abdf"
    originals = {row["id"]: row["duplicate_of"] for row in found[True] if row["duplicate_of"]}
    assert originals == {"c": "a", "e": "a", "g": "f", "h": "a", "i": "b"}
    same = ("id", "image", "question", "prompt", "answer", "mean_logprob", "kept_indices", "finish_reason", "grid")
    assert [[row[n] for n in same] for row in found[True]] == [[row[n] for n in same] for row in found[False]]
    assert [row["images"][0]["image"] for row in found[True]] == [f"{id}.png" for id in "abcdefghi"]
    free = [row for row in found[True] if row["duplicate_of"]]
    assert {(row["gpu_seconds"], row["decode_ms"], row["batch_size"]) for row in free} == {(0.0, 0.0, None)}
    assert not any(row["duplicate_of"] for row in found[False])


def test_a_worker_forgets_what_it_has_not_used_for_longest(tiny_model, monkeypatch):
    monkeypatch.setattr(worker, "KNOWN", 2)
    prepare, labelling = stages(tiny_model, EngineOptions(keep=0.5, max_new_tokens=1), reuses=True)

    def ask(id: str, word: str) -> str | None:
        asked = Row(id, "x.png", (RowImage("x.png", data=SOUND["plain.png"]),), question=word, prompt=word)
        [result] = labelling(prepare(to_table([asked]), lambda: None), lambda: None).to_pylist()
        return result["duplicate_of"]

    assert [ask(str(n), word) for n, word in enumerate(["w1", "w2", "w1", "w3", "w1", "w2"])] == [
        None,
        None,
        "0",
        None,
        "0",
        None,
    ]
