"""The ledger's benchmark: what it says of its figures."""

from __future__ import annotations

import pyarrow.parquet as pq

from adafv.bench.ledger import MIB, Measurement, table, write_data
from adafv.pipeline.outputs.reader import read_labels
from adafv.pipeline.store.output import LocalOutput


def measurement(ids: int, seconds: float) -> Measurement:
    return Measurement(
        ids, seconds, seconds, 2 * seconds, seconds, 100 * MIB, 100 * MIB + 16 * ids, 100 * MIB + 40 * ids
    )


def test_figures():
    one = measurement(1_000_000, 1.5)
    assert one.seconds == 6.0 and one.bytes_per_id == 40.0
    lines = table([one, measurement(10_000_000, 18.0)]).splitlines()
    assert lines[1].split() == ["1,000,000", "1.5", "1.5", "3.0", "1.5", "6.00", "100", "115", "138", "40.0"]
    assert lines[-1] == "10.0 times the ids took 12.0 times the time"
    assert len(table([one]).splitlines()) == 2


def test_the_data_is_an_output_and_an_input_of_which_half_is_done(tmp_path):
    write_data(tmp_path, 20_001)
    assert len(LocalOutput(str(tmp_path / "output")).parquet_files("labels")) == 2
    ids = [id for batch in read_labels(tmp_path / "output", ["id"]) for id in batch.column("id").to_pylist()]
    assert len(set(ids)) == 20_001
    rows = pq.read_table(tmp_path / "input")["id"].to_pylist()
    assert len(set(rows)) == 20_001 and len(set(rows) & set(ids)) == 10_000
