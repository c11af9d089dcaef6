"""Every kind of image file: decoded to what a viewer shows, or rejected for the right reason."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from adafv.pipeline.images.decode import BYTES_OF_ROWS, LONGEST_SIDE, decode, memory_bound, to_rgb
from adafv.pipeline.rejects import Reject
from tests.pipeline.images.heavy import HEAVY, HEIGHT, WIDTH, gif_frame, png, tiff, webp_canvas
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


@pytest.mark.parametrize("format", ["HEIF", "AVIF"])
def test_phones_pictures(format, tmp_path):
    """Turned as they say, within the limits, and refused in words where their decoder isn't there."""
    data = encoded(picture().transpose(Image.Transpose.ROTATE_90), format, quality=95, exif=_turned(6))
    difference = np.abs(np.asarray(decoded(data), int) - np.asarray(picture(), int))
    assert decoded(data).size == (60, 40) and np.median(difference) <= 6
    over = decode(data, 60 * 40 - 1)
    assert isinstance(over, Reject) and over.error == "image_too_many_pixels"
    for end in (20, len(data) // 2, len(data) - 50):
        cut = decode(data[:end], LIMIT)
        assert isinstance(cut, Reject) and cut.error in ("image_corrupt", "image_format"), end
    quick = {"enc_params": {"preset": "ultrafast"}} if format == "HEIF" else {"speed": 10}
    large = encoded(Image.effect_noise((3000, 2000), 50).convert("RGB"), format, quality=95, **quick)
    assert decode_within(tmp_path / "picture", large, memory_bound(3000 * 2000, len(large))) == "decoded"
    without = "import sys; sys.modules['pillow_heif'] = None; from adafv.pipeline.images.decode import decode; "
    command = [sys.executable, "-c", without + "print(decode(open(sys.argv[1], 'rb').read(), 10**9))"]
    said = subprocess.run([*command, str(tmp_path / "picture")], capture_output=True, text=True, check=True).stdout
    assert "image_format" in said and "pip install 'adafv[heic]'" in said


def _turned(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif.tobytes()


@pytest.mark.parametrize("name", ODD_SIZES)
def test_odd_sizes_are_kept(name):
    with Image.open(io.BytesIO(ODD_SIZES[name])) as original:
        assert decoded(ODD_SIZES[name]).size == original.size


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_rejected(name):
    data, error = BROKEN[name]
    reject = decode(data, LIMIT)
    assert isinstance(reject, Reject) and reject.error == error, reject


@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_a_file_whose_rest_is_zeros_is_rejected(format):
    """A download that was broken off may have its full size. Pillow shows some of them, with grey below."""
    whole = encoded(Image.effect_noise((200, 200), 9).convert("RGB"), format, quality=95)
    for end in (len(whole) // 2, int(0.97 * len(whole)), len(whole) - 20):
        reject = decode(whole[:end] + bytes(len(whole) - end), LIMIT)
        assert isinstance(reject, Reject) and reject.error == "image_corrupt", end
    assert decoded(whole + bytes(1000)).size == (200, 200), "some cameras add zeros"


def test_html_is_called_by_its_name():
    reject = decode(b"\n <html><title>503</title></html>", LIMIT)
    assert isinstance(reject, Reject) and "HTML" in reject.message


def test_the_pixel_limit_is_exact_and_ours(monkeypatch):
    data = encoded(Image.new("L", (100, 100)), "PNG")
    assert isinstance(decode(data, 10_000), Image.Image)
    assert decode(data, 9_999) == Reject("image_too_many_pixels", "100 x 100 pixels; the limit is 9999 in all")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 4_999)  # Pillow refuses twice as many
    assert isinstance(decode(data, 10_000), Image.Image)


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


def test_a_wide_range_is_scaled_as_one(monkeypatch):
    """Not block by block."""
    values = np.linspace(-1, 3, 60 * 40, dtype=np.float32).reshape(40, 60)
    whole = np.asarray(to_rgb(Image.fromarray(values)))
    assert np.array_equal(whole[..., 0], np.rint((values.astype(float) + 1) * 255 / 4))
    monkeypatch.setattr("adafv.pipeline.images.decode.CHUNK", 7)
    assert np.array_equal(np.asarray(to_rgb(Image.fromarray(values))), whole)


def test_a_tiff_is_turned_once():
    data = encoded(picture().transpose(Image.Transpose.ROTATE_90), "TIFF", tiffinfo={274: 6})
    assert np.array_equal(np.asarray(decoded(data)), np.asarray(picture()))


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparency_lies_over_white(mode):
    clear = Image.new("RGBA", (8, 8), (255, 0, 0, 0))
    data = encoded(clear.convert(mode), "PNG") if mode != "P" else _transparent_palette()
    assert np.asarray(decoded(data)).min() == 255
    premultiplied = tiff(8, 8, [8, 8], 1, t338=(3, [1]))
    assert np.asarray(decoded(premultiplied)).min() == 255
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


# Decodes a file in a process that may have so many bytes more than it needs for small ones.
WITHIN = """if True:
    import resource, sys
    from pathlib import Path
    from adafv.pipeline.images.decode import decode
    from adafv.pipeline.rejects import Reject
    from tests.pipeline.pictures import SOUND
    data, more, max_pixels = Path(sys.argv[1]).read_bytes(), int(sys.argv[2]), int(sys.argv[3])
    for sound in SOUND.values():  # what decoders load or allocate once
        decode(sound, 10**9)
    [used] = [int(line.split()[1]) << 10 for line in open("/proc/self/status") if line.startswith("VmData")]
    resource.setrlimit(resource.RLIMIT_DATA, (used + more, used + more))
    result = decode(data, max_pixels)
    print(result.message if isinstance(result, Reject) else "decoded")
    """


def decode_within(path: Path, data: bytes, more: int, max_pixels: int = 10**9) -> str:
    path.write_bytes(data)
    done = subprocess.run(
        [sys.executable, "-c", WITHIN, str(path), str(more), str(max_pixels)],
        env=os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536"},  # memory that was freed can't be used in secret
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.parametrize(
    "data",
    [
        webp_canvas(2**14, 2**14),
        gif_frame(60_000, 60_000),
        tiff(8, 8, [8], 1, tile=(2**15, 2**12)),
        png(LONGEST_SIDE + 1, 1, 8, 0),
        png(1, LONGEST_SIDE + 1, 8, 0),
    ],
    ids=["canvas", "frame", "tile", "width", "height"],
)
def test_claims_are_refused_before_they_cost_memory(data, tmp_path):
    reject = decode(data, LIMIT)
    assert isinstance(reject, Reject) and reject.error == "image_too_many_pixels", reject
    assert decode_within(tmp_path / "picture", data, 2**23, LIMIT) == reject.message


def test_a_damaged_tiff_does_not_fill_the_log(capfd):
    """libtiff would write a line for each row."""
    fax = encoded(Image.effect_noise((64, 400), 50).convert("1"), "TIFF", compression="group3", strip_size=2**20)
    decode(fax[:-3000] + b"\x55" * 2000 + fax[-1000:], LIMIT)
    os.write(2, b"heard again")
    assert capfd.readouterr().err == "heard again"


def test_pillows_limit_is_left_alone():
    before = Image.MAX_IMAGE_PIXELS
    decode(jpeg(), 1)
    assert before == Image.MAX_IMAGE_PIXELS


@pytest.mark.slow
@pytest.mark.parametrize("name", HEAVY)
def test_memory_is_bounded(name, tmp_path):
    data = HEAVY[name]()
    monster = name in ("long rows", "many rows")
    bound = memory_bound(WIDTH * HEIGHT, len(data)) - (0 if monster else BYTES_OF_ROWS - 2**22)
    assert decode_within(tmp_path / "picture", data, bound) == "decoded"


def test_too_little_memory_is_a_reject(tmp_path):
    assert "takes more memory" in decode_within(tmp_path / "picture", png(2000, 2000, 8, 6), 2**22)


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
