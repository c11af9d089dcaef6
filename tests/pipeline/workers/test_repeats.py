"""Rows that repeat another's pictures and prompt get its label, whichever worker made it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from adafv.engine import EngineOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.sources.rows import Row, RowImage, to_table
from adafv.pipeline.workers.label import Labelling, LabelWorker
from adafv.pipeline.workers.repeats import LabelMemory
from tests.pipeline.pictures import SOUND
from tests.pipeline.workers.stages import preparing, worker_options

ENGINE = EngineOptions(strategy="saliency", keep=0.5, max_new_tokens=4)


class Here:
    """A worker's process, in this one, that counts what it is asked."""

    def __init__(self, labelling: Labelling) -> None:
        self._labelling, self.asked = labelling, []

    def ask(self, table: pa.Table) -> pa.Table:
        self.asked += table.column("id").to_pylist()
        return self._labelling(table, lambda: None)


@pytest.fixture
def prepare(tiny_model) -> Callable[[list[Row]], pa.Table]:
    prepare = preparing(tiny_model, ENGINE)
    return lambda rows: prepare(to_table(rows), lambda: None)


@pytest.fixture
def worker(tiny_model) -> Callable[..., LabelWorker]:
    def make(known: LabelMemory | None) -> LabelWorker:
        options = worker_options(tiny_model, ENGINE, tariff=Tariff(1.0), carried=("source",), known=known)
        made = LabelWorker(options)
        made._process = Here(Labelling(options))
        return made

    return make


def row(id: str, picture: str, word: str) -> Row:
    images = (RowImage(f"{id}.png", data=SOUND[picture]),)
    return Row(id, f"{id}.png", images, question=word, prompt=word, carried=(f"from {id}",))


PNG, JPG = "plain.png", "plain.jpg"
BATCHES = [
    [row("a", PNG, "w1"), row("b", PNG, "w2"), row("c", PNG, "w1"), row("d", JPG, "w1")],
    [row("e", PNG, "w1"), row("f", PNG, "w3"), row("g", PNG, "w3")],
    [row("h", PNG, "w1"), row("i", PNG, "w2")],
]


def test_a_row_that_repeats_another_has_its_label_and_costs_nothing(prepare, worker):
    """In a batch and in later ones, of two workers, whatever the ids and the images' names; other pictures and prompts
    are labelled. All labels are what they are without reuse."""
    memory = LabelMemory()
    sharing, alone = [worker(memory), worker(memory)], worker(None)
    found: dict[bool, list[dict]] = {True: [], False: []}
    for number, batch in enumerate(BATCHES):
        samples = prepare(batch)
        for reuses, one in ((True, sharing[number % 2]), (False, alone)):
            rows = {each["id"]: each for each in one(samples).to_pylist()}
            found[reuses] += [rows[each.id] for each in batch]
    assert [one._process.asked for one in (*sharing, alone)] == [["a", "b", "d"], ["f"], [*"abcdefghi"]]
    originals = {row["id"]: row["duplicate_of"] for row in found[True] if row["duplicate_of"]}
    assert originals == {"c": "a", "e": "a", "g": "f", "h": "a", "i": "b"}
    same = ("id", "image", "question", "prompt", "answer", "mean_logprob", "kept_indices", "finish_reason", "grid")
    same += ("images", "source", "keep", "flags", "visual_tokens", "error", "run_id")
    assert [[row[n] for n in same] for row in found[True]] == [[row[n] for n in same] for row in found[False]]
    free = [row for row in found[True] if row["duplicate_of"]]
    assert {(row["gpu_seconds"], row["cost_usd"], row["decode_ms"], row["batch_size"]) for row in free} == {
        (0.0, 0.0, 0.0, None)
    }
    assert all(row["preprocess_ms"] > 0 and row["worker_device"] is None for row in free)
    assert not any(row["duplicate_of"] for row in found[False])


def test_a_row_that_is_tried_again_has_its_own_label_and_cost(prepare, worker):
    """Its worker died before it handed the label over, and another gets the row."""
    memory, samples = LabelMemory(), prepare(BATCHES[0])
    first, again = (worker(memory)(samples).to_pylist() for _ in range(2))
    kept = ("id", "answer", "duplicate_of", "cost_usd", "gpu_seconds")
    assert {tuple(row[n] for n in kept) for row in first} == {tuple(row[n] for n in kept) for row in again}
    assert all(row["cost_usd"] > 0 for row in again if not row["duplicate_of"])


def test_two_threads_of_a_worker_label_a_sample_once(prepare, worker, monkeypatch):
    """The second table comes while the first has the model."""
    one = worker(LabelMemory())
    ask, begun = one._process.ask, threading.Event()

    def slowly(table: pa.Table) -> pa.Table:
        begun.set()
        time.sleep(0.5)
        return ask(table)

    monkeypatch.setattr(one._process, "ask", slowly)
    first, second = prepare([row("a", PNG, "w1")]), prepare([row("b", PNG, "w1")])
    with ThreadPoolExecutor(2) as threads:
        labelled = threads.submit(one, first)
        assert begun.wait(300)
        copied = threads.submit(one, second).result().to_pylist()
    assert (copied[0]["duplicate_of"], copied[0]["answer"]) == ("a", labelled.result().to_pylist()[0]["answer"])
    assert one._process.asked == ["a"]


def test_what_repeats_a_reject_is_one_and_is_not_remembered(tiny_model, prepare, worker):
    memory = LabelMemory()
    one = worker(memory)
    samples = prepare([row("a", PNG, "w1"), row("b", PNG, "w1"), row("c", PNG, "w2")])
    [token] = AutoTokenizer.from_pretrained(tiny_model)("w1", add_special_tokens=False).input_ids
    with torch.no_grad():
        one._process._labelling._engine._adapter.model.get_input_embeddings().weight[token] = torch.inf
    errors = {row["id"]: row["error"] for row in one(samples).to_pylist()}
    assert errors == {"a": "label_failed", "b": "label_failed", "c": None}
    assert one._process.asked == ["a", "c"] and len(memory._held) == 1


def test_what_was_not_used_for_longest_is_forgotten_first():
    memory = LabelMemory(most=30)
    for digest in "abc":
        memory.add({digest: digest.encode() * 10})
    assert memory.find(["a", "x"]) == {"a": b"a" * 10}
    memory.add({"d": b"d" * 10})
    assert [*memory.find([*"abcd"])] == ["a", "c", "d"]
    memory.add({"a": b"a" * 30})
    assert [*memory.find([*"abcd"])] == ["a"]
