"""Models on S3: whole on this node, or not there at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from adafv.engine import EngineOptions
from adafv.pipeline import objects
from adafv.pipeline.storage import Storage
from adafv.pipeline.workers import model
from adafv.pipeline.workers.model import resolve_model, resolve_text_tower
from tests.faulty_store import Fault, FaultyStore

FILES = {"config.json": b"{}", "empty": b"", "sub/model.safetensors": os.urandom(300_000)}


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(objects, "pause", lambda attempt: 0.0)
    monkeypatch.setattr(model, "RANGE", 100_001)
    return tmp_path / "cache"


@pytest.fixture
def uri(s3) -> str:
    bucket = s3.new_bucket()
    for name, data in FILES.items():
        s3.client.put_object(Bucket=bucket, Key=f"m/{name}", Body=data)
    return f"s3://{bucket}/m"


def contents(folder: str) -> dict[str, bytes]:
    paths = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != model.COMPLETE]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


@pytest.mark.parametrize("kind", ["slow_down", "reset_body", "truncated", "short", "long", "expired"])
def test_a_model_is_whole_or_not_there(s3, cache, uri, kind):
    """Downloads that fail leave no marker; the next begins again, and then nothing is asked for any more."""
    with FaultyStore(s3.endpoint, [Fault(kind, key="*/m/sub/*", after=1)]) as store:
        storage = Storage.from_environment(store.endpoint, s3.environment)
        with pytest.raises(OSError, match=r"m/sub/model\.safetensors"):
            resolve_model(uri, storage)
        assert not list(cache.rglob(model.COMPLETE))
        (leftover,) = cache.glob("models/*/config.json")
        leftover.with_name("of-an-older-version").write_bytes(b"x")
        store.faults = (Fault(kind, key="*/m/*", first=3),)
        folder = resolve_model(uri, storage)
        assert contents(folder) == FILES and store.count(kind) >= 3
        asked = len(store.seen)
        assert resolve_model(uri, storage) == folder and len(store.seen) == asked


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
    assert not list(cache.parent.rglob("evil")) and not list(cache.rglob(model.COMPLETE))


def test_a_text_tower_is_found_as_a_model_is(s3, cache, uri):
    storage = Storage.from_environment(s3.endpoint, s3.environment)
    with_tower = resolve_text_tower(EngineOptions(strategy="eadp", text_tower=uri), storage)
    assert with_tower == EngineOptions(strategy="eadp", text_tower=resolve_model(uri, storage))
    assert resolve_text_tower(EngineOptions(), storage) == EngineOptions()
