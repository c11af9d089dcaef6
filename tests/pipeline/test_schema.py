"""A whole run whose answers are held to a schema: typed columns, and rejects that more tokens mend."""

from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.dataset as ds
import pytest

from adafv.engine import EngineOptions
from adafv.pipeline.errors import UsageError
from adafv.pipeline.fields import fields_of
from adafv.pipeline.outputs.reader import reconcile
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.schema import RESULTS, labels_schema
from adafv.pipeline.sources.rows import Row, RowImage, to_table
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import Labelling, results_of
from tests.engine.test_grammar import COLOURS
from tests.pipeline.inputs import NAMES, write_images, write_jsonl
from tests.pipeline.pictures import SOUND
from tests.pipeline.test_run import label, outcome
from tests.pipeline.workers.stages import preparing, worker_options
from tests.tiny_models import Shape, build

SCHEMA = COLOURS | {"properties": COLOURS["properties"] | {"id": {"type": "integer", "minimum": 1, "maximum": 9}}}


@pytest.mark.slow
def test_properties_are_columns_and_more_tokens_mend_what_was_cut_off(ray_local, tmp_path):
    model = build(tmp_path / "model", Shape(letters=True))
    write_images(tmp_path)
    path = write_jsonl(tmp_path / "rows.jsonl")
    short = label(model, tmp_path / "out", path, schema=SCHEMA, max_new_tokens=9, max_reject_rate=1)
    assert (short.labelled, short.rejected) == (0, 4)
    [(error, retryable)] = {(row["error"], row["retryable"]) for row in outcome(tmp_path / "out").rejects}
    assert (error, retryable) == ("answer_incomplete", True)
    label(model, tmp_path / "out", path, schema=SCHEMA, max_new_tokens=80, batch_size=3)
    assert reconcile(tmp_path / "out").labelled == 4 and not reconcile(tmp_path / "out").rejected
    table = ds.dataset(tmp_path / "out" / "labels").to_table()
    kinds = {name: str(table.schema.field(name).type) for name in ("colour", "many", "answer_id", "id")}
    assert kinds == {"colour": "string", "many": "bool", "answer_id": "int64", "id": "string"}
    for row in table.to_pylist():
        said = json.loads(row["answer"])
        assert (row["colour"], row["many"], row["answer_id"]) == (said["colour"], said["many"], said.get("id"))
    with pytest.raises(UsageError, match=r"--schema is .* it must be one that llguidance can do"):
        label(model, tmp_path / "other", path, schema={"type": "nonsense"})


def test_the_stages_hand_properties_on(tmp_path):
    """From rows to files, without Ray: what one batch makes."""
    model = build(tmp_path / "model", Shape(letters=True))
    images = [RowImage("x", data=SOUND[NAMES[0]])]
    rows = [Row(id=f"r{i}", image="x", images=tuple(images), prompt="what " * (i + 1)) for i in range(3)]
    found = {}
    for tokens in (9, 80):
        engine = EngineOptions(schema=SCHEMA, max_new_tokens=tokens, keep=0.25)
        samples = preparing(model, engine)(to_table(rows), lambda: None)
        table = Labelling(worker_options(model, engine))(samples, lambda: None)
        assert table.schema == results_of(engine)
        sink = Sink(
            open_output(str(tmp_path / "out"), Storage()),
            "run",
            labels=labels_schema(fields_of(engine.schema, RESULTS.names)),
        )
        sink.add(full(table))
        sink.close()
        found[tokens] = table.column("error").to_pylist()
    assert found == {9: ["answer_incomplete"] * 3, 80: [None] * 3}
    for row in ds.dataset(tmp_path / "out" / "labels").to_table().to_pylist():
        said = json.loads(row["answer"])
        assert (row["colour"], row["many"], row["answer_id"]) == (said["colour"], said["many"], said.get("id"))
    assert ds.dataset(tmp_path / "out" / "rejects").count_rows() == 3


def full(table):
    """With what the actor says of itself."""
    for name, value in {"worker": "h/1", "worker_started": 0.0}.items():
        place, type = RESULTS.get_field_index(name), RESULTS.field(name).type
        table = table.set_column(place, name, pa.repeat(pa.scalar(value, type), table.num_rows))
    return table
