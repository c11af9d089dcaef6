"""One set of rows in each of the input formats."""

from __future__ import annotations

import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tests.pipeline.pictures import SOUND

NAMES = ("plain.jpg", "plain.png", "cmyk.jpg", "palette.gif")
ROWS = [{"id": f"r{i}", "image": name, "question": f"w{i} w{i + 1}"} for i, name in enumerate(NAMES)]


def write_images(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name in NAMES:
        (folder / name).write_bytes(SOUND[name])
    return folder


def write_uris(path: Path, rows: list[dict[str, Any]] = ROWS, **options: Any) -> Path:
    pq.write_table(pa.Table.from_pylist(rows), path, **options)
    return path


def write_bytes(path: Path) -> Path:
    return write_uris(path, [row | {"image": SOUND[row["image"]]} for row in ROWS])


def write_structs(path: Path) -> Path:
    return write_uris(path, [row | {"image": {"bytes": SOUND[row["image"]], "path": row["image"]}} for row in ROWS])


def write_jsonl(path: Path, rows: list[dict[str, Any]] = ROWS) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_tar(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """Half the questions in .json, half in .txt."""
    with tarfile.open(path, "w") as tar:
        for i, row in enumerate(ROWS):
            add(tar, f"{row['id']}.{row['image'].rpartition('.')[2]}", SOUND[row["image"]])
            text = json.dumps({"question": row["question"]}) if i % 2 else row["question"]
            add(tar, f"{row['id']}.{'json' if i % 2 else 'txt'}", text.encode())
        for name, data in (extra or {}).items():
            add(tar, name, data)
    return path


def add(tar: tarfile.TarFile, name: str, data: bytes) -> None:
    member = tarfile.TarInfo(name)
    member.size = len(data)
    tar.addfile(member, io.BytesIO(data))


def write_all(folder: Path) -> dict[str, Path]:
    """Every format, by name; the images that the tables refer to lie beside them."""
    write_images(folder)
    return {
        "uris": write_uris(folder / "uris.parquet"),
        "bytes": write_bytes(folder / "bytes.parquet"),
        "structs": write_structs(folder / "structs.parquet"),
        "jsonl": write_jsonl(folder / "rows.jsonl"),
        "tar": write_tar(folder / "rows.tar"),
    }
