"""A schedule: the same command every night on an input that grows, whatever the last night came to."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.dataset as ds
import pytest

from adafv.pipeline.outputs.reader import reconcile
from tests.forking import forking_jobs
from tests.jobs import night
from tests.jobs.half import HALF
from tests.pipeline.inputs import write_images, write_jsonl
from tests.services import without_ray

REPOSITORY = Path(__file__).parents[2]
DEADLINE = 300.0  # seconds; far more than it takes
BROKEN = 7  # the number of a row without an image


class Schedule:
    """An input, an output, and the command that is run each night."""

    def __init__(self, folder: Path, model: Path) -> None:
        self.folder, self.output, self.told = folder, folder / "out", folder / "told"
        self.input = write_images(folder) / "rows.jsonl"
        self.rows = 0
        self.told.mkdir()
        config = folder / "nightly.yaml"
        config.write_text(
            json.dumps({  # which is YAML, too
                "input": [str(self.input)], "output": str(self.output), "model": str(model), "max-new-tokens": 2,
                "batch-size": 4, "price-per-hour": 3600, "max-hours": 1,
                "on-finish": f"sh -c 'cat > {self.told}/$(date +%s%N)'",
            })
        )  # fmt: skip
        self.command = ["--config", str(config)]

    def grow(self, count: int) -> None:
        self.rows += count
        images = ["none.jpg" if i == BROKEN else "plain.jpg" for i in range(self.rows)]
        write_jsonl(
            self.input, [{"id": i, "image": image, "question": f"w{i % 200}"} for i, image in enumerate(images)]
        )

    def labels(self) -> dict[str, str]:
        """Which night labelled each id."""
        if not (self.output / "labels").is_dir():
            return {}
        rows = ds.dataset(self.output / "labels").to_table(columns=["id", "run_id"]).to_pylist()
        found = {row["id"]: row["run_id"] for row in rows}
        assert len(found) == len(rows), "an id is labelled twice"
        return found

    def record(self, night: str) -> dict:
        return json.loads((self.output / "runs" / f"{night}.json").read_text())

    def check(self, night: str, before: dict[str, str]) -> int:
        """The invariant after a night; how many rows it labelled, all of them new."""
        after = self.labels()
        assert {id: after[id] for id in before} == before, "a label of an earlier night is another now"
        new = {id for id, of in after.items() if of == night}
        assert new == after.keys() - before.keys()
        assert after.keys() <= {str(i) for i in range(self.rows)} - {str(BROKEN)}
        count = reconcile(self.output)
        assert count.duplicates == 0 and count.labelled == len(after)
        assert count.rejected in ({"image_not_found": 1}, {})
        record = self.record(night)
        if record["status"] != "running":
            counts = record["counts"]
            assert counts["labelled"] == len(new) and counts["skipped"] + counts["left"] <= self.rows
            assert count.labelled + sum(count.rejected.values()) + counts["left"] == self.rows
        return len(new)

    def night(self, name: str, *more: str) -> tuple[int, int]:
        """(exit status, rows labelled) of a night that comes to its end."""
        before = self.labels()
        status = night.label([*self.command, "--run-id", name, *more])
        return status, self.check(name, before)

    def crash(self, name: str) -> None:
        """A night that is killed when it has written some of its rows."""
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.jobs.night", *self.command, "--run-id", name],
            cwd=REPOSITORY, env=without_ray() | forking_jobs() | {HALF: "100"}, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        before, end = self.labels(), time.monotonic() + DEADLINE
        while len(self.labels()) < len(before) + 20:
            assert process.poll() is None and time.monotonic() < end, "it ended too early for this test"
            time.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        assert process.wait(timeout=DEADLINE) == -signal.SIGKILL
        assert 0 < self.check(name, before) < self.rows - len(before)


@pytest.mark.slow
def test_five_nights(ray_local, tiny_model, tmp_path, capfd):
    """The third crashes, the fourth has a budget that it can't do all with."""
    schedule = Schedule(tmp_path, tiny_model)
    schedule.grow(40)
    assert schedule.night("night-1") == (0, 39)
    schedule.grow(30)
    assert schedule.night("night-2") == (0, 30)
    schedule.grow(400)
    schedule.crash("night-3")
    assert schedule.record("night-3")["status"] == "running"

    schedule.grow(10)
    done = len(schedule.labels())
    status, labelled = schedule.night("night-4", "--max-cost", "1")
    left = schedule.rows - 1 - done - labelled
    record = schedule.record("night-4")
    assert (status, record["status"], record["stopped_by"]) == (4, "stopped", "max-cost")
    assert labelled > 0 and record["counts"]["left"] == left > 0
    captured = capfd.readouterr()
    assert f"left for another run   {left:,}, about " in captured.out
    assert f"--max-cost is reached; {left:,} rows are left" in captured.err

    schedule.grow(10)
    assert schedule.night("night-5") == (0, left + 10)
    assert len(schedule.labels()) == schedule.rows - 1
    told = [json.loads(path.read_text()) for path in sorted(schedule.told.iterdir())]
    assert [(one["run_id"], one["status"]) for one in told] == [
        ("night-1", "done"), ("night-2", "done"), ("night-4", "stopped"), ("night-5", "done")
    ]  # fmt: skip
    assert told[2] == record and "told" not in told[2]["config"]["on_finish"]
