"""Whole jobs on a store that fails: no label is wrong, none is there twice, and none is lost for good."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from adafv.pipeline.errors import RunError
from adafv.pipeline.outputs import lease
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.outputs.sink import Sink
from adafv.pipeline.store import retry
from adafv.pipeline.store.output import S3Output
from adafv.pipeline.store.storage import Storage
from tests.faulty_store import Fault, FaultyStore
from tests.pipeline.inputs import NAMES
from tests.pipeline.pictures import SOUND
from tests.pipeline.test_run import Outcome, label, outcome
from tests.services import S3_SECRET, S3Server

pytestmark = pytest.mark.slow

ROWS = [{"id": f"r{i}", "image": f"{i}-{NAMES[i % 4]}", "question": f"w{i} w{i % 7}"} for i in range(48)]
BROKEN = (
    "slow_down",
    "unavailable",
    "expired",
    "skewed",
    "reset",
    "reset_body",
    "truncated",
    "short",
    "long",
    "flipped",
)


@dataclass(frozen=True)
class Setting:
    """An input of many images on S3, and what it should come to."""

    bucket: str
    model: Path
    answers: dict[str, tuple[Any, ...]]
    s3: S3Server

    def run(self, endpoint: str, name: str) -> int:
        base = f"s3://{self.bucket}"
        return label(
            self.model, f"{base}/{name}", f"{base}/in/rows.jsonl", s3_endpoint=endpoint, batch_size=8
        ).status  # fmt: skip

    def outcome(self, name: str) -> Outcome:
        """What is there, by the store itself."""
        return outcome(f"s3://{self.bucket}/{name}", Storage.from_environment(environment=self.s3.environment))


@pytest.fixture(scope="module")
def setting(ray_local, s3, tiny_model) -> Setting:
    bucket = s3.new_bucket()
    for row in ROWS:
        name = row["image"]
        s3.client.put_object(Bucket=bucket, Key=f"in/{name}", Body=SOUND[name.partition("-")[2]])
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    s3.client.put_object(Bucket=bucket, Key="in/rows.jsonl", Body=lines.encode())
    with pytest.MonkeyPatch.context() as patched:
        for name, value in s3.environment.items():
            patched.setenv(name, value)
        setting = Setting(bucket, tiny_model, {}, s3)
        assert setting.run(s3.endpoint, "clean") == 0
    answers = setting.outcome("clean").answers()
    assert len(answers) == len(ROWS)
    return Setting(bucket, tiny_model, answers, s3)


@pytest.fixture
def store(s3, monkeypatch) -> Iterator[FaultyStore]:
    """Between the job and the store. Files are small, pauses are short, and this process counts as dead once a run in
    it has ended without releasing its lease."""
    for name, value in s3.environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(Sink.__init__, "__defaults__", (5, *Sink.__init__.__defaults__[1:]))
    monkeypatch.setattr(retry, "pause", lambda *_: 0.1)
    monkeypatch.setattr(Lease.__init__, "__defaults__", (60.0,))
    monkeypatch.setattr(lease, "_gone", lambda pid, born: True)
    with FaultyStore(s3.endpoint) as store:
        yield store


def check(found: Outcome, setting: Setting) -> set[str]:
    """Labels are those of an undisturbed run, each once. The ids that have none."""
    answers = found.answers()
    assert len(found.labels) == len(answers), "an id is there twice"
    assert answers == {id: setting.answers[id] for id in answers}
    return set(setting.answers) - set(answers)


def test_labels_are_right_whatever_the_store_does(setting, store):
    """Half of the requests for images fail in one of ten ways, and the first puts of labels, though the store has them.
    What is given up is rejected as what may succeed later, and does."""
    store.faults = (
        *(Fault(kind, key="*/in/*-*", probability=0.07) for kind in BROKEN),
        *(Fault(kind, key="*/in/rows.jsonl", probability=0.1) for kind in ("reset_body", "short", "slow_down")),
        *(Fault(kind, "PUT", "*/labels/*", first=2) for kind in ("lost_reset", "lost_error", "unavailable")),
        *(Fault(kind, "PUT", "*/lease/*", first=1) for kind in ("lost_error", "reset")),
    )
    assert setting.run(store.endpoint, "out") == 0
    found = setting.outcome("out")
    missing = check(found, setting)
    assert {id for id, _ in found.errors()} == missing
    assert {(row["error"], row["retryable"]) for row in found.rejects} <= {("image_fetch_failed", True)}
    assert store.count(key="*/in/*-*") > len(ROWS) / 2 and store.count(key="*/labels/*") == 6
    store.faults = ()
    assert setting.run(store.endpoint, "out") == 0
    assert check(setting.outcome("out"), setting) == set()


def break_when_labelling(store: FaultyStore, kind: str) -> threading.Thread:
    """The second file of labels can't be put, and from then on every request of every part of the job fails."""
    store.faults = (Fault(kind, "PUT", "*/labels/*", after=1),)

    def watch() -> None:
        while not store.count(kind):
            time.sleep(0.01)
        store.faults = (Fault(kind, "*"),)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("expired", "ExpiredToken"),
        pytest.param("unknown_key", "InvalidAccessKeyId", marks=pytest.mark.nightly),
        ("reset", "could not be renewed|Connection"),
    ],
)
def test_a_store_that_is_gone_for_good_ends_the_run(setting, store, caplog, monkeypatch, kind, said):
    """With a message that says what; and the same command finishes the job when it is back."""
    monkeypatch.setattr(S3Output.put, "__defaults__", (3.0,))
    thread = break_when_labelling(store, kind)
    with pytest.raises(RunError, match=said) as caught:
        setting.run(store.endpoint, kind)
    thread.join()
    for text in (str(caught.value), caplog.text):
        assert S3_SECRET not in text and "Traceback" not in text
    assert "\n" not in str(caught.value) and len(str(caught.value)) <= 500
    store.faults = ()
    missing = check(setting.outcome(kind), setting)
    assert 0 < len(missing) < len(ROWS), "it broke in mid-run"
    assert setting.run(store.endpoint, kind) == 0
    assert check(setting.outcome(kind), setting) == set()
