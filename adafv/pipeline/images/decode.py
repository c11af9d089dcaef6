"""Bytes to an RGB image, whatever the bytes are.

Data sets hold truncated downloads, HTML error pages named .jpg, decompression bombs, CMYK scans, palettes, 16-bit
greyscale and rotated photos. What can be decoded is decoded as a viewer would show it: rotated by EXIF, transparency
over white, 16 bits scaled to 8, the first frame of an animation. The rest is a `Reject`.

Size is checked in the header before any pixel is allocated, and so are a TIFF's tiles, which may be larger than the
image. So memory is bounded by `memory_bound`: a process with that much memory decodes every image within the limits.
Metadata in a large file can need more, such as a TIFF's list of a million strips; running out of memory rejects the
image.

Only common formats are tried, since every decoder is attack surface. Pillow's decoders raise anything on damaged data
(OSError, SyntaxError, struct.error, IndexError), so every exception is caught here and becomes `image_corrupt`.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin, UnidentifiedImageError

from adafv.pipeline.rejects import Reject

try:
    import pillow_heif  # pip install 'adafv[heic]'
except ImportError:
    MORE_FORMATS: tuple[str, ...] = ()
else:
    pillow_heif.register_heif_opener(thumbnails=False)
    MORE_FORMATS = ("HEIF", "AVIF")

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", *MORE_FORMATS)

# The most memory that decoding takes. Per pixel: four images of 4 bytes, as when WebP's decoder holds two canvases and
# copies a frame. Per byte of the file: copies, of which WebP makes three. Rows: buffers and pointers.
BYTES_PER_PIXEL = 16
BYTES_PER_FILE_BYTE = 4
BYTES_OF_ROWS = 64 * 2**20

LONGEST_SIDE = 2**20  # pixels
CHUNK = 2**20  # pixels that are scaled to 8 bits at once

# By a file's first bytes: what stands before its last pixels, and what behind them.
_MARKS = {b"\xff\xd8": (b"\xff\xda", b"\xff\xd9"), b"\x89PNG": (b"IDAT", b"IEND")}

# The transposition for each value of EXIF's orientation tag; 1 is upright.
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def memory_bound(pixels: int, file_bytes: int) -> int:
    """The most bytes that decoding takes for files of `file_bytes` and images of `pixels`."""
    return BYTES_PER_PIXEL * pixels + BYTES_PER_FILE_BYTE * file_bytes + BYTES_OF_ROWS


def decode(data: bytes, max_pixels: int) -> Image.Image | Reject:
    """The image in `data` as a viewer would show it, in RGB, or why it can't be decoded. Not thread-safe: Pillow's
    limit and standard error belong to the whole process."""
    if not data:
        return Reject("image_empty", "the image has no bytes")
    if _is_blank_at_its_end(data):
        return Reject("image_corrupt", "it ends in zeros where its pixels and end marker should be")
    with _pillow_settings(max_pixels):
        try:
            return _decode(data, max_pixels)
        except Image.DecompressionBombError as error:
            return Reject("image_too_many_pixels", str(error))
        except UnidentifiedImageError:
            return Reject("image_format", f"can't be read as any of {', '.join(FORMATS)}: {_describe(data)}")
        except MemoryError:
            pass  # its memory is freed with this exception; a reject before that might not fit
        except Exception as error:  # see the module's docstring
            return Reject("image_corrupt", f"{type(error).__name__}: {error}")
    return Reject("image_corrupt", f"decoding its {len(data)} bytes takes more memory than this process may have")


def _is_blank_at_its_end(data: bytes) -> bool:
    """Whether a JPEG or PNG has its full size, but not all of its bytes, as after a download that was broken off.
    Pillow decodes most photographs of high quality from such a file, with grey for what is missing."""
    before, behind = next((marks for start, marks in _MARKS.items() if data.startswith(start)), (b"", b""))
    return bool(before) and data.endswith(bytes(16)) and data.rfind(behind) < data.rfind(before)


@contextlib.contextmanager
def _pillow_settings(max_pixels: int) -> Iterator[None]:
    """Set Pillow's own limit, which it applies at twice the number while reading the header, before WebP allocates its
    canvas. Warnings about damaged metadata are dropped."""
    before = Image.MAX_IMAGE_PIXELS
    Image.MAX_IMAGE_PIXELS = (max_pixels + 1) // 2
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _decode(data: bytes, max_pixels: int) -> Image.Image | Reject:
    loaded = _load(data, max_pixels)
    if isinstance(loaded, Reject):
        return loaded
    picture, orientation = loaded  # the file's own buffers are freed by now
    method = _UPRIGHT.get(orientation)
    return picture if method is None else picture.transpose(method)


def _load(data: bytes, max_pixels: int) -> tuple[Image.Image, int] | Reject:
    """The image in RGB as stored, and its EXIF orientation."""
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            return Reject("image_too_many_pixels", f"{width} x {height} pixels; the limit is {max_pixels} in all")
        if max(width, height) > LONGEST_SIDE:
            return Reject("image_too_many_pixels", f"{width} x {height} pixels; a side may have {LONGEST_SIDE}")
        pixels = _tile_pixels(image)
        if pixels > max_pixels:
            return Reject("image_too_many_pixels", f"a tile of {pixels} pixels; the limit is {max_pixels} in all")
        with _mute() if image.format == "TIFF" else contextlib.nullcontext():
            image.load()
        return to_rgb(image), _orientation(image)


@contextlib.contextmanager
def _mute() -> Iterator[None]:
    """Silence standard error: libtiff writes a line per damaged row, so a small file could fill a worker's disk with
    its log."""
    error = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(error, 2)
        os.close(error)


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB: transparency over white, more than 8 bits per channel scaled rather than clipped."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.mode == "La":  # premultiplied, from a TIFF; Pillow only converts it to LA
        image = image.convert("LA")
    if image.has_transparency_data:
        image = image if image.mode == "RGBA" else image.convert("RGBA")
        white = Image.new("RGB", image.size, "white")
        white.paste(image, mask=image)
        return white
    return image.convert("RGB")  # a copy even of an RGB image, which holds no file


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits, or of floats, in 8 bits.

    16 bits are scaled by their full range, as viewers do. 32-bit integers that fit 16 bits are treated as such, floats
    in [0, 1] as fractions; anything else is stretched from its least to its greatest value.
    """
    lows, highs = zip(*((values.min(), values.max()) for _, values in _chunks(image)), strict=True)
    low, high = float(min(lows)), float(max(highs))
    if image.mode == "F":
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = np.empty((image.height, image.width), np.uint8)
    for chunk, values in _chunks(image):
        scaled[chunk] = np.rint((values - low) * (255.0 / max(high - low, 1e-12))).clip(0, 255)
    return Image.fromarray(scaled)


def _chunks(image: Image.Image) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """The pixels as float64, at most `CHUNK` at a time: all at once would take four times the image's memory."""
    width = min(image.width, CHUNK)
    height = max(1, CHUNK // width)
    for top in range(0, image.height, height):
        for left in range(0, image.width, width):
            bottom, right = min(top + height, image.height), min(left + width, image.width)
            values = np.asarray(image.crop((left, top, right, bottom))).astype(np.float64)
            yield (slice(top, bottom), slice(left, right)), np.nan_to_num(values, copy=False, posinf=0.0, neginf=0.0)


def _tile_pixels(image: Image.Image) -> int:
    """The pixels of a TIFF's tile or strip, which may be larger than the image."""
    if not isinstance(image, TiffImagePlugin.TiffImageFile):
        return 0
    tags = image.tag_v2
    return tags.get(TiffImagePlugin.TILEWIDTH, 0) * tags.get(TiffImagePlugin.TILELENGTH, 0)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 (upright) if the EXIF block can't be parsed."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises anything, too
        return 1
    return value if isinstance(value, int) else 1


def _describe(data: bytes) -> str:
    if data[:256].lstrip().startswith(b"<"):
        return "looks like HTML or XML"
    if data[4:8] == b"ftyp" and not MORE_FORMATS:
        return "HEIC and AVIF need pip install 'adafv[heic]' on every node"
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}"
