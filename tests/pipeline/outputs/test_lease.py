"""One job at a time: contenders are refused while the holder lives, and take over when it is dead."""

from __future__ import annotations

import copy
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from botocore.exceptions import EndpointConnectionError

from adafv.pipeline.errors import RunError
from adafv.pipeline.outputs import lease as module
from adafv.pipeline.outputs.lease import HELD, Lease
from adafv.pipeline.outputs.lease import TTL as REAL_TTL
from adafv.pipeline.store.output import LocalOutput, Output, open_output
from adafv.pipeline.store.storage import CONNECT, READ, Storage
from tests.faulty_store import Fault, FaultyStore
from tests.services import S3Server

TTL = 6.0  # of leases that are waited for; S3 tells ages in whole seconds
LONG = 3600.0  # of those that are not


@pytest.fixture(params=["local", "s3"])
def output(request, tmp_path) -> Output:
    if request.param == "local":
        return LocalOutput(str(tmp_path / "out"))
    s3 = request.getfixturevalue("s3")
    return on_s3(s3, s3.endpoint)


def on_s3(s3: S3Server, endpoint: str) -> Output:
    output = open_output(f"s3://{s3.new_bucket()}/out", Storage.from_environment(endpoint, s3.environment))
    output.landing = 0.1
    return output


@pytest.fixture
def elsewhere(monkeypatch):
    """Contenders on another host, who can't look at the holder's process."""
    monkeypatch.setattr(module, "_gone", lambda pid, born: False)


def test_the_second_is_refused_while_the_first_lives_and_welcome_after(output):
    with Lease(output, "first", LONG), pytest.raises(RunError, match="by run first on"), Lease(output, "b", LONG):
        pass
    with Lease(output, "third", LONG) as third:
        third.check()


def test_it_is_renewed_for_as_long_as_it_is_held(output, elsewhere):
    with Lease(output, "long", TTL) as held:
        time.sleep(1.5 * TTL)
        held.check()
        with pytest.raises(RunError, match="run long"), Lease(output, "other", TTL):
            pass


@pytest.mark.parametrize("name", ["lease/", "lease/desktop.ini"])
def test_other_files_beside_it_do_no_harm(s3, name):
    output = on_s3(s3, s3.endpoint)
    output.put(name, b"")
    for run in ("first", "second"):
        with Lease(output, run, LONG) as lease:
            lease.check()


@pytest.mark.parametrize("left", [b"", bytes(64), b'{"token": "', b"null"], ids=["empty", "zeros", "cut off", "null"])
def test_a_lease_that_a_failing_machine_left_half_written_expires(tmp_path, left):
    output = LocalOutput(str(tmp_path))
    output.create("lease/00000001", left)
    with pytest.raises(RunError, match=r"by run \(starting\)"), Lease(output, "early", LONG):
        pass
    os.utime(tmp_path / "lease" / "00000001", (0, 0))
    with Lease(output, "next", LONG) as lease:
        lease.check()


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
    def unreachable(*_: object, **__: object) -> None:
        raise EndpointConnectionError(endpoint_url="http://store")

    with Lease(output, "cut off", TTL) as held:
        monkeypatch.setattr(output, "put", unreachable)
        time.sleep((HELD + 0.1) * TTL)
        with pytest.raises(RunError, match="was lost: it could not be renewed: EndpointConnectionError"):
            held.check()
        with pytest.raises(RunError, match="run cut off"), Lease(output, "early", TTL):
            pass  # not yet: the file is younger than the time to live


def test_a_holder_that_was_overtaken_notices_and_does_not_write_back(output, elsewhere):
    with Lease(output, "slow", 4 * TTL) as held:
        output.put("lease/00000009", b'{"run_id": "new", "host": "h", "pid": 1, "born": null, "released": false}')
        held._thread.join()  # it ends with the renewal that finds the other's
        with pytest.raises(RunError, match="was lost: another job took it"):
            held.check()
    assert b'"new"' in (output.read("lease/00000009") or b"")


@pytest.mark.parametrize("kind", ["lost_reset", "lost_error"])
def test_a_lease_whose_creation_was_not_confirmed_is_held(s3, kind):
    """The store has it; the retry is told that it exists already, and reading it back tells whose it is."""
    with FaultyStore(s3.endpoint, [Fault(kind, "PUT", "*/lease/*", first=1)]) as store:
        output = on_s3(s3, store.endpoint)
        with Lease(output, "unsure", LONG) as held:
            held.check()
            with pytest.raises(RunError, match="run unsure"), Lease(output, "other", LONG):
                pass
        assert store.count(kind) == 1
        with Lease(output, "next", LONG):
            pass


def test_renewals_that_fail_now_and_then_do_no_harm(s3, elsewhere):
    with FaultyStore(s3.endpoint) as store:
        output = on_s3(s3, store.endpoint)
        with Lease(output, "hardy", 4 * TTL) as held:
            store.faults = (Fault("reset", "PUT", first=2), Fault("slow_down", "GET", first=2))
            while store.count("reset") < 2 or held._problem:  # until they have failed, and one has succeeded since
                held.check()
                time.sleep(0.1)
            held.check()
        assert store.count("reset") == store.count("slow_down") == 2


def test_the_output_of_a_lease_is_written_only_while_it_is_held(output):
    with Lease(output, "holder", LONG) as held:
        output.put("labels/a", b"")
        held._renewed -= HELD * LONG
        with pytest.raises(RunError, match="was lost"):
            output.put("labels/b", b"")
    with pytest.raises(RunError, match="the run has ended"):
        output.put("labels/b", b"")
    assert output.names("labels") == ["labels/a"]


def test_a_write_that_was_allowed_ends_before_the_lease_can():
    """The longest attempt at a put, with time left to send a large file, fits into what the holder leaves unused."""
    assert HELD * REAL_TTL + CONNECT + READ + 20 <= REAL_TTL


@pytest.mark.parametrize("released", [True, False])
def test_what_a_killed_holder_put_last_is_waited_for(output, monkeypatch, released):
    """Its last request may still be on its way when its process is gone."""
    dead = Lease(output, "dead", LONG)
    dead._take()
    if released:
        dead._write(released=True)
    monkeypatch.setattr(module, "_gone", lambda pid, born: True)
    output.landing = 1.0
    late = threading.Timer(output.settling + 0.5, copy.copy(output).put, ("labels/late", b""))
    late.start()
    with Lease(output, "heir", LONG):
        found = output.names("labels")
    late.join()
    assert released or found == ["labels/late"]


def test_it_is_renewed_while_the_driver_is_busy(tmp_path, elsewhere):
    """In Python, and in the C code that sorts and reads the ledger."""
    output = LocalOutput(str(tmp_path))
    with Lease(output, "busy", TTL) as held:
        end = time.monotonic() + 1.2 * HELD * TTL
        while time.monotonic() < end:
            digests = np.frombuffer(os.urandom(1_600_000), "S16").copy()
            digests.sort()
            np.searchsorted(digests, digests[::-1])
            sorted(digests.tolist())
        held.check()


def test_a_killed_holder_on_the_same_host_is_dead_at_once(tmp_path):
    """Two real processes; the time to live is an hour, so only looking for the process can tell."""
    code = f"""
import sys, time
from adafv.pipeline.outputs.lease import Lease
from adafv.pipeline.store.output import LocalOutput
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


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_holder_of_another_user_lives(tmp_path):
    """Who may not look into a process: it is there all the same."""
    with Lease(LocalOutput(str(tmp_path)), "theirs", LONG):
        [file] = (tmp_path / "lease").iterdir()
        holder = json.loads(file.read_bytes())
        child = os.fork()
        if not child:
            os.setuid(65534)
            os._exit(module._gone(holder["pid"], holder["born"]))
        assert os.waitpid(child, 0)[1] == 0


@pytest.mark.parametrize("place", [0, 1], ids=["machine", "container"])
def test_a_holder_elsewhere_under_the_same_name_lives(output, place):
    """Its process number means nothing here; only time tells that it is dead."""
    boot, namespace, ticks = module._born(os.getpid()).split("/")
    born = [boot, namespace]
    born[place] = "other"
    holder = {"run_id": "far", "host": socket.gethostname(), "pid": 2**22 + 1, "born": "/".join([*born, ticks])}
    output.create("lease/00000001", json.dumps(holder | {"token": "t", "released": False}).encode())
    with pytest.raises(RunError, match="run far"), Lease(output, "near", LONG):
        pass
    output.put("lease/00000001", json.dumps(holder | {"token": "t", "released": True}).encode())
    with Lease(output, "near", LONG):
        pass
