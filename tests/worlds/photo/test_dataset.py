"""A dataset has the drawn world's columns, and pictures that jobs can read."""

from __future__ import annotations

import io

import pyarrow.parquet as pq
import pytest
from PIL import Image

from adafv.worlds.drawn.dataset import SCHEMA
from adafv.worlds.photo import dataset
from adafv.worlds.photo.dataset import main, rows
from adafv.worlds.photo.questions import questions
from adafv.worlds.photo.scenes import EVALUATION_SEEDS, SIZES, make_scene


@pytest.fixture(autouse=True)
def _pictures(stand_ins, monkeypatch):
    monkeypatch.setattr(dataset, "pictures", lambda: stand_ins)


def test_shards_hold_every_question(stand_ins, tmp_path, capsys):
    main(["--scenes", "3", "--seed", "5", "--output", str(tmp_path), "--shard-rows", "20"])
    table = pq.read_table(tmp_path)
    assert table.schema.equals(SCHEMA) and len(list(tmp_path.glob("*.parquet"))) > 1
    scene = make_scene(EVALUATION_SEEDS[5], stand_ins)
    first = [row for row in table.to_pylist() if row["scene"] == scene.seed]
    assert [(row["question"], row["answer"]) for row in first] == [
        (question.text, question.answer) for question in questions(scene, stand_ins)
    ]
    assert Image.open(io.BytesIO(first[0]["image"]["bytes"])).size == (336, 336)
    assert len(set(table["id"].to_pylist())) == len(table) and f"{len(table)} questions" in capsys.readouterr().out


def test_wide_pictures_have_the_sizes_of_llava_next():
    sizes = {Image.open(io.BytesIO(row["image"]["bytes"])).size for row in rows(12, is_wide=True, types=["main"])}
    assert len(sizes) > 1 and sizes <= {*SIZES}


@pytest.mark.parametrize("arguments", [["--scenes", "0"], ["--scenes", "1", "--question-types", "colour"]])
def test_bad_arguments_are_refused(arguments, tmp_path, capsys):
    with pytest.raises(SystemExit):
        main([*arguments, "--output", str(tmp_path)])
    assert "colour" in capsys.readouterr().err or "0" in arguments
