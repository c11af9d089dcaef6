"""One job at a time: contenders are refused while the holder lives, and take over when it is dead."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from botocore.exceptions import EndpointConnectionError

from adafv.pipeline.errors import RunError
from adafv.pipeline.outputs import lease as module
from adafv.pipeline.outputs.folder import LocalOutput, Output, open_output
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.storage import Storage

TTL = 4.0  # S3 tells ages in whole seconds


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> Output:
    if request.param == "local":
        return LocalOutput(str(tmp_path / "out"))
    s3 = request.getfixturevalue("s3")
    return open_output(f"s3://{s3.new_bucket()}/out", Storage.from_environment(environment=s3.environment))


@pytest.fixture
def elsewhere(monkeypatch):
    """Contenders on another host, who can't look at the holder's process."""
    monkeypatch.setattr(module, "_alive", lambda pid, born: True)


def test_the_second_is_refused_while_the_first_lives_and_welcome_after(output):
    with Lease(output, "first", TTL), pytest.raises(RunError, match="written by run first on"), Lease(output, "b", TTL):
        pass
    with Lease(output, "third", TTL) as third:
        third.check()


def test_it_is_renewed_for_as_long_as_it_is_held(output, elsewhere):
    with Lease(output, "long", TTL) as held:
        time.sleep(1.5 * TTL)
        held.check()
        with pytest.raises(RunError, match="run long"), Lease(output, "other", TTL):
            pass


def test_of_many_contenders_for_a_dead_jobs_lease_one_wins(output, elsewhere):
    dead = Lease(output, "dead", TTL)
    dead._take()  # and never renewed
    time.sleep(TTL + 1.5)
    contenders = [Lease(output, f"c{i}", TTL) for i in range(6)]

    def take(contender: Lease) -> bool:
        try:
            contender._take()
        except RunError:
            return False
        return True

    with ThreadPoolExecutor(6) as threads:
        assert list(threads.map(take, contenders)).count(True) == 1
    assert len(output.names("lease")) == 1, "older generations are tidied away"


def test_a_holder_that_could_not_renew_stops_before_another_may_begin(output, elsewhere, monkeypatch):
    def unreachable(*_: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://store")

    with Lease(output, "cut off", TTL) as held:
        monkeypatch.setattr(output, "put", unreachable)
        time.sleep(0.8 * TTL)
        with pytest.raises(RunError, match="was lost"):
            held.check()
        with pytest.raises(RunError, match="run cut off"), Lease(output, "early", TTL):
            pass  # not yet: the file is younger than the time to live


def test_a_holder_that_was_overtaken_notices_and_does_not_write_back(output, elsewhere):
    with Lease(output, "slow", TTL) as held:
        output.put("lease/00000009", b'{"run_id": "new", "host": "h", "pid": 1, "born": null, "released": false}')
        time.sleep(TTL / 2)
        with pytest.raises(RunError, match="was lost"):
            held.check()
    assert b'"new"' in (output.read("lease/00000009") or b"")


def test_a_killed_holder_on_the_same_host_is_dead_at_once(tmp_path):
    """Two real processes; the time to live is an hour, so only looking for the process can tell."""
    code = f"""
import sys, time
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.outputs.folder import LocalOutput
with Lease(LocalOutput({str(tmp_path)!r}), "victim", 3600):
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, cwd=Path(__file__).parents[3])
    assert process.stdout is not None and process.stdout.readline() == b"held\n"
    output = LocalOutput(str(tmp_path))
    with pytest.raises(RunError, match="run victim"), Lease(output, "early", 3600):
        pass
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    with Lease(output, "heir", 3600) as heir:
        heir.check()
