"""Models on S3: whole on this node, or not there at all."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

from adafv.engine import EngineOptions
from adafv.pipeline.store import retry
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers import model
from adafv.pipeline.workers.model import at_version, resolve_model, resolve_text_tower
from tests.faulty_store import Fault, FaultyStore

FILES = {"config.json": b"{}", "empty": b"", "sub/model.safetensors": os.urandom(300_000)}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(retry, "pause", lambda *_: 0.0)
    monkeypatch.setattr(model, "RANGE", 100_001)
    return tmp_path / "cache"


@pytest.fixture
def uri(s3) -> str:
    bucket = s3.new_bucket()
    for name, data in FILES.items():
        s3.client.put_object(Bucket=bucket, Key=f"m/{name}", Body=data)
    return f"s3://{bucket}/m"


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file()]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", ["slow_down", "reset_body", "truncated", "short", "long", "expired"])
def test_a_model_is_whole_or_not_there(s3, cache, uri, kind):
    """What comes through is kept, what doesn't isn't there under its name; later only the list is asked for."""
    with FaultyStore(s3.endpoint, [Fault(kind, key="*/m/sub/*", after=1)]) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        with pytest.raises(OSError, match=r"m/sub/model\.safetensors"):
            resolve_model(uri, storage)
        assert {path.name for path in cache.rglob("*") if path.suffix != ".lock" and path.is_file()} <= {
            "config.json", "empty", "model.safetensors.part"
        }  # fmt: skip
        store.faults = (Fault(kind, key="*/m/*", first=3),)
        folder = resolve_model(uri, storage)
        assert contents(folder) == FILES and store.count(kind) >= 3
        asked = len(store.seen)
        assert resolve_model(uri, storage) == folder and len(store.seen) == asked + 1


def test_a_byte_that_changed_on_the_way_is_noticed(s3, cache, uri):
    with FaultyStore(s3.endpoint, [Fault("flipped", key="*/m/sub/*", first=1)]) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        with pytest.raises(OSError, match="doesn't match its ETag"):
            resolve_model(uri, storage)
        assert contents(resolve_model(uri, storage)) == FILES


@pytest.mark.parametrize("key", ["../../../evil", "sub/../../../../evil", "{cache}/../evil"])
def test_no_file_of_a_model_leaves_its_folder(s3, cache, uri, key):
    """Whoever can write to the store must not be able to write to a worker's disk."""
    bucket = uri.removeprefix("s3://").partition("/")[0]
    s3.client.put_object(Bucket=bucket, Key=f"m/{key.format(cache=cache)}", Body=b"evil")
    with pytest.raises(ValueError, match="evil', which leaves the folder"):
        resolve_model(uri, Storage.from_environment(s3.endpoint, s3.environment))
    assert not list(cache.parent.rglob("evil"))


def test_a_text_tower_is_found_as_a_model_is(s3, cache, uri):
    storage = Storage.from_environment(s3.endpoint, s3.environment)
    with_tower = resolve_text_tower(EngineOptions(strategy="eadp", text_tower=uri), storage)
    assert with_tower == EngineOptions(strategy="eadp", text_tower=resolve_model(uri, storage))
    assert resolve_text_tower(EngineOptions(), storage) == EngineOptions()


def test_only_those_that_label_need_weights_and_only_in_safetensors(s3, cache, uri):
    bucket = uri.removeprefix("s3://").partition("/")[0]
    s3.client.put_object(Bucket=bucket, Key="m/pytorch_model.bin", Body=b"the same again")
    storage = Storage.from_environment(s3.endpoint, s3.environment)
    folder = resolve_model(uri, storage, weights=False)
    assert contents(folder).keys() == {"config.json", "empty"}
    assert resolve_model(uri, storage) == folder and contents(folder) == FILES


def test_a_run_is_held_to_its_version(s3, cache, uri):
    storage = Storage.from_environment(s3.endpoint, s3.environment)
    began = at_version(uri, storage)
    folder = resolve_model(began, storage)
    assert contents(folder) == FILES
    bucket = uri.removeprefix("s3://").partition("/")[0]
    s3.client.put_object(Bucket=bucket, Key="m/config.json", Body=b"[]")
    with pytest.raises(OSError, match="was replaced since the run began"):
        resolve_model(began, storage)
    assert contents(resolve_model(uri, storage)) == FILES | {"config.json": b"[]"} and contents(folder) == FILES
    assert at_version(".", storage) == os.getcwd() and at_version("llava-hf/x", storage) == "llava-hf/x"


def test_a_file_that_was_cut_short_is_fetched_again(s3, cache, uri):
    storage = Storage.from_environment(s3.endpoint, s3.environment)
    folder = resolve_model(uri, storage)
    os.truncate(Path(folder) / "sub/model.safetensors", 1000)
    assert contents(resolve_model(uri, storage)) == FILES


def test_a_disk_that_is_too_small_is_named(s3, cache, uri, monkeypatch):
    usage = shutil.disk_usage(cache.parent)._replace(free=1000)
    monkeypatch.setattr(model.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"has 0\.0 GB left; set ADAFV_CACHE"):
        resolve_model(uri, Storage.from_environment(s3.endpoint, s3.environment))


@pytest.fixture
def parts(s3, uri) -> str:
    """A file in three parts of 5 MiB and less, the least that S3 allows."""
    bucket, data = uri.removeprefix("s3://").partition("/")[0], os.urandom(11 * 2**20)
    put = {"Bucket": bucket, "Key": "p/model.safetensors"}
    upload = put | {"UploadId": s3.client.create_multipart_upload(**put)["UploadId"]}
    done = []
    for number, start in enumerate(range(0, len(data), 5 * 2**20), 1):
        part = s3.client.upload_part(**upload, PartNumber=number, Body=data[start : start + 5 * 2**20])
        done.append({"PartNumber": number, "ETag": part["ETag"]})
    s3.client.complete_multipart_upload(**upload, MultipartUpload={"Parts": done})
    return f"s3://{bucket}/p"


def test_what_was_put_in_parts_is_checked_by_parts(s3, cache, parts, monkeypatch):
    """As all weights of more than 5 GB have to be."""
    monkeypatch.setattr(model, "RANGE", 4 * 2**20)
    with FaultyStore(s3.endpoint, [Fault("flipped", key="*/p/*", first=1)]) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        with pytest.raises(OSError, match="doesn't match its ETag"):
            resolve_model(parts, storage)
        assert len(contents(resolve_model(parts, storage))["model.safetensors"]) == 11 * 2**20


def has_open(pid: int, path: Path) -> bool:
    return any(os.path.realpath(link) == str(path) for link in Path(f"/proc/{pid}/fd").iterdir())


LOAD = """
import sys
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers import model
model.RANGE = 4096
print(model.resolve_model(sys.argv[2], Storage.from_environment(sys.argv[1])))
"""


def test_processes_of_a_node_download_once_and_one_that_is_killed_is_no_harm(s3, cache, uri):
    """Three at once, of which the one at work is killed in the middle of the largest file: the others go on."""
    with FaultyStore(s3.endpoint, [Fault("slow", key="*/m/sub/*", after=20, first=20)]) as store:
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", LOAD, store.endpoint, uri],
                env=os.environ | s3.environment, stdout=subprocess.PIPE, text=True,
            )
            for _ in range(3)
        ]  # fmt: skip
        end = time.monotonic() + 300
        while not (begun := list(cache.rglob("*.part"))) or not begun[0].stat().st_size:
            assert time.monotonic() < end
            time.sleep(0.05)
        [holder] = [process for process in processes if has_open(process.pid, begun[0])]
        holder.kill()
        assert begun[0].exists(), "it was in the middle"
        folders = {process.communicate(timeout=600)[0].strip() for process in processes if process is not holder}
        [folder] = folders
        assert contents(folder) == FILES and all(process.wait() == 0 for process in processes if process is not holder)
        whole = [one for one in store.seen if one.method == "GET" and "sub/model" in one.key]
        assert len(whole) <= 2 * (300_000 // 4096 + 1), "twice in all: once cut off, once whole"
