"""What the worker's child makes of a batch of which some rows have no answer."""

from __future__ import annotations

from types import SimpleNamespace

import pyarrow as pa
import pytest
import torch
from transformers import AutoTokenizer

from adafv.engine import EngineOptions
from adafv.pipeline.options import JobOptions
from adafv.pipeline.rejects import Reject
from adafv.pipeline.schema import labels_schema
from adafv.pipeline.sources.records import Columns, Record
from adafv.pipeline.sources.rows import Row, RowImage, row_of, to_table
from adafv.pipeline.workers import samples
from adafv.pipeline.workers.label import Labelling, LabelWorker
from adafv.pipeline.workers.prepare import Preparing
from tests import tiny_qwen
from tests.pipeline.pictures import SOUND, encoded, picture
from tests.pipeline.workers.stages import preparing, worker_options


def stages(model, engine: EngineOptions) -> tuple[Preparing, Labelling]:
    return preparing(model, engine), Labelling(worker_options(model, engine))


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


def test_a_label_says_by_how_much_its_images_were_shrunk(tmp_path):
    model = tiny_qwen.build(tmp_path, tiny_qwen.QwenShape())
    prepare, labelling = stages(model, EngineOptions(keep=0.5, max_new_tokens=1, max_image_tokens=9))
    images = [picture(64, 64), picture(48, 8)]
    shown = tuple(RowImage(f"{n}.png", data=encoded(image, "PNG")) for n, image in enumerate(images))
    asked = [Row("a", "0.png", shown, question="w1", prompt="w1"), Row("b", "1.png", shown[1:], prompt="w1")]
    first, second = labelling(prepare(to_table(asked), lambda: None), lambda: None).to_pylist()
    assert first["image_scales"][0] == pytest.approx(0.42, abs=0.02) and first["image_scales"][1:] == [1.0]
    assert [part["visual_tokens"] for part in first["images"]] == [9, 6]
    assert [(part["width"], part["height"]) for part in first["images"]] == [(64, 64), (48, 8)], "as they were before"
    assert second["image_scales"] == [1.0]
    for most, there in ((None, False), (9, True)):
        options = JobOptions.of(input=("in",), output="out", max_image_tokens=most)
        assert ("image_scales" in labels_schema(optional=options.optional_columns).names) is there


def test_a_column_may_be_called_carried(tiny_model):
    """As what rows travel with is called."""
    engine = EngineOptions(keep=0.5, max_new_tokens=1)
    worker = LabelWorker(options := worker_options(tiny_model, engine, carried=("carried",)))
    labelling = Labelling(options)
    worker._process = SimpleNamespace(ask=lambda table: labelling(table, lambda: None))
    good = Row("a", "x.png", (RowImage("x.png", data=SOUND["plain.png"]),), prompt="w1", carried=("a bag",))
    bad = samples.to_table([(good.rejected(Reject("image_corrupt", "damaged")), None, 0.0)])
    table = pa.concat_tables([preparing(tiny_model, engine)(to_table([good]), lambda: None), bad])
    found = worker(table).to_pylist()
    assert [(row["error"], row["carried"]) for row in found] == [("image_corrupt", None), (None, "a bag")]
