"""The dataset: what is written is what the scenes say, in whole shards, from held-out scenes only."""

import io

import pyarrow.parquet as pq
import pytest
from PIL import Image, ImageChops

from adafv.worlds.drawn.dataset import SCHEMA, main, rows, write_shards
from adafv.worlds.drawn.questions import questions
from adafv.worlds.drawn.scenes import EVALUATION_SEEDS, make_scene, render


def read(folder):
    return [row for file in sorted(folder.glob("*.parquet")) for row in pq.read_table(file).to_pylist()]


def test_round_trip(tmp_path):
    write_shards(tmp_path, rows(6, seed=40))
    table = pq.read_table(tmp_path / "part-00000.parquet")
    assert table.schema.equals(SCHEMA)
    written = table.to_pylist()
    seeds = EVALUATION_SEEDS[40:46]
    expected = [(seed, question) for seed in seeds for question in questions(make_scene(seed))]
    assert len(written) == len(expected) == len({row["id"] for row in written})
    for row, (seed, question) in zip(written, expected, strict=True):
        assert row["scene"] == seed
        assert (row["question"], row["answer"], row["type"], row["size"]) == (
            question.text, question.answer, question.type, question.size
        )  # fmt: skip
        picture = Image.open(io.BytesIO(row["image"]["bytes"]))
        assert picture.format == "PNG" and picture.mode == "RGB"
        assert ImageChops.difference(picture, render(make_scene(seed))).getbbox() is None
    assert written[0]["id"] == "scene-000040-q00"
    assert written[0]["image"]["path"] == "scene-000040.png"


def test_shards_hold_whole_scenes_and_leave_nothing_else(tmp_path):
    shards = write_shards(tmp_path, rows(10), shard_rows=25)
    assert sorted(tmp_path.iterdir()) == shards
    assert len(shards) > 2
    scenes_of = [set(pq.read_table(shard)["scene"].to_pylist()) for shard in shards]
    assert sum(len(each) for each in scenes_of) == len(set.union(*scenes_of)) == 10
    assert [row["scene"] for row in read(tmp_path)] == sorted(row["scene"] for row in read(tmp_path))


def test_types_can_be_chosen_and_ids_stay_unique(tmp_path):
    main(["--scenes", "5", "--output", str(tmp_path / "d"), "--question-types", "caption,main"])
    written = read(tmp_path / "d")
    assert [row["type"] for row in written] == ["main", "caption"] * 5
    assert len({row["id"] for row in written}) == 10


def test_scenes_are_held_out_whatever_the_seed():
    for seed in (0, 7, len(EVALUATION_SEEDS) - 1):
        assert all(row["scene"] in EVALUATION_SEEDS for row in rows(1, seed))


@pytest.mark.parametrize(
    ("scenes", "seed"), [(0, 0), (1, -1), (2, len(EVALUATION_SEEDS) - 1), (1, len(EVALUATION_SEEDS))]
)
def test_seeds_outside_the_range_are_refused(scenes, seed):
    with pytest.raises(ValueError, match=f"scenes {scenes}, seed {seed}"):
        list(rows(scenes, seed))


def test_an_existing_dataset_is_not_mixed_with_another(tmp_path):
    write_shards(tmp_path, rows(1))
    before = read(tmp_path)
    with pytest.raises(FileExistsError, match=str(tmp_path)):
        write_shards(tmp_path, rows(2))
    assert read(tmp_path) == before


def test_wrong_options_end_with_status_2(tmp_path, capsys):
    with pytest.raises(SystemExit) as end:
        main(["--scenes", "1", "--output", str(tmp_path), "--question-types", "riddle"])
    assert end.value.code == 2
    assert "riddle" in capsys.readouterr().err
