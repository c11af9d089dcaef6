"""A whole run whose answers are held to a schema: typed columns, and rejects that more tokens mend."""

from __future__ import annotations

import json

import pyarrow.dataset as ds
import pytest

from adafv.pipeline.errors import UsageError
from adafv.pipeline.outputs.reader import reconcile
from tests.engine.test_grammar import COLOURS
from tests.pipeline.inputs import write_images, write_jsonl
from tests.pipeline.test_run import label, outcome
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
