"""The output: routed rows, whole files, and what is read back from them."""

from __future__ import annotations

import errno
import os
import threading
import time
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from adafv.pipeline import schema
from adafv.pipeline.control.resources import Resources
from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.outputs import sink
from adafv.pipeline.outputs.ledger import digest_id, digest_place, read_ledger
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.record.prices import Price, Tariff
from adafv.pipeline.record.run_record import RunRecord
from adafv.pipeline.record.tally import Device, Span, Tally
from adafv.pipeline.store import retry
from adafv.pipeline.store.output import LocalOutput, Output, S3Output, open_output
from adafv.pipeline.store.s3 import S3_ERRORS
from adafv.pipeline.store.storage import Storage
from tests.faulty_store import Fault, FaultyStore

PANEL = {"rows": 2, "columns": 3, "top": 0.0, "left": 0.0, "bottom": 1.0, "right": 1.0}


def label(id: str) -> dict:
    return {
        "id": id, "image": f"{id}.jpg", "answer": "yes", "kept_indices": [1, 5], "grid": [PANEL], "visual_tokens": 10,
        "kept_tokens": 2, "gpu_seconds": 0.5, "cost_usd": 0.25, "run_id": "r", "worker": "w", "worker_started": 1.0,
        "labelled_at": datetime.now(UTC),
    }  # fmt: skip


def reject(id: str | None, error: str, image: str = "x") -> dict:
    return {
        "id": id,
        "image": image,
        "error": error,
        "message": "m",
        "run_id": "r",
        "worker": "w",
        "worker_started": 1.0,
    }


def results(*rows: dict) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=schema.RESULTS)


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> Output:
    if request.param == "local":
        return open_output(str(tmp_path / "out"), Storage())
    s3 = request.getfixturevalue("s3")
    return open_output(f"s3://{s3.new_bucket()}/some/out/", Storage.from_environment(environment=s3.environment))


def stored(output: Output, part: str) -> pa.Table:
    tables = [pq.read_table(path, filesystem=output.filesystem) for path in output.parquet_files(part)]
    return pa.concat_tables(tables)


def test_rows_are_routed_and_counted(output):
    sink = Sink(output, "r")
    sink.add(results(label("a"), reject("b", "image_empty"), label("c")))
    sink.add(results(reject(None, "missing_id")))
    sink.add(results())
    sink.close()
    labels, rejects = stored(output, "labels"), stored(output, "rejects")
    assert labels.schema == schema.LABELS and rejects.schema == schema.REJECTS
    assert labels["id"].to_pylist() == ["a", "c"] and labels["grid"][0].as_py() == [PANEL]
    assert rejects.select(["id", "stage", "error", "retryable"]).to_pylist() == [
        {"id": "b", "stage": "decode", "error": "image_empty", "retryable": False},
        {"id": None, "stage": "source", "error": "missing_id", "retryable": False},
    ]
    tally = sink.tally
    assert (tally.labelled, dict(tally.rejected)) == (2, {"image_empty": 1, "missing_id": 1})
    assert tally.totals["kept_tokens"] == 4 and tally.totals["cost_usd"] == 0.5
    assert tally.worker_seconds(11.0) == 10.0


def test_batches_and_answers_that_were_cut_off_are_counted(output):
    sink = Sink(output, "r")
    for size, reasons in ((3, ["length", "stop", "length"]), (2, ["stop", None]), (1, ["length"])):
        rows = [{"finish_reason": reason, "batch_size": size} for reason in reasons]
        sink.add(results(*(label(f"{size}{i}") | row for i, row in enumerate(rows)), reject(None, "missing_id")))
    sink.close()
    assert (sink.tally.truncated, sink.tally.batches) == (3, pytest.approx(3))


def test_what_workers_run_on_is_known_from_their_labels(output):
    sink = Sink(output, "r")
    g5 = {"worker_device": "A10G", "worker_instance": "g5.xlarge", "worker_attention": "sdpa"}
    lone = {"worker_device": "A10G"}
    rows = [("a", "w", g5), ("b", "w", g5), ("c", "v", g5), ("d", "u", {}), ("e", "t", lone)]
    sink.add(results(*(label(id) | {"worker": worker} | ran_on for id, worker, ran_on in rows)))
    sink.close()
    known = ("A10G", "g5.xlarge", "sdpa")
    assert sink.tally.devices == {"w": known, "v": known, "t": ("A10G", None, None)}
    record = RunRecord(
        run_id="r",
        config={},
        tariff=Tariff(),
        output="out",
        tally=sink.tally,
        resources=Resources(
            device="cuda",
            workers=(2, 2),
            worker_cpus=1,
            worker_gpus=1,
            read_cpus=0.25,
            prepare_cpus=0.75,
            threads=1,
            batch_size=8,
        ),
    ).record()
    assert record["hardware"]["devices"] == [
        {"device": "A10G", "instance": "g5.xlarge", "attention": "sdpa", "workers": 2, "price_per_hour": None},
        {"device": "A10G", "instance": None, "attention": None, "workers": 1, "price_per_hour": None},
    ]


def test_how_fast_workers_are_is_told_by_what_comes_behind_their_first_batches(output):
    """One labels four batches of two rows and waits behind the first; another has two batches; rejects don't count."""
    begun = 1_000_000.0
    made = {"w": (1.0, 5.0, 6.0, 7.5), "v": (2.0, 4.5)}

    def batch(worker: str, seconds: float) -> list[dict]:
        labelled = {"worker": worker, "labelled_at": datetime.fromtimestamp(begun + seconds, UTC), "gpu_seconds": 0.25}
        return [label(f"{worker}{seconds}{row}") | labelled for row in range(2)]

    sink = Sink(output, "r")
    batches = {worker: [batch(worker, each) for each in seconds] for worker, seconds in made.items()}
    sink.add(results(*batches["w"][0]))
    sink.add(results(*batches["v"][0], *batches["v"][1], reject("c", "image_empty")))
    sink.add(results(*batches["w"][1], *batches["w"][2]))  # two batches of one worker in a table
    alike = {name: batches["w"][3][0][name] for name in ("worker", "labelled_at", "gpu_seconds")}
    sink.add(results(*batches["w"][3], reject("d", "answer_incomplete") | alike))
    sink.close()
    run = RunRecord(run_id="r", config={}, tariff=Tariff(), output="out", tally=sink.tally, since=begun - 10)
    found = run.record()["throughput"]
    assert found["first_batch_seconds"] == pytest.approx(10 + (1.0 + 2.0) / 2 - 2 * 0.25)
    assert found["last_batch_seconds"] == pytest.approx(17.5)
    assert (found["steady_rows"], found["steady_worker_seconds"]) == (4 + 2, pytest.approx((7.5 - 5.0) + (4.5 - 2.0)))


@given(st.permutations(range(7)))
def test_in_whatever_order_a_workers_batches_come(order):
    """It has several tables in hand, and takes turns between them."""
    batches = [(0.0, 10.0, 4), (10.0, 11.0, 3), (11.0, 13.0, 4), (13.0, 14.0, 2), (14.0, 15.0, 4), (15.0, 17.0, 4)]
    batches.append((17.0, 18.0, 1))
    span = Span()
    for place in order:
        span.add(*batches[place])
    assert (span.began, span.last, span.rows) == (0.0, 18.0, 22) and span.steady == (4 + 2 + 4 + 4 + 1, 18.0 - 11.0)


def test_each_worker_costs_what_it_runs_on_for_as_long_as_it_is_there(output):
    """Of three, one is lost after 40 s and one hasn't labelled yet: it counts at the mean price."""
    sink = Sink(output, "r")
    a10g, h100 = {"worker_device": "A10G"}, {"worker_device": "H100"}
    rows = [label("a") | a10g | {"worker": "x/1"}, label("b") | h100 | {"worker": "x/2"}]
    rows.append(reject("c", "image_empty") | {"worker": "x/3"})
    steps = {"worker_download_s": 5.0, "worker_load_s": 2.0, "worker_trial_s": 1.0}
    sink.add(results(*(row | {"worker_actor": row["worker"][-1], "worker_started": 0.0} | steps for row in rows)))
    sink.close()
    table = tuple(Price(usd, date(2026, 11, 22), "made up", device) for device, usd in (("A10G", 36), ("H100", 360)))
    tally, tariff = sink.tally, Tariff(table=table)
    assert tally.usd(100.0, tariff) == pytest.approx(100 * (0.01 + 0.1 + 0.055))
    tally.note_gone({("1", 1), ("3", 3), ("2", 99)}, 40.0)  # the second's actor is there again, in another process
    assert tally.gone == {"x/2": 40.0} and tally.lost == 1
    assert tally.worker_seconds(100.0) == 240
    assert tally.usd(100.0, tariff) == pytest.approx(100 * 0.01 + 40 * 0.1 + 100 * 0.055)
    assert tally.usd(100.0, Tariff(3600.0)) == 240 and tally.usd(100.0, Tariff()) is None
    assert tally.usd(100.0, Tariff(table=table[:1])) is None, "it isn't known, rather than less"
    record = RunRecord(run_id="r", config={}, tariff=tariff, output="out", tally=tally).record()["start"]
    assert record == {
        "plan_seconds": 0.0, "workers": 3, "workers_gone": 1,
        **{f"{step}_seconds": {"median": seconds, "most": seconds}
           for step, seconds in (("download", 5.0), ("load", 2.0), ("trial", 1.0))},
    }  # fmt: skip
    tally.note_gone({("1", 1)}, 50.0, ended={"3"})  # Ray Data has ended the third, before the last row arrived here
    assert tally.gone == {"x/2": 40.0, "x/3": 50.0} and tally.lost == 1


def test_cost_is_counted_while_workers_come(output):
    """The threads that show the cost and keep it within --max-cost count while the main thread adds workers."""
    tally = Tally(workers={"a/1": 0.0}, devices={"a/1": Device("A10G")})

    class Meanwhile(Tariff):
        def of(self, device: str | None, instance: str | None) -> float | None:
            tally.workers["b/2"], tally.devices["b/2"] = 0.0, Device("A10G")
            return super().of(device, instance)

    assert tally.usd(10.0, Meanwhile(3600.0)) == 10


def test_files_are_written_when_full_or_old(output):
    sink = Sink(output, "r", rows=2, seconds=3600)
    sink.add(results(label("a"), reject("b", "image_empty")))
    assert output.parquet_files("labels") == []
    sink.add(results(label("c")))
    assert len(output.parquet_files("labels")) == 1 and output.parquet_files("rejects") == []
    old = Sink(output, "r", rows=1000, seconds=0)
    old.add(results(label("d")))
    assert len(output.parquet_files("labels")) == 2  # under the same run id: nothing was overwritten
    sink.close()
    old.close()
    assert sorted(stored(output, "labels")["id"].to_pylist()) == ["a", "c", "d"]


def test_files_are_written_when_their_rows_take_much_memory(output, monkeypatch):
    monkeypatch.setattr(sink, "BYTES", 2**20)
    large = Sink(output, "r", rows=1000, seconds=3600)
    for number in range(5):
        large.add(results(label(str(number)) | {"question": "x" * 300_000}))
    assert [
        pq.read_metadata(path, filesystem=output.filesystem).num_rows for path in output.parquet_files("labels")
    ] == [4]
    large.close()
    assert sorted(stored(output, "labels").column("id").to_pylist()) == list("01234")


def test_the_ledger_reads_the_output(output):
    assert len(read_ledger(output, retry_rejects=False)) == 0
    sink = Sink(output, "r")
    sink.add(
        results(
            label("done"), reject("bad", "image_corrupt"), reject("later", "image_fetch_failed"),
            reject("twin", "duplicate_id"), reject(None, "missing_id", image="f#3"),
        )
    )  # fmt: skip
    sink.close()
    known = [digest_id("done"), digest_id("bad"), digest_place("f#3")]
    ledger = read_ledger(output, retry_rejects=False)
    assert len(ledger) == 3 and ledger.contains(_array(known)).all()
    again = read_ledger(output, retry_rejects=True)
    assert again.contains(_array(known)).tolist() == [True, False, False]
    for repeats in (ledger.repeats, again.repeats):
        assert repeats.times(_array([digest_id("twin"), digest_id("done")])).tolist() == [1, 0]


def _array(digests: list[bytes]):
    import numpy as np

    from adafv.pipeline.outputs.ledger import DIGEST

    return np.array(digests, dtype=DIGEST)


def test_read_and_put(output):
    assert output.read("runs/x.json") is None
    output.put("runs/x.json", b"one")
    output.put("runs/x.json", b"two")
    assert output.read("runs/x.json") == b"two"


def test_what_was_created_is_not_created_again(output):
    output.create("lease/1", b"one")
    output.create("lease/1", b"two")
    assert output.read("lease/1") == b"one"


def test_age_names_and_delete(output):
    assert output.age("lease/1") is None and output.names("lease") == []
    output.put("lease/2", b"")
    output.put("lease/1", b"")
    assert output.names("lease") == ["lease/1", "lease/2"]
    assert -1.5 < output.age("lease/1") < 30, "S3 tells whole seconds"
    output.delete("lease/1")
    output.delete("lease/1")
    assert output.names("lease") == ["lease/2"]


def test_what_a_full_disk_does_not_take_leaves_nothing_behind(tmp_path, monkeypatch):
    output = LocalOutput(str(tmp_path))

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space left"):
        output.put("labels/a.parquet", b"much")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_ages_are_by_the_drives_clock(tmp_path, monkeypatch):
    """Not by this machine's, which may go wrong, or differ from a network drive's."""
    output = LocalOutput(str(tmp_path))
    output.put("lease/1", b"")
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 3600)
    assert 0 <= output.age("lease/1") < 600
    assert [path.name for path in tmp_path.glob("*") if path.is_file()] == []


def test_a_folder_that_cannot_be_listed_is_not_an_empty_one(tmp_path, monkeypatch):
    """Or all its labels would be made once more."""
    output = LocalOutput(str(tmp_path))
    output.put("labels/a.parquet", b"")

    def refuse(path: object) -> None:
        raise PermissionError(path)

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, refuse)
    with pytest.raises(PermissionError):
        output.parquet_files("labels")


def test_half_written_files_of_a_killed_writer_are_swept_away(tmp_path):
    output = LocalOutput(str(tmp_path))
    output.put("labels/a.parquet", b"whole")
    (tmp_path / ".tmp" / "left").write_bytes(b"ha")
    output.sweep()
    assert list((tmp_path / ".tmp").iterdir()) == []
    assert output.read("labels/a.parquet") == b"whole"


def test_a_run_that_begins_does_not_sweep_away_what_a_contender_is_writing(tmp_path):
    """A job that is about to be refused would say that the output can't be written, with status 2."""
    contender = LocalOutput(str(tmp_path))
    contender.put("lease/1", b"")
    with contender._temporary(b"") as now:
        LocalOutput(str(tmp_path)).sweep()
        assert now.exists()
    long_ago = tmp_path / ".tmp" / "left"
    long_ago.write_bytes(b"")
    os.utime(long_ago, (0, 0))
    LocalOutput(str(tmp_path)).sweep()
    assert not long_ago.exists()


def test_nothing_is_written_once_the_guard_refuses(output):
    def refuse() -> None:
        raise RunError("the lease was lost")

    output.guard = refuse
    sink = Sink(output, "r")
    sink.add(results(label("a")))
    with pytest.raises(RunError, match="lost"):
        sink.close()
    assert output.parquet_files("labels") == []


def test_a_put_that_fails_leaves_nothing_and_loses_nothing(tmp_path, monkeypatch):
    output = LocalOutput(str(tmp_path))
    sink = Sink(output, "r")
    sink.add(results(label("a")))
    with monkeypatch.context() as patched:
        patched.setattr("os.replace", _fail)
        with pytest.raises(OSError, match="disk"):
            sink.close()
    assert output.parquet_files("labels") == []
    sink.close()
    assert stored(output, "labels")["id"].to_pylist() == ["a"]


def _fail(*_: object) -> None:
    raise OSError("disk")


@pytest.fixture
def faulty(s3, monkeypatch):
    """A store to break, and an output on it that doesn't pause between attempts."""
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    with FaultyStore(s3.endpoint) as store:
        yield (
            store,
            open_output(f"s3://{s3.new_bucket()}/out", Storage.from_environment(store.endpoint, s3.environment)),
        )


PASSING = ("slow_down", "unavailable", "expired", "skewed", "reset", "lost_reset", "lost_error", "late")


@pytest.mark.parametrize("kind", PASSING)
def test_a_put_is_tried_again_under_the_same_name(faulty, kind):
    """Also where the store did what it was asked and only the answer was lost: no row is there twice."""
    store, output = faulty
    store.faults = (Fault(kind, "PUT", "*/labels/*", first=3, seconds=0.1),)
    sink = Sink(output, "r")
    sink.add(results(label("a"), label("b")))
    sink.close()
    time.sleep(0.3)  # what is late has arrived
    assert store.count(kind) == 3 and stored(output, "labels")["id"].to_pylist() == ["a", "b"]


@pytest.mark.parametrize("kind", ["lost_reset", "lost_error", "late"])
def test_a_file_that_may_have_been_written_is_written_again_as_it_was(faulty, monkeypatch, kind):
    """More rows have come by then. They aren't added to it: the first attempt may land after the second."""
    store, output = faulty
    monkeypatch.setattr(S3Output.put, "__defaults__", (0.0,))
    store.faults = (Fault(kind, "PUT", "*/labels/*", first=1, seconds=0.5),)
    sink = Sink(output, "r", rows=2)
    with pytest.raises(S3_ERRORS):
        sink.add(results(label("a"), label("b")))
    sink.add(results(label("c")))
    sink.close()
    time.sleep(0.7)
    assert stored(output, "labels")["id"].to_pylist() == ["a", "b", "c"]


def test_what_stays_is_not_tried_again_and_the_other_part_is_written(faulty):
    store, output = faulty
    store.faults = (Fault("denied", "PUT", "*/rejects/*"),)
    sink = Sink(output, "r")
    sink.add(results(label("a"), reject("b", "image_empty")))
    with pytest.raises(S3_ERRORS, match="AccessDenied"):
        sink.close()
    assert store.count("denied") == 1 and stored(output, "labels")["id"].to_pylist() == ["a"]
    store.faults = ()
    sink.close()
    assert stored(output, "labels")["id"].to_pylist() == ["a"] and stored(output, "rejects")["id"].to_pylist() == ["b"]


def test_the_guard_is_asked_before_each_attempt(faulty):
    """A put that fails for long must not succeed when the lease is another's by then."""
    store, output = faulty
    store.faults = (Fault("slow_down", "PUT"),)
    asked = []

    def guard() -> None:
        asked.append(store.count("slow_down"))
        if len(asked) > 3:
            raise RunError("the lease was lost")

    output.guard = guard
    with pytest.raises(RunError, match="lost"):
        output.put("labels/x", b"")
    assert asked == [0, 1, 2, 3], "one request for each permission"


def test_a_put_is_given_up_in_the_end(faulty, monkeypatch):
    store, output = faulty
    monkeypatch.setattr(retry, "pause", lambda *_: 0.2)
    store.faults = (Fault("slow_down", "PUT"),)
    with pytest.raises(S3_ERRORS, match="SlowDown"):
        output.put("labels/x", b"", patience=3.0)
    assert store.count("slow_down") > 1


def test_a_byte_that_changed_in_the_output_is_no_other_id(output):
    """Pages carry checksums, and whoever reads what is done checks them."""
    sink = Sink(output, "r")
    sink.add(results(*(label(f"{i}") for i in range(1000))))
    sink.close()
    (name,) = output.names("labels")
    data = bytearray(output.read(name) or b"")
    data[pq.ParquetFile(pa.BufferReader(bytes(data))).metadata.row_group(0).column(0).data_page_offset + 60] ^= 1
    output.put(name, bytes(data))
    with pytest.raises(OSError, match="CRC"):
        read_ledger(output, retry_rejects=False)


def test_readers_never_see_half_a_file(tmp_path):
    """A reader polls while large files appear; whatever it sees under labels/ is whole."""
    output, stop, seen, broken = LocalOutput(str(tmp_path)), threading.Event(), set(), []

    def poll() -> None:
        while not stop.is_set():
            for path in tmp_path.glob("labels/*"):
                seen.add(path.name)
                if len(path.read_bytes()) != 30_000_000 or path.suffix != ".parquet":
                    broken.append(path.name)

    reader = threading.Thread(target=poll)
    reader.start()
    for i in range(10):
        output.put(f"labels/{i}.parquet", bytes(30_000_000))
    stop.set()
    reader.join()
    assert broken == [] and seen
    assert not any(Path(tmp_path / ".tmp").iterdir())


def test_outputs_that_are_none():
    with pytest.raises(UsageError, match="local folder or an s3"):
        open_output("gs://bucket/x", Storage())
