"""Pixels that stand in a table as numbers, as an image file: what comes after reads them as it reads any other.

The file is an uncompressed TIFF, which costs a copy, and whose size is that of the pixels: so the limits on bytes and
pixels hold for it, too.
"""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from adafv.pipeline.sources.records import Unreadable

CHANNELS = (1, 3, 4)
STARTS = (b"\xff\xd8", b"\x89PNG", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*")  # of the formats that are decoded


def encode_pixels(pixels: np.ndarray) -> bytes | Unreadable:
    """The image file of an array [H, W], [H, W, C] or [C, H, W], with 1, 3 or 4 channels: grey, RGB, RGBA.

    Integers are from 0 to 255, those of 16 bits without a sign from 0 to 65,535; floats are from 0 to 1 if all of them
    are, and else from 0 to 255.
    """
    if pixels.ndim == 3 and pixels.shape[2] not in CHANNELS and pixels.shape[0] in CHANNELS:
        pixels = pixels.transpose(1, 2, 0)
    if pixels.ndim not in (2, 3) or (pixels.ndim == 3 and pixels.shape[2] not in CHANNELS):
        shape = " x ".join(map(str, pixels.shape)) or "nothing"
        return Unreadable(f"is a tensor of {shape}; pixels are height x width x 1, 3 or 4")
    if not pixels.size:
        return Unreadable("is a tensor without pixels", "image_empty")
    scaled = _in_8_bits(pixels)
    if isinstance(scaled, Unreadable):
        return scaled
    file = io.BytesIO()
    grey = scaled.ndim == 3 and scaled.shape[2] == 1
    Image.fromarray(np.ascontiguousarray(scaled[:, :, 0] if grey else scaled)).save(file, "TIFF")
    return file.getvalue()


def fits(shape: tuple[int, ...]) -> bool:
    """Whether tensors of this shape can be pixels."""
    return len(shape) == 2 or (len(shape) == 3 and (shape[2] in CHANNELS or shape[0] in CHANNELS))


def _in_8_bits(pixels: np.ndarray) -> np.ndarray | Unreadable:
    if pixels.dtype == np.uint8:
        return pixels
    if pixels.dtype == np.bool_:
        return pixels.astype(np.uint8) * np.uint8(255)
    if pixels.dtype == np.uint16:
        return np.rint(pixels.astype(np.float32) / 257).astype(np.uint8)
    low, high = pixels.min(), pixels.max()  # NaN if there is one
    if not (low >= 0 and high <= 255):
        wanted = "pixels are from 0 to 255, or from 0 to 1 as fractions"
        return Unreadable(f"holds values from {low:g} to {high:g}; {wanted}")
    if pixels.dtype.kind != "f":
        return pixels.astype(np.uint8)
    return np.rint(pixels.astype(np.float32) * np.float32(255 if high <= 1 else 1)).astype(np.uint8)
