"""Small pictures that stand for the packages' ones, and the packages' own where `make photo` has been run."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw

from adafv.worlds.photo.cache import pictures_folder, unpacked_folder
from adafv.worlds.photo.parts import GGUF
from adafv.worlds.photo.pictures import Pictures, pictures, read_index

CATEGORIES = ("animals", "food", "plants", None)


@pytest.fixture(scope="session")
def stand_ins(tmp_path_factory) -> Pictures:
    """32 things, each fourth with a second picture, and ten backgrounds of two sizes."""
    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    things = []
    for i in range(32):
        files = [f"thing-{i}-{k}.png" for k in range(2 if i % 4 == 0 else 1)]
        for file in files:
            stamp = Image.new("RGBA", (int(random.integers(60, 200)), int(random.integers(60, 200))))
            ImageDraw.Draw(stamp).ellipse((0, 0, *stamp.size), fill=(*map(int, random.integers(256, size=3)), 255))
            stamp.save(folder / file)
        things.append(
            {"name": f"thing {'abcdefgh'[i % 8]}{'x' * (i // 8)}", "category": CATEGORIES[i % 4], "pictures": files}
        )
    motifs = []
    for i in range(10):
        files = [f"background-{i}-{k}.png" for k in range(2)]
        for k, file in enumerate(files):
            Image.fromarray(random.integers(256, size=(300 + 200 * k, 400, 3), dtype=np.uint8)).save(folder / file)
        motifs.append(files)
    (folder / "index.json").write_text(json.dumps({"things": things, "backgrounds": motifs}))
    return read_index(folder)


@pytest.fixture(scope="session")
def photographs() -> Pictures:
    """The packages' pictures. Nothing is downloaded here."""
    if not (pictures_folder() / "index.json").is_file():
        pytest.skip("the packages' pictures aren't in the cache folder: make photo")
    return pictures()


@pytest.fixture(scope="session")
def unpacked() -> Path:
    if not (unpacked_folder() / GGUF).is_file():
        pytest.skip("the packages' weights aren't in the cache folder: make photo")
    pytest.importorskip("gguf", reason="gguf isn't installed: make photo")
    pytest.importorskip("onnx", reason="onnx isn't installed: make photo")
    pytest.importorskip("accelerate", reason="accelerate isn't installed: make photo")
    return unpacked_folder()
