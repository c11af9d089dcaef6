"""Data sets of the Hub, read from one on loopback by huggingface_hub's own client."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import replace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from huggingface_hub import close_session

from adafv.pipeline.errors import RunError, UsageError
from adafv.pipeline.sources import discovery
from adafv.pipeline.sources.formats import read_unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.sources.rows import row_of
from adafv.pipeline.store.hub import CONVERTED, pin
from adafv.pipeline.store.storage import Storage
from jobs.label import main
from tests.loopback_hub import LoopbackHub
from tests.pipeline.inputs import NAMES
from tests.pipeline.pictures import SOUND

COLUMNS = Columns(id="id", image="image", question="question", prompt="Describe.", prompt_columns=())
SECRET = "hf_planted"


def parquet(first: int, rows: int = 4, ballast: int = 0) -> bytes:
    """Rows as datasets writes images, with so many bytes besides in each."""
    images = [{"bytes": SOUND[NAMES[i % 4]], "path": NAMES[i % 4]} for i in range(rows)]
    other = [bytes(ballast)] * rows
    table = pa.table({"id": [f"r{first + i}" for i in range(rows)], "image": images, "other": other})
    file = io.BytesIO()
    pq.write_table(table, file, compression="none", use_dictionary=False, row_group_size=2)
    return file.getvalue()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopbackHub]:
    with LoopbackHub(SECRET) as server:
        server.commit("org/plain", {"data/train-0.parquet": parquet(0), "data/test-0.parquet": parquet(100)})
        server.commit("org/plain", {"README.md": b"# Plain"}, branch="v1")
        for split, first in (("train", 0), ("test", 100)):
            server.commit("org/plain", {f"default/{split}/0000.parquet": parquet(first)}, branch=CONVERTED)
        server.use(monkeypatch)
        yield server


def ids(*uris: str) -> list[str]:
    units = [unit for uri in uris for unit in discovery.open_source(uri, Storage(), COLUMNS).units]
    rows = [row_of(record, COLUMNS) for unit in units for record in read_unit(unit, Storage(), COLUMNS)]
    assert all(row.images[0].data in SOUND.values() for row in rows), rows
    return [row.id or "" for row in rows]


TRAIN, TEST = [f"r{i}" for i in range(4)], [f"r{100 + i}" for i in range(4)]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("", [*TEST, *TRAIN]),
        ("/data/train-0.parquet", TRAIN),
        ("/data/t*-0.parquet", [*TEST, *TRAIN]),
        ("/train", TRAIN),
        ("/default/test", TEST),
        ("/default", [*TRAIN, *TEST]),
    ],
)
def test_paths_patterns_configs_and_splits(hub, path, found):
    assert ids(*pin([f"hf://datasets/org/plain{path}"])) == found


def test_what_is_read_is_one_commit(hub):
    """Also when the data set has gained rows since."""
    pinned = pin(["hf://datasets/org/plain/data", "elsewhere/"])
    sha = hub.branches["org/plain"]["main"]
    assert pinned == (f"hf://datasets/org/plain@{sha}/data", "elsewhere/")
    hub.commit("org/plain", {"data/train-1.parquet": parquet(50)})
    assert ids(pinned[0]) == [*TEST, *TRAIN]
    assert len(ids(*pin(["hf://datasets/org/plain/data"]))) == 12
    assert pin([f"hf://datasets/org/plain@{sha}/data"]) == pinned[:1]
    assert pin(["hf://datasets/org/plain@v1"])[0] == f"hf://datasets/org/plain@{hub.branches['org/plain']['v1']}"
    converted = pin(["hf://datasets/org/plain@refs/convert/parquet/default/test"])
    assert converted[0].endswith(f"@{hub.branches['org/plain'][CONVERTED]}/default/test") and ids(*converted) == TEST


def test_a_card_says_which_files_a_split_is(hub):
    hub.cards["org/plain"] = {
        "configs": [
            {"config_name": "a", "data_files": [{"split": "train", "path": "data/train-*"}]},
            {"config_name": "b", "data_files": [{"split": "train", "path": ["data/test-*", "data/train-*"]}]},
            {"config_name": "c", "data_files": "data/test-0.parquet"},
        ]
    }
    assert ids(*pin(["hf://datasets/org/plain/a"])) == TRAIN
    assert ids(*pin(["hf://datasets/org/plain/b/train"])) == [*TEST, *TRAIN]
    assert ids(*pin(["hf://datasets/org/plain/c/train"])) == TEST
    with pytest.raises(UsageError, match="no file, config or split 'train'; configs and splits: a/train, b/train"):
        pin(["hf://datasets/org/plain/train"])


def test_only_what_is_needed_is_downloaded(hub):
    """Ids without images, and images without other columns, by ranges."""
    hub.commit("org/large", {"data.parquet": parquet(0, rows=8, ballast=10**6)})
    unit = discovery.open_source(pin(["hf://datasets/org/large"])[0], Storage(), COLUMNS).units[0]
    assert len(list(read_unit(unit, Storage(), COLUMNS, images=False))) == 8
    assert hub.read("org/large") < 300_000
    assert len(list(read_unit(unit, Storage(), COLUMNS))) == 8
    assert hub.read("org/large") < 10**6 < len(hub.files("org/large")["data.parquet"]) / 8 + 10**5


@pytest.mark.parametrize(
    ("uri", "said"),
    [
        ("hf://datasets/org/none", "no data set 'org/none' on the Hub; if it is private, give the job a token"),
        ("hf://datasets/org/plain@v9", "org/plain has no revision 'v9'; give a branch"),
        ("hf://datasets/org/plain/nothing", "no file, config or split 'nothing'; configs and splits: default/train"),
        ("hf://datasets/org/gated", "org/gated is gated: accept its terms"),
        ("hf://org/model", "only data sets are read"),
        ("hf://datasets/plain", "hf://datasets/plain"),
    ],
)
def test_what_can_not_be_read_says_what_to_do(hub, uri, said):
    hub.gated.add("org/gated")
    with pytest.raises(UsageError, match=said):
        pin([uri])


def test_a_private_one_needs_its_token_which_is_nowhere_to_be_seen(hub, monkeypatch):
    hub.private.add("org/plain")
    with pytest.raises(UsageError, match="no data set 'org/plain' on the Hub; if it is private"):
        pin(["hf://datasets/org/plain"])
    hub.use(monkeypatch, SECRET)
    pinned = pin(["hf://datasets/org/plain/data/train-0.parquet"])
    assert ids(*pinned) == TRAIN
    assert any(headers.get("authorization") == f"Bearer {SECRET}" for _, _, headers in hub.asked)
    source = discovery.open_source(pinned[0], Storage(), COLUMNS)
    assert SECRET not in f"{pinned} {source} {Storage().filesystem(pinned[0])}"


def test_a_hub_that_is_away_passes(hub, monkeypatch, tmp_path, capsys):
    """At the start that ends the command with status 1; later it is a reject that a rerun tries again."""
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
    arguments = ["--output", str(tmp_path), "--prompt", "Describe.", "--input"]
    assert main([*arguments, "hf://datasets/org/none"]) == 2 and "no data set 'org/none'" in capsys.readouterr().err
    pinned = pin(["hf://datasets/org/plain/data/train-0.parquet"])
    unit = discovery.open_source(pinned[0], Storage(), COLUMNS).units[0]
    hub.down = True
    assert main([*arguments, "hf://datasets/org/plain"]) == 1 and "503 for org/plain" in capsys.readouterr().err
    (record,) = read_unit(unit, Storage(), COLUMNS)
    assert record.reject is not None and record.reject.retryable and "503 for org/plain" in record.reject.message
    hub.__exit__()
    close_session()
    with pytest.raises(RunError, match="the Hub can't be reached for org/plain"):
        pin(["hf://datasets/org/plain"])


def test_rows_without_ids_have_the_files_name_in_the_data_set_and_their_number(hub, monkeypatch):
    """However the files were named, and whatever the commit is; in planning, too, which then reads no column."""
    monkeypatch.setattr(discovery, "ROWS_PER_UNIT", 2)
    wanted = replace(COLUMNS, id="@row")
    for uri in ("hf://datasets/org/plain/data/train-0.parquet", "hf://datasets/org/plain/data/tr*"):
        units = discovery.open_source(pin([uri])[0], Storage(), wanted).units
        for images in (False, True):
            rows = [r.columns["@row"] for unit in units for r in read_unit(unit, Storage(), wanted, images=images)]
            assert rows == [f"data/train-0.parquet#{i}" for i in range(4)]
        (some,) = read_unit(units[1], Storage(), replace(wanted, where="id == 'r3'"))
        assert some.columns["@row"] == "data/train-0.parquet#3"
        hub.commit("org/plain", {"more": b""})


def test_lines_without_ids(tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.jsonl").write_text('{"image": "x.jpg"}\nbroken\n{"image": "y.jpg"}\n')
    wanted = replace(COLUMNS, id="@row")
    for uri, name in ((tmp_path, "sub/a.jsonl"), (tmp_path / "sub/a.jsonl", "a.jsonl")):
        (unit,) = discovery.open_source(str(uri), Storage(), wanted).units
        rows = [row_of(record, wanted) for record in read_unit(unit, Storage(), wanted)]
        assert [row.id for row in rows] == [f"{name}#0", None, f"{name}#2"]
    with pytest.raises(UsageError, match=r"no column 'id'; --id-column must be one of image, or @row"):
        discovery.open_source(str(tmp_path), Storage(), COLUMNS)
