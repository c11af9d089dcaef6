"""Bytes to an RGB picture, whatever the bytes are.

Data sets hold truncated downloads, HTML error pages named .jpg, decompression bombs, CMYK scans, palettes, 16-bit
greyscale, pictures that lie on their side. What can be decoded is decoded to what a viewer would show: turned as EXIF
says, transparency over white, 16 bits scaled to 8, the first frame of an animation. The rest is a `Reject`.

Size is checked on the header, before a pixel is allocated. Only the common formats are tried: every further decoder is
attack surface. Pillow's decoders throw whatever they like at damaged data (OSError, SyntaxError, struct.error,
IndexError, ...), so this is the one place where every exception is caught: it becomes `image_corrupt`.
"""

from __future__ import annotations

import io
import warnings

import numpy as np
from PIL import ExifTags, Image, UnidentifiedImageError

from adafv.pipeline.rejects import Reject

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")

# What undoes each value of EXIF's orientation tag (1, upright, needs nothing).
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def decode(data: bytes, max_pixels: int) -> Image.Image | Reject:
    """The picture in `data` as a viewer would show it, in RGB, or why it can't be had."""
    if not data:
        return Reject("image_empty", "the image has no bytes")
    Image.MAX_IMAGE_PIXELS = None  # `max_pixels` decides, also where it is above Pillow's own limit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow warns of damaged metadata, which doesn't matter here
        try:
            return _decode(data, max_pixels)
        except UnidentifiedImageError:
            return Reject("image_format", f"can't be read as any of {', '.join(FORMATS)}: {_describe(data)}")
        except Exception as error:  # see the module's docstring
            return Reject("image_corrupt", f"{type(error).__name__}: {error}")


def _decode(data: bytes, max_pixels: int) -> Image.Image | Reject:
    with Image.open(io.BytesIO(data), formats=FORMATS) as image:
        width, height = image.size
        if width * height > max_pixels:
            return Reject("image_too_many_pixels", f"{width} x {height} pixels; the limit is {max_pixels} in all")
        image.load()
        return to_rgb(_turn_upright(image))


def to_rgb(image: Image.Image) -> Image.Image:
    """`image` in RGB: transparency over white, more than 8 bits per channel scaled rather than clipped."""
    if image.mode.startswith(("I", "F")):
        image = _to_8_bit(image)
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image).convert("RGB")
    return image.convert("RGB")  # a copy even of an RGB image, which holds no file


def _to_8_bit(image: Image.Image) -> Image.Image:
    """Greyscale of 16 or 32 bits, or of floats, in 8 bits.

    16 bits are scaled by their full range, as viewers do. 32-bit integers and floats have no range of their own:
    integers that fit 16 bits are taken as such, floats in [0, 1] as fractions, and anything else is stretched from
    its least to its greatest value.
    """
    values = np.nan_to_num(np.asarray(image).astype(np.float64), posinf=0.0, neginf=0.0)
    low, high = float(values.min()), float(values.max())
    if image.mode == "F":
        low, high = (0.0, 1.0) if low >= 0 and high <= 1 else (low, high)
    elif low >= 0 and high <= 65535:
        low, high = 0.0, 65535.0
    scaled = (values - low) * (255.0 / max(high - low, 1e-12))
    return Image.fromarray(np.rint(scaled).clip(0, 255).astype(np.uint8))


def _turn_upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT.get(_orientation(image))
    return image if method is None else image.transpose(method)


def _orientation(image: Image.Image) -> int:
    """EXIF's orientation; 1 (upright) where the EXIF block can't be parsed, for the picture itself is sound."""
    try:
        value = image.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF raises as freely as damaged pixels do
        return 1
    return value if isinstance(value, int) else 1


def _describe(data: bytes) -> str:
    start = data[:256].lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html", b"<?xml", b"<svg", b"<")):
        return "looks like HTML or XML"
    return f"{len(data)} bytes that begin with {data[:8].hex(' ')}"
