"""Which rows have cards, what links to them, and which images are opened."""

from __future__ import annotations

import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from PIL import Image

from adafv.pipeline.store.storage import Storage
from adafv.reporting import gallery
from adafv.reporting.gallery import anchor_of, make_gallery
from adafv.reporting.pictures import Access
from adafv.reporting.report import make_report
from tests.reporting.outputs import label, reject, run, write


@given(st.one_of(st.none(), st.text()), st.one_of(st.none(), st.text()), st.booleans())
def test_an_anchor_is_a_plain_name(id, place, is_reject):
    assert re.fullmatch(r"(row|reject)-[A-Za-z0-9_.~-]+", anchor_of(id, place, is_reject))


@given(st.sets(st.one_of(st.none(), st.text(max_size=4), st.text("ab~.", max_size=3)), min_size=2))
@example({"~", None})
def test_different_ids_have_different_anchors(ids):
    assert len({anchor_of(id, "~") for id in ids}) == len(ids)
    assert len({anchor_of(id, "~", is_reject) for id in ids for is_reject in (True, False)}) == 2 * len(ids)


def test_a_plain_id_is_its_own_anchor():
    assert anchor_of("scene-000001-q02", None) == "row-scene-000001-q02"


def report_of(tmp_path, labels, rejects=(), **values):
    return make_report(write(tmp_path / "out", labels, [run(**values)], rejects))


def test_a_row_that_stands_out_twice_has_one_card(tmp_path):
    labels = [label(f"{n:03d}", 0.001 * n, mean_logprob=-0.01 * n) for n in range(300)]
    cards = make_gallery(report_of(tmp_path, labels), None)
    anchors = [card.anchor for card in cards]
    assert len(set(anchors)) == len(anchors)
    worst = next(card for card in cards if card.row["id"] == "299")
    assert {"unsure", "slow"} <= set(worst.kinds) and worst.confidence == pytest.approx(0.0504, abs=1e-3)
    for kind in ("spread", "unsure", "slow"):
        assert sum(kind in card.kinds for card in cards) == 12


def test_images_are_opened_of_labels_and_of_rejects_that_had_sound_ones(tmp_path, monkeypatch):
    rejects = [
        reject("r1", "image_refused"), reject("r2", "image_corrupt"), reject("r3", "prepare_died"),
        reject("r4", "prompt_too_long"), reject("r5", "worker_died"), reject(None, "missing_id"),
    ]  # fmt: skip
    asked = []
    monkeypatch.setattr(gallery, "find_pictures", lambda rows, *_: asked.extend(row["id"] for row in rows) or {})
    cards = make_gallery(report_of(tmp_path, [label("a")], rejects), Access(Storage()))
    assert sorted(asked) == ["a", "r4", "r5"]
    assert sorted(card.anchor for card in cards if card.kinds == ["reject"])[:5] == [
        f"reject-r{n}" for n in range(1, 6)
    ]


def test_the_runs_own_options_say_where_the_images_are(tmp_path):
    (tmp_path / "in").mkdir()
    Image.new("RGB", (30, 20)).save(tmp_path / "in" / "a.jpg")
    config = {"input": [str(tmp_path / "in")]}
    report = report_of(tmp_path, [label("a"), label("b")], config=config)
    cards = {card.row["id"]: card for card in make_gallery(report, Access(Storage()))}
    assert "data:image/jpeg" in cards["a"].image and not cards["a"].problem
    assert "data:" not in cards["b"].image and "no file 'b.jpg'" in cards["b"].problem
    assert not any(card.image or card.problem for card in make_gallery(report, None))


def test_a_repeated_id_is_not_shown_with_the_first_rows_image(tmp_path):
    (tmp_path / "in").mkdir()
    for name in ("a", "other"):
        Image.new("RGB", (30, 20)).save(tmp_path / "in" / f"{name}.jpg")
    rejects = [reject("a", "duplicate_id", image="other.jpg")]
    report = report_of(tmp_path, [label("a")], rejects, config={"input": [str(tmp_path / "in")]})
    images = {card.is_reject: card.image for card in make_gallery(report, Access(Storage()))}
    assert "data:image/jpeg" in images[False] and images[True] is None


def test_facts_that_are_unknown_are_left_out(tmp_path):
    nothing = dict.fromkeys(
        ("mean_logprob", "gpu_seconds", "kept_tokens", "visual_tokens", "output_tokens", "strategy")
    )
    [card] = make_gallery(report_of(tmp_path, [label("a") | nothing]), None)
    assert card.facts == [("run", "r1")]


def test_long_texts_are_cut_and_ids_are_not(tmp_path):
    [card] = make_gallery(report_of(tmp_path, [label("i" * 9000, answer="x" * 100_000)]), None)
    assert len(card.text("answer")) < 2100 and card.text("answer").endswith("… (100,000 characters)")
    assert card.row["id"] == "i" * 9000 and len(card.anchor) < 80
