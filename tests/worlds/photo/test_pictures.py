"""Which stamps are things, what they are called, and which backgrounds are one motif."""

from __future__ import annotations

from pathlib import Path

import pytest
from PIL import Image

from adafv.worlds.photo.pictures import find_backgrounds, find_things, pictures, prepare, read_index, thing_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("A great blue heron.\nUn grand héron bleu.", "great blue heron"),
        ("An otter (Lutra lutra).", "otter"),
        ("Cherries", "cherries"),
        ("The  tooth.", "tooth"),
        ("", ""),
    ],
)
def test_names(text, name):
    assert thing_name(text) == name


@pytest.fixture
def unpacked(tmp_path) -> Path:
    """Packages' folders with stamps and backgrounds of a few pixels."""
    stamps = {"animals/birds/owl": "An owl.", "animals/birds/owl2": "An owl.", "town/monuments/pyramid": "A pyramid.",
              "symbols/math/saw": "A saw.", "food/tart": "A tart with many red cherries."}  # fmt: skip
    for place, text in stamps.items():
        path = tmp_path / "usr/share/tuxpaint/stamps" / f"{place}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        stamp = Image.new("RGBA", (30, 20))
        stamp.paste((255, 0, 0, 255), (5, 5, 15, 15))
        stamp.save(path)
        stamp.save(path.with_name(f"{path.stem}_mirror.png"))
        path.with_suffix(".txt").write_text(text)
    for place in ("wallpapers/Flow/contents/images/10x10.png", "wallpapers/Flow/contents/screenshot.png",
                  "backgrounds/mate/Elephants.png", "backgrounds/mate/Elephants_20x20.png",
                  "backgrounds/gnome/wood-d.png", "backgrounds/gnome/wood-l.png"):  # fmt: skip
        path = tmp_path / "usr/share" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (1500, 1000)).save(path)
    return tmp_path


def test_things_and_motifs_are_found(unpacked):
    found = find_things(unpacked / "usr/share/tuxpaint/stamps")
    assert {name: (category, len(files)) for name, (category, files) in found.items()} == {
        "owl": ("animals", 2),
        "pyramid": (None, 1),
    }
    motifs = find_backgrounds(unpacked / "usr/share")
    assert {motif: len(files) for motif, files in motifs.items()} == {"Flow": 1, "Elephants": 2, "wood": 2}


def test_copies_are_small_and_cut_to_what_is_visible(unpacked, tmp_path):
    folder = tmp_path / "prepared"
    prepare(unpacked, folder)
    prepared = read_index(folder)
    assert [thing.name for thing in prepared.things] == ["owl", "pyramid"]
    assert prepared.stamp(prepared.things[0].pictures[0]).size == (10, 10)
    assert prepared.background(prepared.backgrounds[0][0]).size == (1200, 800)
    assert {*prepared.motifs(held_out=False)} | {*prepared.motifs(held_out=True)} == {*prepared.backgrounds}


def test_a_folder_that_is_not_whole_or_holds_other_things_is_replaced(unpacked, tmp_path, monkeypatch):
    folder = tmp_path / "prepared"
    folder.mkdir()
    (folder / "owl-0.png").write_bytes(b"cut off")
    prepare(unpacked, folder)
    assert read_index(folder).stamp("owl-0.png").size == (10, 10)
    made = (folder / "owl-0.png").stat().st_mtime_ns
    prepare(unpacked, folder)
    assert (folder / "owl-0.png").stat().st_mtime_ns == made, "prepared twice"
    monkeypatch.setattr("adafv.worlds.photo.pictures.THINGS", frozenset({"pyramid"}))
    prepare(unpacked, folder)
    assert sorted(path.name for path in folder.glob("[!b]*.png")) == ["pyramid-0.png"]
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_without_the_pictures_it_says_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("ADAFV_CACHE", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make photo"):
        pictures()
