"""What the worker's child makes of a batch of which some rows have no answer."""

from __future__ import annotations

import pytest
import torch
from transformers import AutoTokenizer

from adafv.engine import EngineOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.sources.rows import Row, RowImage, to_table
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing
from tests.pipeline.pictures import SOUND


@pytest.mark.parametrize("strategy", ["none", "saliency"])
def test_a_row_whose_scores_overflow_is_a_reject(tiny_model, strategy):
    engine = EngineOptions(strategy=strategy, keep=0.5, max_new_tokens=2)
    image = RowImage("x.png", data=SOUND["plain.png"])
    asked = [Row(f"r{i}", "x.png", (image,), question=f"w{i}", prompt=f"w{i}") for i in range(3)]
    prepare = Preparing(
        Preparation(
            model=str(tiny_model), engine=engine, storage=Storage(), max_pixels=10**6, max_bytes=10**6, timeout=60.0,
            handler=Preparing,
        )
    )  # fmt: skip
    samples = prepare(to_table(asked), lambda: None)
    tariff = Tariff(None, (), 1)
    options = WorkerOptions(
        model="m", path=str(tiny_model), engine=engine, storage=Storage(), run_id="run", tariff=tariff, threads=1,
        batch_timeout=60.0, handler=Labelling,
    )  # fmt: skip
    labelling = Labelling(options)
    [token] = AutoTokenizer.from_pretrained(tiny_model)("w1", add_special_tokens=False).input_ids
    with torch.no_grad():
        labelling._engine._adapter.model.get_input_embeddings().weight[token] = torch.inf
    results = labelling(samples, lambda: None).to_pylist()
    assert [row["error"] for row in results] == [None, "label_failed", None]
    assert "NaN or infinite" in results[1]["message"] and results[1]["answer"] is None
    assert all(row["gpu_seconds"] > 0 for row in results), "the batch's time is shared among all of its rows"
