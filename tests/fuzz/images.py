"""Image files of all kinds, and what damage can be done to them."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import cache
from itertools import pairwise

import numpy as np
from PIL import Image, PngImagePlugin

from tests.pipeline.images.heavy import gif_frame, png_chunk, tiff, webp_canvas
from tests.pipeline.pictures import encoded, rotated_jpeg

ABSURD = [0, 1, 2, 0x7F, 0x80, 0xFF, 0x100, 0x7FFF, 0x8000, 0xFFFF, 0x10000, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
PNG_START = b"\x89PNG\r\n\x1a\n"


def image(number: int, seed: int) -> tuple[str, bytes]:
    """A damaged file, and how it came about."""
    luck = random.Random(f"image {seed} {number}")
    name = luck.choice(sorted(sound()))
    data, done = sound()[name], [name]
    for _ in range(luck.choice((1, 1, 1, 2, 3, 6))):
        damage = luck.choice(DAMAGE)
        data = damage(data, luck)
        done.append(damage.__name__)
    return ", ".join(done), data


@cache
def sound() -> dict[str, bytes]:
    """The files before they are damaged, by name: small, so that damage meets what matters."""
    luck = np.random.default_rng(0)
    pixels = np.kron(luck.integers(0, 256, (8, 12, 4), np.uint8), np.ones((5, 5, 1), np.uint8))  # 60 x 40 in patches
    rgba = Image.fromarray(pixels)
    rgb, grey, palette = rgba.convert("RGB"), rgba.convert("L"), rgba.convert("RGB").quantize(16)
    deep = Image.fromarray(luck.integers(0, 65536, (40, 60), np.uint16))
    text = PngImagePlugin.PngInfo()
    text.add_text("Comment", "words " * 20, zip=True)
    text.add_itxt("XML:com.adobe.xmp", "<x:xmpmeta/>" * 5, zip=True)
    several = {"save_all": True, "append_images": [rgba.rotate(90, expand=True).resize((60, 40)), rgba]}
    files = {
        "jpeg": encoded(rgb, "JPEG"),
        "jpeg progressive": encoded(rgb, "JPEG", progressive=True, subsampling=0),
        "jpeg grey, restarts": encoded(grey, "JPEG", restart_marker_blocks=2, comment=b"words"),
        "jpeg cmyk": encoded(rgb.convert("CMYK"), "JPEG", progressive=True),
        "jpeg exif": rotated_jpeg(6),
        "png": encoded(rgb, "PNG", pnginfo=text, icc_profile=bytes(200)),
        "png alpha": encoded(rgba, "PNG"),
        "png palette": encoded(palette, "PNG", transparency=3, bits=4),
        "png 1 bit": encoded(grey.convert("1"), "PNG"),
        "png 16 bits": encoded(deep, "PNG"),
        "png interlaced": interlaced(rgb),
        "png animated": encoded(rgba, "PNG", **several),
        "webp": encoded(rgb, "WEBP", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0"),
        "webp lossless": encoded(rgba, "WEBP", lossless=True),
        "webp alpha": encoded(rgba, "WEBP"),
        "webp animated": encoded(rgba, "WEBP", **several),
        "webp canvas": webp_canvas(64, 64),
        "gif": encoded(palette, "GIF", transparency=2, comment=b"words"),
        "gif animated": encoded(palette, "GIF", **several, disposal=2),
        "gif frame": gif_frame(20, 20),
        "bmp": encoded(rgb, "BMP"),
        "bmp palette": encoded(palette, "BMP"),
        "bmp 1 bit": encoded(grey.convert("1"), "BMP"),
        "bmp run lengths": run_lengths(),
        "tiff floats": encoded(Image.fromarray(luck.random((40, 60), np.float32)), "TIFF"),
        "tiff 16 bits": encoded(deep, "TIFF", compression="tiff_lzw"),
        "tiff fax": encoded(grey.convert("1"), "TIFF", compression="group4"),
        "tiff tiles": tiff(60, 40, [8] * 3, 2, tile=(16, 16)),
        "tiff 64 bits a pixel": tiff(60, 40, [16] * 4, 2, t338=(3, [2]), t274=(3, [6])),
        "tiff palette": encoded(palette, "TIFF", compression="packbits"),
    }
    for compression in ("raw", "jpeg", "tiff_adobe_deflate", "zstd", "lzma"):
        files[f"tiff {compression}"] = encoded(rgb, "TIFF", compression=compression)
    return files


def interlaced(image: Image.Image) -> bytes:
    """An RGB picture as a PNG in Adam7's seven passes, which Pillow reads but doesn't write."""
    pixels, rows = np.asarray(image), b""
    for left, top, across, down in (
        (0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2),
    ):  # fmt: skip
        rows += b"".join(b"\0" + row.tobytes() for row in pixels[top::down, left::across])
    header = struct.pack(">IIBBBBB", image.width, image.height, 8, 2, 0, 0, 1)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b""))
    return PNG_START + b"".join(png_chunk(name, data) for name, data in chunks)


def run_lengths(width: int = 60, height: int = 40) -> bytes:
    """A BMP of 256 colours in run-length encoding, which Pillow reads but doesn't write."""
    rows = b"".join(bytes([20, row, 30, row + 1, 0, 4, 1, 2, 3, 4, 6, 9, 0, 0]) for row in range(height)) + b"\0\1"
    colours = bytes(value for i in range(256) for value in (i, 255 - i, i // 2, 0))
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(rows), 0, 0, 256, 0)
    start = 14 + len(header) + len(colours)
    return b"BM" + struct.pack("<IHHI", start + len(rows), 0, 0, start) + header + colours + rows


def flip_bits(data: bytes, luck: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(luck.choice((1, 1, 3, 20))):
        if changed:
            changed[_somewhere(changed, luck)] ^= 1 << luck.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, luck: random.Random) -> bytes:
    start = _somewhere(data, luck)
    run = luck.choice((bytes(1), b"\xff", luck.randbytes(1))) * luck.randint(1, 64)
    return data[:start] + luck.choice((run, luck.randbytes(len(run)))) + data[start + len(run) :]


def absurd_number(data: bytes, luck: random.Random) -> bytes:
    """A size, count or offset that can't be."""
    start, width = _somewhere(data, luck), luck.choice((1, 2, 2, 4, 4, 8))
    value = luck.choice([*ABSURD, len(data), luck.randrange(1 << 32)]) % (1 << 8 * width)
    return data[:start] + value.to_bytes(width, luck.choice(("big", "little"))) + data[start + width :]


def truncate(data: bytes, luck: random.Random) -> bytes:
    return data[: luck.randint(0, len(data))]


def insert(data: bytes, luck: random.Random) -> bytes:
    start = _somewhere(data, luck)
    return data[:start] + luck.randbytes(luck.choice((1, 4, 100, 5000))) + data[start:]


def remove(data: bytes, luck: random.Random) -> bytes:
    start = _somewhere(data, luck)
    return data[:start] + data[start + luck.choice((1, 4, 100)) :]


def splice(data: bytes, luck: random.Random) -> bytes:
    """The start of one file, the end of another."""
    other = sound()[luck.choice(sorted(sound()))]
    return data[: luck.randint(0, len(data))] + other[luck.randint(0, len(other)) :]


def shuffle_parts(data: bytes, luck: random.Random) -> bytes:
    """Segments, chunks or slices doubled, dropped, swapped or taken from another file, with the right checksums."""
    parts = _parts(data)
    other = _parts(sound()[luck.choice(sorted(sound()))])
    for _ in range(luck.randint(1, 4)):
        i = luck.randrange(len(parts))
        move = luck.randrange(4)
        if move == 0:
            parts[i:i] = [parts[i]] * luck.choice((1, 1, 2, 300))
        elif move == 1 and len(parts) > 1:
            del parts[i]
        elif move == 2:
            j = luck.randrange(len(parts))
            parts[i], parts[j] = parts[j], parts[i]
        else:
            parts.insert(i, luck.choice(other))
    return right_checksums(b"".join(parts), luck)


def right_checksums(data: bytes, luck: random.Random) -> bytes:
    """Checksums and sizes as they should be, so that damage gets past the first check."""
    if data.startswith(PNG_START):
        return PNG_START + b"".join(
            png_chunk(part[4:8], part[8:-4]) if len(part) >= 12 else part for part in _parts(data)[1:]
        )
    if data.startswith(b"RIFF"):
        return data[:4] + struct.pack("<I", max(0, len(data) - 8)) + data[8:]
    return data


def _somewhere(data: bytes | bytearray, luck: random.Random) -> int:
    """An offset: as often in the first hundred bytes as in all others."""
    end = len(data) if luck.random() < 0.5 else min(100, len(data))
    return luck.randrange(end) if end else 0


def _parts(data: bytes) -> list[bytes]:
    """A file's chunks or segments; of other formats slices."""
    return [part for part in _cut(data) if part] or [b""]


def _cut(data: bytes) -> Iterator[bytes]:
    if data.startswith(PNG_START):
        return _chunks(data, 8, lambda at: 12 + int.from_bytes(data[at : at + 4], "big"))
    if data.startswith(b"RIFF"):
        return _chunks(data, 12, lambda at: 8 + (int.from_bytes(data[at + 4 : at + 8], "little") + 1 & ~1))
    if data.startswith(b"\xff\xd8"):
        ends = [i for i in range(2, len(data) - 1) if data[i] == 0xFF and data[i + 1] not in (0, 0xFF)]
        return (data[start:end] for start, end in pairwise([0, *ends, len(data)]))
    return (data[i : i + 16] for i in range(0, len(data), 16))


def _chunks(data: bytes, start: int, length: Callable[[int], int]) -> Iterator[bytes]:
    yield data[:start]
    while start < len(data):
        end = start + length(start)
        yield data[start:end]
        start = end


DAMAGE = [
    flip_bits, flip_bits, overwrite, absurd_number, absurd_number, truncate, insert, remove, splice,
    shuffle_parts, shuffle_parts, right_checksums,
]  # fmt: skip
