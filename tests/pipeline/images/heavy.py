"""Pictures that take much memory to decode for their size, and files that claim more than they hold."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable
from itertools import starmap

import numpy as np
from PIL import Image

from tests.pipeline.pictures import encoded

WIDTH, HEIGHT = 4096, 2048
TIFF_SIZES = {3: 2, 4: 4}  # bytes of TIFF's short and long


def png(width: int, height: int, depth: int, kind: int, *chunks: tuple[bytes, bytes]) -> bytes:
    """A black PNG, of any depth and PNG colour type."""
    samples = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = bytes(1 + (width * depth * samples + 7) // 8)
    packer = zlib.compressobj(1)
    pixels = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        starmap(png_chunk, [(b"IHDR", header), *chunks, (b"IDAT", pixels), (b"IEND", b"")])
    )


def png_chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def tiff(
    width: int,
    height: int,
    bits: list[int],
    photometric: int,
    *,
    tile: tuple[int, int] | None = None,
    **tags: tuple[int, list[int]],
) -> bytes:
    """A black TIFF in one deflated strip, or of tiles that are all the same. `tags`: more, as `t274=(3, [6])`."""
    across, down = tile or (width, height)
    packer = zlib.compressobj(1)
    row = bytes((across * sum(bits) + 7) // 8)
    pixels = b"".join(packer.compress(row) for _ in range(down)) + packer.flush()
    tiles = -(-width // across) * -(-height // down)
    place, length = (324, 325) if tile else (273, 279)
    known = {256: (4, [width]), 257: (4, [height]), 258: (3, bits), 259: (3, [8]), 262: (3, [photometric])}
    known |= {277: (3, [len(bits)]), place: (4, [0] * tiles), length: (4, [len(pixels)] * tiles)}
    known |= {322: (4, [across]), 323: (4, [down])} if tile else {278: (4, [height])}
    known |= {int(name[1:]): value for name, value in tags.items()}
    known[place] = (4, [len(_directory(known))] * tiles)
    return _directory(known) + pixels


def _directory(tags: dict[int, tuple[int, list[int]]]) -> bytes:
    """A TIFF's header and its only directory."""
    end = 8 + 2 + 12 * len(tags) + 4
    entries, lists = b"", b""
    for tag, (kind, values) in sorted(tags.items()):
        packed = struct.pack(f"<{len(values)}{'H' if kind == 3 else 'L'}", *values)
        where = packed if len(packed) <= 4 else struct.pack("<L", end + len(lists))
        entries += struct.pack("<HHL4s", tag, kind, len(packed) // TIFF_SIZES[kind], where)
        lists += b"" if len(packed) <= 4 else packed
    return b"II*\0" + struct.pack("<LH", 8, len(tags)) + entries + bytes(4) + lists


def gradient(mode: str) -> Image.Image:
    return Image.linear_gradient("L").resize((WIDTH, HEIGHT)).convert(mode)


def _see_through() -> Image.Image:
    image = gradient("RGB")
    image.putalpha(image.getchannel(0))
    return image


def webp_canvas(width: int, height: int) -> bytes:
    """A WebP of a few bytes that claims a canvas for which its decoder would allocate gigabytes."""
    sizes = struct.pack("<I", width - 1)[:3] + struct.pack("<I", height - 1)[:3]
    frame = encoded(Image.new("RGB", (8, 8)), "WEBP")[12:]
    size = struct.pack("<I", len(frame) + 16)
    frames = b"ANIM" + struct.pack("<I", 6) + bytes(6) + b"ANMF" + size + bytes(6) + b"\7\0\0\7\0\0" + bytes(4) + frame
    content = b"WEBPVP8X" + struct.pack("<I", 10) + b"\2\0\0\0" + sizes + frames
    return b"RIFF" + struct.pack("<I", len(content)) + content


def gif_frame(width: int, height: int) -> bytes:
    """A GIF of a few bytes whose frame is larger than its canvas."""
    data = bytearray(encoded(Image.new("P", (8, 8)), "GIF"))
    frame = data.index(b",\0\0\0\0")
    data[frame + 5 : frame + 9] = struct.pack("<HH", width, height)
    return bytes(data)


# By name, what makes it: one for each way in which a decoder or `to_rgb` works.
HEAVY: dict[str, Callable[[], bytes]] = {
    "grey of 16 bits": lambda: png(WIDTH, HEIGHT, 16, 0),
    "transparent grey": lambda: png(WIDTH, HEIGHT, 8, 4),
    "one colour is transparent": lambda: png(WIDTH, HEIGHT, 8, 2, (b"tRNS", bytes(6))),
    "long rows": lambda: png(2**20, 8, 16, 6),
    "many rows": lambda: png(8, 2**20, 8, 4),
    "progressive JPEG": lambda: encoded(gradient("CMYK"), "JPEG", progressive=True),
    "lossless WebP": lambda: encoded(gradient("RGBA"), "WEBP", lossless=True, method=0),
    "transparent WebP": lambda: encoded(_see_through(), "WEBP", method=0),
    "GIF": lambda: encoded(gradient("L").convert("P"), "GIF", transparency=1, disposal=2),
    "TIFF of integers": lambda: tiff(WIDTH, HEIGHT, [32], 1, t339=(3, [2])),
    "TIFF of floats": lambda: encoded(Image.fromarray(np.full((HEIGHT, WIDTH), 0.5, np.float32)), "TIFF"),
    "TIFF that lies on its side": lambda: tiff(WIDTH, HEIGHT, [16] * 4, 2, t338=(3, [2]), t274=(3, [6])),
    "TIFF of one tile": lambda: tiff(WIDTH, HEIGHT, [16] * 4, 2, tile=(WIDTH, HEIGHT), t338=(3, [2])),
}
