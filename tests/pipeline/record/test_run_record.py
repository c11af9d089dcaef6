"""The table that closes the log."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline import schema
from adafv.pipeline.record.prices import Price, Tariff
from adafv.pipeline.record.run_record import RunRecord
from adafv.pipeline.record.tally import Device, Tally

TABLE = (Price(2.0, date(2026, 11, 21), "x", "A"),)


def table(**counts) -> dict[str, str]:
    """Its lines by name."""
    run = RunRecord(run_id="r", config={"max_new_tokens": 48}, tariff=Tariff(None), output="out", tally=Tally(**counts))
    return {line[2:].split("  ")[0].strip() or line.split()[0]: line for line in run.table().splitlines()}


def test_it_says_how_many_answers_were_cut_off_and_what_to_try():
    lines = table(labelled=40, truncated=3, flags=Counter(cut=3, loop=2), rejected=Counter(answer_incomplete=10))
    assert lines["cut"].endswith("3 (7.5%) by --max-new-tokens 48; try 96")
    assert lines["answer_incomplete"].endswith("10 (20.0%) by --max-new-tokens 48; try 96")
    assert lines["loop"].split()[-1] == "2"


def test_no_part_of_an_unknown_cost_is_on_record():
    """One of two devices has no price: its labels cost nothing, and the run an unknown sum."""
    run = RunRecord(run_id="r", config={}, tariff=Tariff(table=TABLE), output="out")
    run.tally.devices = {"a": Device("A"), "b": Device("B")}
    run.tally.workers, run.tally.totals["cost_usd"] = {"a": 0.0, "b": 0.0}, 0.5
    run.cost_usd = run.tally.usd(3600.0, run.tariff)
    assert run.record()["cost"]["usd"] is run.record()["cost"]["usd_attributed"] is None
    del run.tally.devices["b"], run.tally.workers["b"]
    run.cost_usd = run.tally.usd(3600.0, run.tariff)
    assert (run.record()["cost"]["usd"], run.record()["cost"]["usd_attributed"]) == (2.0, 0.5)


def test_an_audits_lower_end_is_rounded_down():
    run = RunRecord(run_id="r", config={}, tariff=Tariff(None), output="out")
    rows = [{"image": str(n), "images": None, "answer": "a", "audit_answer": "b" if n < 1 else "a"} for n in range(200)]
    run.tally.audit.add(pa.Table.from_pylist(rows))
    low = run.tally.audit.estimate().low
    [shown] = [line.split("[")[1].split(",")[0] for line in run.table().splitlines() if "audited" in line]
    assert round(low, 4) > low and 0 <= low - float(shown) < 1e-4


def test_where_none_was_it_says_nothing_of_it():
    assert not any("max-new-tokens" in line for line in table(labelled=40, rejected=Counter(image_corrupt=1)).values())


def batch(at: float, count: int, seconds: float, **values: Any) -> list[dict[str, Any]]:
    """Rows of a worker that together held it for so many `seconds` until `at`."""
    made = {"worker": "w", "worker_started": 0.0, "labelled_at": datetime.fromtimestamp(at, UTC), "message": "m"}
    return [made | {"id": "x", "image": "i", "gpu_seconds": seconds / count} | values for _ in range(count)]


def recorded(*batches: list[dict[str, Any]]) -> dict[str, Any]:
    """The record of a run of these batches, each in a table of its own."""
    run = RunRecord(run_id="r", config={}, tariff=Tariff(None), output="out")
    for rows in batches:
        table = pa.Table.from_pylist(rows, schema=pa.schema([*schema.RESULTS, schema.DUPLICATE]))
        good = pc.is_null(table.column("error"))
        run.tally.add(table, table.filter(good), table.filter(pc.invert(good)))
    return run.record()


def test_reused_labels_are_no_batches():
    """Four batches of four labels, a second each, from the tenth second on; each second label is a copy that came
    right after. So the two later batches stand for 16 rows in two seconds."""
    made = [[*batch(11.0 + n, 4, 1.0), *batch(11.001 + n, 4, 0.0, duplicate_of="x")] for n in range(4)]
    early = batch(5.0, 4, 0.0, duplicate_of="y")  # before the model is loaded
    for found in (recorded(*made)["throughput"], recorded(early, *made)["throughput"]):
        assert (found["first_batch_seconds"], found["last_batch_seconds"]) == (10.0, 14.0)
        assert found["steady_worker_seconds"] == 2.0
    assert recorded(*made)["throughput"]["steady_rows"] == 16


def test_the_time_of_answers_that_were_rejected_is_on_record():
    """Of what the model answered, half was cut off. A reject of an earlier stage took none."""
    found = recorded(
        batch(11.0, 4, 1.0), batch(12.0, 4, 1.0, error="answer_incomplete"),
        batch(13.0, 1, 0.0, error="image_empty", gpu_seconds=None, labelled_at=None),
    )  # fmt: skip
    assert (found["totals"]["gpu_seconds"], found["totals"]["rejected_gpu_seconds"]) == (1.0, 1.0)
