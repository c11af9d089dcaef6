"""A whole run over rows that ask several questions: each question ends in one output, and a rerun adds nothing."""

from __future__ import annotations

import json

import numpy as np
from PIL import Image

from adafv.engine import Engine, EngineOptions, Preparer, Turn
from adafv.exporting.export import export
from adafv.pipeline.outputs.reader import reconcile
from adafv.pipeline.store.storage import Storage
from adafv.reporting.gallery import make_gallery
from adafv.reporting.pictures import Access
from adafv.reporting.report import make_report
from tests.pipeline.inputs import write_images
from tests.pipeline.test_run import MODEL, label, outcome


def said(*values):
    return [{"from": ("human", "gpt")[i % 2], "value": value} for i, value in enumerate(values)]


ROWS = [
    {"id": "two", "image": ["plain.jpg", "plain.png"], "conversations": said("<image> w1", "w2", "<image> w3", "w4")},
    {"id": "one", "image": "plain.jpg", "conversations": said("<image>\nw5")},
    {"id": "text", "conversations": said("w6 w7")},
    {"id": "gone", "image": ["plain.jpg", "none.jpg"], "conversations": said("w1 <image>", "w2", "w3 <image>")},
    {"id": "bad", "image": "plain.jpg", "conversations": [{"from": "dog", "value": "woof"}]},
    {"id": "less", "image": "plain.jpg", "conversations": said("w1")},
    {"id": "two", "image": "plain.jpg", "conversations": said("<image> w8")},
]


def test_conversations_from_end_to_end(ray_local, tiny_model, tmp_path):
    folder = write_images(tmp_path / "in")
    (folder / "rows.json").write_text(json.dumps(ROWS))
    options = {"conversations_column": "conversations", "batch_size": 3}
    result = label(tiny_model, tmp_path / "out", folder / "rows.json", **options)
    found = outcome(tmp_path / "out")
    labels = {row["id"]: row for row in found.labels}
    assert sorted(labels) == ["gone/1", "one/1", "text/1", "two/1", "two/2"]
    assert sorted((row["id"], row["error"]) for row in found.rejects) == [
        ("bad", "bad_row"), ("gone/2", "image_not_found"), ("less/1", "bad_row"), ("two/1", "duplicate_id"),
    ]  # fmt: skip
    gone = next(row for row in found.rejects if row["id"] == "gone/2")
    assert gone["message"].startswith("image 2 of 2: no file 'none.jpg'") and gone["image"] == "none.jpg"
    assert result.run.input == 9 and reconcile(tmp_path / "out").duplicates == 0
    check_labels(labels, tiny_model, folder)
    again = label(tiny_model, tmp_path / "out", folder / "rows.json", **options)
    assert (again.run.tally.rows, again.run.skipped) == (0, 9)
    check_readers(tmp_path)


def check_labels(labels, tiny_model, folder):
    """As the engine alone has it."""
    whole = EngineOptions(**MODEL)
    preparer, engine = Preparer.load(str(tiny_model), whole), Engine.load(str(tiny_model), whole)
    images = [Image.open(folder / name).convert("RGB") for name in ("plain.jpg", "plain.png")]
    turns = (Turn("user", (None, "w1")), Turn("assistant", ("w2",)), Turn("user", (None, "w3")))
    samples = [preparer.converse("two/2", images, turns), preparer.converse("text/1", [], (Turn.asking("w6 w7", 0),))]
    for expected in engine.label(samples):
        row = labels[expected.id]
        assert (row["answer"], row["kept_indices"]) == (expected.answer, expected.kept_indices.tolist())
        assert [(one["panels"], one["visual_tokens"], one["kept_tokens"]) for one in row["images"]] == [
            (part.panels, part.visual_tokens, part.kept_tokens) for part in expected.parts
        ]
        assert len(row["grid"]) == sum(one["panels"] for one in row["images"])
    two, text = labels["two/2"], labels["text/1"]
    assert [one["image"] for one in two["images"]] == ["plain.jpg", "plain.png"] and two["image"] == "plain.jpg"
    assert (two["question"], two["prompt"]) == ("<image> w3", "w3")
    ends = np.cumsum([one["visual_tokens"] for one in two["images"]])
    assert sum(index < ends[0] for index in two["kept_indices"]) == two["images"][0]["kept_tokens"]
    assert ends[-1] == two["visual_tokens"]
    assert (text["visual_tokens"], text["kept_tokens"], text["kept_indices"], text["images"]) == (0, 0, [], [])
    assert text["image"].endswith("rows.json#2")


def check_readers(tmp_path):
    """The report draws the first image of each; exports know several, or leave them out."""
    cards = {card.row["id"]: card for card in make_gallery(make_report(tmp_path / "out"), Access(Storage()))}
    assert cards["text/1"].image is None and not cards["text/1"].problem
    for id in ("one/1", "two/2"):
        assert "data:image/jpeg" in cards[id].image and not cards[id].problem
    assert ("image", "the first of 2") in cards["two/2"].facts and "image" not in dict(cards["one/1"].facts)
    written = {
        name: (export(tmp_path / "out", name, tmp_path / name), (tmp_path / name).read_text())
        for name in ("llava", "coco-captions", "label-studio", "jsonl")
        if name != "label-studio"
    }
    llava = {entry["id"]: entry for entry in json.loads(written["llava"][1])}
    assert llava["two/2"]["image"] == ["plain.jpg", "plain.png"] and llava["one/1"]["image"] == "plain.jpg"
    assert llava["two/2"]["conversations"][0]["value"] == "<image>\n<image>\nw3"
    assert "image" not in llava["text/1"] and llava["text/1"]["conversations"][0]["value"] == "w6 w7"
    exported, text = written["coco-captions"]
    assert (exported.rows, exported.left_out) == (3, 2) and "of several" in exported.reason
    assert {one["label"] for one in json.loads(text)["annotations"]} == {"one/1", "two/1", "gone/1"}
    lines = [json.loads(line) for line in written["jsonl"][1].splitlines()]
    assert not {"kept_indices", "kept_cues", "grid"} & lines[0].keys() and lines[0]["images"] is not None
