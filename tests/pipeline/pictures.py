"""Image files made on the spot, sound and broken."""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image


def picture(width: int = 60, height: int = 40, mode: str = "RGB") -> Image.Image:
    """Red above, blue below on the left half; the right half is green: which way is up can be seen."""
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[: height // 2] = (255, 0, 0)
    pixels[height // 2 :] = (0, 0, 255)
    pixels[:, width // 2 :] = (0, 255, 0)
    return Image.fromarray(pixels).convert(mode)


def encoded(image: Image.Image, format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def jpeg(width: int = 60, height: int = 40) -> bytes:
    return encoded(picture(width, height), "JPEG", quality=95, subsampling=0)


def bomb(width: int = 60_000, height: int = 60_000) -> bytes:
    """A PNG of a few hundred bytes whose header claims an image of gigabytes."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def rotated_jpeg(orientation: int) -> bytes:
    """A JPEG that lies as EXIF's `orientation` says, so that a viewer shows `picture()`."""
    undo = {
        1: None,
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }[orientation]
    image = picture() if undo is None else picture().transpose(undo)
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, "JPEG", quality=95, subsampling=0, exif=exif)


def animated(format: str) -> bytes:
    first, second = picture(), Image.new("RGB", (60, 40), "black")
    return encoded(
        first, format, save_all=True, append_images=[second], **({"lossless": True} if format == "WEBP" else {})
    )


SOUND: dict[str, bytes] = {
    "plain.jpg": jpeg(),
    "plain.png": encoded(picture(), "PNG"),
    "plain.webp": encoded(picture(), "WEBP", lossless=True),
    "plain.bmp": encoded(picture(), "BMP"),
    "plain.tif": encoded(picture(), "TIFF"),
    "cmyk.jpg": encoded(picture(mode="CMYK"), "JPEG", quality=95, subsampling=0),
    "palette.gif": encoded(picture().quantize(8), "GIF"),
    "palette.png": encoded(picture().quantize(8), "PNG"),
    "animated.gif": animated("GIF"),
    "animated.webp": animated("WEBP"),
    **{f"exif{n}.jpg": rotated_jpeg(n) for n in range(1, 9)},
}
ODD_SIZES: dict[str, bytes] = {
    "large.jpg": jpeg(4000, 3000),
    "dot.png": encoded(Image.new("RGB", (1, 1), "red"), "PNG"),
    "tall.png": encoded(picture(1, 20_000), "PNG"),
    "wide.png": encoded(picture(20_000, 1), "PNG"),
}
BROKEN: dict[str, tuple[bytes, str]] = {
    "truncated.jpg": (jpeg(400, 300)[:-2000], "image_corrupt"),
    "truncated.png": (encoded(Image.effect_noise((200, 200), 50), "PNG")[:-5000], "image_corrupt"),
    "truncated.webp": (encoded(picture(), "WEBP", lossless=True)[:-40], "image_corrupt"),
    "header.jpg": (jpeg()[:20], "image_format"),
    "html.jpg": (b"<!DOCTYPE html><html><body>404 Not Found</body></html>", "image_format"),
    "svg.png": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image_format"),
    "noise.png": (bytes(range(256)) * 8, "image_format"),
    "pcx.png": (encoded(picture(), "PCX"), "image_format"),
    "empty.jpg": (b"", "image_empty"),
    "bomb.png": (bomb(), "image_too_many_pixels"),
}


def photographs(folder: Path) -> None:
    """Copy the photographs that scikit-image and scikit-learn ship."""
    import skimage.data
    import sklearn.datasets

    places = [Path(skimage.data.__file__).parent, Path(sklearn.datasets.__file__).parent / "images"]
    for name in ("astronaut.png", "chelsea.png", "coffee.png", "rocket.jpg", "camera.png", "china.jpg", "flower.jpg"):
        shutil.copy(next(place / name for place in places if (place / name).is_file()), folder / name)
