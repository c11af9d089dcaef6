"""Every kind of image file: decoded to what a viewer shows, or rejected for the right reason."""

from __future__ import annotations

import io

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from adafv.pipeline.images.decode import decode, to_rgb
from adafv.pipeline.rejects import Reject
from tests.pipeline.pictures import BROKEN, ODD_SIZES, SOUND, encoded, jpeg, photographs, picture

LIMIT = 50_000_000


def decoded(data: bytes) -> Image.Image:
    image = decode(data, LIMIT)
    assert isinstance(image, Image.Image), image
    return image


@pytest.mark.parametrize("name", SOUND)
def test_shows_what_a_viewer_shows(name):
    image = decoded(SOUND[name])
    assert (image.mode, image.size) == ("RGB", (60, 40))
    difference = np.abs(np.asarray(image, int) - np.asarray(picture(), int))
    assert np.median(difference) <= 3 and difference.mean() < 8  # JPEG blurs the edges between the colours


@pytest.mark.parametrize("name", ODD_SIZES)
def test_odd_sizes_are_kept(name):
    with Image.open(io.BytesIO(ODD_SIZES[name])) as original:
        assert decoded(ODD_SIZES[name]).size == original.size


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_rejected(name):
    data, error = BROKEN[name]
    reject = decode(data, LIMIT)
    assert isinstance(reject, Reject) and reject.error == error, reject


def test_html_is_called_by_its_name():
    reject = decode(b"\n <html><title>503</title></html>", LIMIT)
    assert isinstance(reject, Reject) and "HTML" in reject.message


def test_the_pixel_limit_is_exact_and_ours():
    data = encoded(Image.new("L", (100, 100)), "PNG")
    assert isinstance(decode(data, 10_000), Image.Image)
    assert decode(data, 9_999) == Reject("image_too_many_pixels", "100 x 100 pixels; the limit is 9999 in all")
    beyond_pillows = encoded(Image.new("1", (20_000, 10_000)), "PNG")
    assert isinstance(decode(beyond_pillows, 200_000_000), Image.Image)


@pytest.mark.parametrize("format", ["PNG", "TIFF"])
def test_16_bits_are_scaled_not_clipped(format):
    ramp = np.linspace(0, 65535, 256 * 4).astype(np.uint16).reshape(4, 256)
    image = decoded(encoded(Image.fromarray(ramp), format))
    expected = np.rint(ramp / 257.0)
    assert np.abs(np.asarray(image)[..., 0] - expected).max() <= 1


def test_wide_integers_and_floats():
    integers = to_rgb(Image.fromarray(np.array([[0, 32896, 65535]], np.int32)))
    assert np.asarray(integers)[0, :, 0].tolist() == [0, 128, 255]
    wider = to_rgb(Image.fromarray(np.array([[-100_000, 0, 100_000]], np.int32)))
    assert np.asarray(wider)[0, :, 0].tolist() == [0, 128, 255]
    fractions = to_rgb(Image.fromarray(np.array([[0.0, 0.5, np.nan]], np.float32)))
    assert np.asarray(fractions)[0, :, 0].tolist() == [0, 128, 0]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(mode):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    data = encoded(clear.convert(mode), "PNG") if mode != "P" else _transparent_palette()
    assert np.asarray(decoded(data)).min() == 255
    half = decoded(encoded(Image.new("RGBA", (8, 8), (0, 0, 0, 128)), "PNG"))
    assert np.asarray(half)[0, 0].tolist() == [127, 127, 127]


def _transparent_palette() -> bytes:
    image = Image.new("P", (8, 8), 1)
    image.putpalette([255, 0, 0, 0, 255, 0])
    return encoded(image, "GIF", transparency=1)


def test_damaged_metadata_does_not_matter():
    exif = b"Exif\x00\x00II*\x00\xff\xff\xff\x7f" + b"\xff" * 40
    assert decoded(encoded(picture(), "JPEG", exif=exif)).size == (60, 40)
    assert decoded(encoded(picture(), "PNG", icc_profile=b"\x00junk" * 20)).size == (60, 40)
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 5_000_000, zip=True)  # a text bomb
    result = decode(encoded(picture(), "PNG", pnginfo=text), LIMIT)
    assert isinstance(result, Image.Image) or result.error == "image_corrupt"


def test_photographs(tmp_path):
    photographs(tmp_path)
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    for path in files:
        with Image.open(path) as original:
            expected = np.asarray(original.convert("RGB"))
        assert np.array_equal(np.asarray(decoded(path.read_bytes())), expected), path.name


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(sorted(SOUND)), st.data())
def test_mutations_end_in_a_picture_or_a_reject(name, data):
    mutated = bytearray(SOUND[name])
    for _ in range(data.draw(st.integers(1, 8))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    end = data.draw(st.integers(0, len(mutated)))
    result = decode(bytes(mutated[:end]), 1_000_000)
    assert isinstance(result, Reject) or (result.mode == "RGB" and result.width * result.height <= 1_000_000)


def test_a_decoded_picture_holds_no_file():
    assert decoded(jpeg()).getpixel((0, 0)) == decoded(jpeg()).copy().getpixel((0, 0))
    assert getattr(decoded(jpeg()), "fp", None) is None
