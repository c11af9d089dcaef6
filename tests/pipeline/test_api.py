"""The job from Python: what `adafv.label` says of a run, and that it leaves its process as it was."""

from __future__ import annotations

import json
import logging
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import ray
from ray.data import DataContext

import adafv
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.store.output import LocalOutput
from tests.pipeline.inputs import ROWS, write_images, write_jsonl
from tests.services import without_ray


@pytest.fixture
def options(tiny_model, tmp_path):
    """A job of two rows, the second of which shows an image that isn't there."""
    write_images(tmp_path)
    rows = [ROWS[0], {"id": "gone", "image": "gone.png", "question": "w1"}]
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    engine = adafv.EngineOptions(max_new_tokens=4, keep=0.25)
    return adafv.JobOptions(input=[str(path)], output=str(tmp_path / "out"), model=str(tiny_model), engine=engine)


def state() -> tuple[object, ...]:
    """What a library must not change in its caller's process."""
    loggers = [logging.getLogger(name) for name in ("", "adafv", "ray", "ray.data")]
    return (
        [(each.level, list(each.handlers)) for each in loggers],
        {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)},
        id(DataContext.get_current()),
        DataContext.get_current().execution_no_progress_timeout_s,
        DataContext.get_current().enable_progress_bars,
        ray.is_initialized() and ray.get_runtime_context().get_job_id(),
    )


def test_the_result_says_what_the_run_did(ray_local, options, capsys):
    before = state()
    result = adafv.label(options)
    assert state() == before and ray.is_initialized()
    assert isinstance(result, adafv.RunResult) and result.status == 0
    assert (result.input, result.skipped, result.labelled, result.rejected, result.left) == (2, 0, 1, 1, 0)
    assert pq.read_table(result.labels).column("id").to_pylist() == ["r0"]
    assert pq.read_table(result.rejects).column("error").to_pylist() == ["image_not_found"]
    record = json.loads(Path(result.record_file).read_text())
    assert json.loads(json.dumps(result.record)) == record and record["status"] == "done"
    assert record["counts"]["rejected_by_error"] == {"image_not_found": 1} and record["config"]["keep"] == 0.25
    [row] = pq.read_table(result.labels).to_pylist()
    assert len(adafv.label_boxes(row)) == row["kept_tokens"] == len(row["kept_indices"])
    again = adafv.label(options)
    assert (again.skipped, again.labelled, again.rejected) == (2, 0, 0)
    said = capsys.readouterr()
    assert said.out == "" and "Traceback" not in said.err


def test_what_goes_wrong_is_raised(ray_local, options, tmp_path):
    before = state()
    with pytest.raises(adafv.UsageError, match="there is nothing"):
        adafv.label(options.changed(input=[str(tmp_path / "nowhere")]))
    with Lease(LocalOutput(options.output), "other"), pytest.raises(adafv.RunError, match="other"):
        adafv.label(options)
    assert state() == before


def test_in_a_thread_it_has_no_limits(ray_local, options):
    """A limit interrupts the main thread where no worker is left, which would be somebody else's."""
    with ThreadPoolExecutor(1) as pool:
        with pytest.raises(adafv.UsageError, match="call this from that thread"):
            pool.submit(adafv.label, options.changed(max_hours=1.0)).result()
        result = pool.submit(adafv.label, options.changed(max_reject_rate=0.1)).result()
    assert result.labelled == 1 and result.status == 3, "of two rows, one is rejected"


def test_importing_the_package_is_cheap():
    code = """if True:
        import sys
        import adafv
        adafv.label_boxes({"grid": None, "kept_indices": None, "images": None})
        assert not {"torch", "ray", "transformers", "pyarrow", "numpy", "yaml"} & set(sys.modules), "imported"
        adafv.EngineOptions, adafv.JobOptions, adafv.UsageError, adafv.RunError
        assert not {"torch", "ray", "transformers", "pyarrow"} & set(sys.modules), "imported"
        assert set(adafv.__all__) == set(adafv._MODULES) and all(hasattr(adafv, name) for name in adafv.__all__)
        assert not hasattr(adafv, "nothing")
        assert not {"torch", "transformers"} & set(sys.modules), "imported"
        """
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_ray_that_it_starts_itself_is_gone_afterwards(options):
    """The job would need half a minute more; here it is refused once Ray is there."""
    code = """if True:
        import sys
        import adafv, ray
        from adafv.pipeline import setup

        def refuse(*_, **__):
            assert ray.is_initialized()
            raise adafv.UsageError("no room")

        setup.allot = refuse
        try:
            adafv.label(adafv.JobOptions.of(input=[sys.argv[1]], output=sys.argv[2], model=sys.argv[3]))
        except adafv.UsageError as error:
            assert not ray.is_initialized() and str(error) == "no room"
            print("refused")
        """
    arguments = [options.input[0], options.output, options.model]
    done = subprocess.run([sys.executable, "-c", code, *arguments], env=without_ray(), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "refused\n"), done.stderr
