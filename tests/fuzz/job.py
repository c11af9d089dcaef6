"""The cases as inputs of the real job, and what it made of them."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from adafv.pipeline.outputs.reader import reconcile
from adafv.pipeline.redaction import MESSAGE_LIMIT
from adafv.pipeline.rejects import ERRORS
from tests.fuzz import images, rows
from tests.pipeline.pictures import SOUND
from tests.services import descendants, kill_tree, without_ray

REPOSITORY = Path(__file__).parents[2]
ROWS_PER_FILE = 100


@dataclass
class Inputs:
    """What was written.

    Attributes:
        count: how many rows the files have, by the reading of this module.
        ids: those that are in them once and must be in the outputs once.
    """

    paths: list[Path] = field(default_factory=list)
    count: int = 0
    ids: set[str] = field(default_factory=set)


@dataclass(frozen=True)
class Outcome:
    """How the job ended: its exit status, its log, seconds, and the most memory that its processes had, in bytes."""

    status: int
    log: str
    seconds: float
    driver_bytes: int
    largest_bytes: int


def write_inputs(folder: Path, image_count: int, row_count: int, seed: int) -> Inputs:
    """Half the images are embedded in Parquet, half are files; half the rows are lines of JSON, half are Parquet."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / rows.IMAGE).write_bytes(SOUND["plain.jpg"])
    inputs = Inputs()
    _write_embedded(folder / "embedded.parquet", range(0, image_count, 2), seed, inputs)
    _write_files(folder, range(1, image_count, 2), seed, inputs)
    numbers = range(row_count)
    for start in range(0, row_count, 2 * ROWS_PER_FILE):
        _write_lines(folder / f"{start}.jsonl", numbers[start : start + ROWS_PER_FILE], seed, inputs)
        _write_table(
            folder / f"{start}.parquet", numbers[start + ROWS_PER_FILE : start + 2 * ROWS_PER_FILE], seed, inputs
        )
    return inputs


def _image_row(number: int) -> dict[str, Any]:
    return {"id": f"i{number:07d}", "question": f"w{number % 200} w3"}


def _write_embedded(path: Path, numbers: range, seed: int, inputs: Inputs) -> None:
    found = [_image_row(number) | {"image": images.image(number, seed)[1]} for number in numbers]
    if found:
        pq.write_table(pa.Table.from_pylist(found), path, row_group_size=500)
        _wrote(inputs, path, len(found), [row["id"] for row in found])


def _write_files(folder: Path, numbers: range, seed: int, inputs: Inputs) -> None:
    found = [_image_row(number) | {"image": f"images/{number}"} for number in numbers]
    (folder / "images").mkdir(exist_ok=True)
    for number in numbers:
        (folder / "images" / str(number)).write_bytes(images.image(number, seed)[1])
    if found:
        pq.write_table(pa.Table.from_pylist(found), folder / "files.parquet")
        _wrote(inputs, folder / "files.parquet", len(found), [row["id"] for row in found])


def _write_lines(path: Path, numbers: range, seed: int, inputs: Inputs) -> None:
    """The first line is sound: a file none of whose first rows has the columns is refused as a whole."""
    first = f"s{numbers[0]:07d}"
    lines = [f'{{"id": "{first}", "image": "{rows.IMAGE}", "question": "w1"}}'.encode()]
    ids: list[str | None] = [first]
    for number in numbers:
        line, id = rows.json_line(number, seed)
        lines.append(line)
        ids.append(id)
    path.write_bytes(b"\n".join(lines))
    _wrote(inputs, path, sum(1 for line in lines if line.strip()), ids)


def _write_table(path: Path, numbers: range, seed: int, inputs: Inputs) -> None:
    if numbers:
        table, ids = rows.table(numbers, seed)
        pq.write_table(table, path)
        _wrote(inputs, path, table.num_rows, ids)


def _wrote(inputs: Inputs, path: Path, count: int, ids: list[str | None]) -> None:
    inputs.paths.append(path)
    inputs.count += count
    inputs.ids.update(id for id in ids if id is not None)


def run_job(
    inputs: Inputs, output: Path, model: Path, deadline: float, variables: Mapping[str, str] | None = None
) -> Outcome:
    """Run jobs/label.py on all of them, with more environment `variables`, and end it, and what it started, at the
    deadline."""
    arguments = [
        "--input", *map(str, inputs.paths), "--output", str(output), "--model", str(model), "--max-new-tokens", "2",
        "--keep", "0.25", "--batch-size", "64",
    ]  # fmt: skip
    log = output.with_suffix(".log")
    start = time.monotonic()
    with log.open("w") as file:
        process = subprocess.Popen(
            [sys.executable, str(REPOSITORY / "jobs" / "label.py"), *arguments],
            cwd=output.parent, env=without_ray() | dict(variables or {}), stdout=file, stderr=subprocess.STDOUT,
        )  # fmt: skip
        peaks: Counter[int] = Counter()
        while process.poll() is None:
            if time.monotonic() - start > deadline:
                kill_tree(process.pid)
                raise TimeoutError(f"not done after {deadline:.0f} s; the log ends:\n{log.read_text()[-3000:]}")
            for pid in (process.pid, *descendants(process.pid)):
                peaks[pid] = max(peaks[pid], peak_memory(pid))
            time.sleep(0.5)
    seconds = time.monotonic() - start
    return Outcome(process.returncode, log.read_text(), seconds, peaks[process.pid], max(peaks.values()))


def peak_memory(pid: int) -> int:
    """The most memory that a process has had, in bytes; 0 once it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return next((1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)


def _row_of(id: str | None, ids: set[str]) -> str | None:
    """The row that an id speaks of: a row that asks a list of questions, of which these have one, has none itself."""
    row = (id or "").removesuffix("/1")
    return row if row in ids else id


def problems(inputs: Inputs, outcome: Outcome, output: Path) -> list[str]:
    """What is wrong with the outputs; nothing, if all is as it should be."""
    found = [] if outcome.status == 0 else [f"exit status {outcome.status}; the log ends:\n{outcome.log[-3000:]}"]
    labels, rejects = _read(output, "labels"), _read(output, "rejects")
    if len(labels) + len(rejects) != inputs.count:
        found.append(f"{inputs.count} rows went in, {len(labels)} labels and {len(rejects)} rejects came out")
    ids = (row["id"] for row in [*labels, *rejects] if row.get("error") != "duplicate_id")
    seen = Counter(_row_of(id, inputs.ids) for id in ids)
    found += [f"{id} is {seen[id]} times in the outputs" for id in sorted(inputs.ids) if seen[id] != 1][:20]
    if labels and reconcile(output).duplicates:
        found.append("an id is twice in labels/")
    for row in rejects:
        message = row["message"]
        if row["error"] not in ERRORS:
            found.append(f"{row['error']} is no known error")
        if not message or len(message) > MESSAGE_LIMIT or not message.isprintable():
            found.append(f"the message {message!r} of {row['id']!r} can't be shown")
    return found


def counts(output: Path) -> dict[str, int]:
    """How many rows were labelled, and how many rejected, by error."""
    rejected = Counter(row["error"] for row in _read(output, "rejects"))
    return {"labelled": len(_read(output, "labels"))} | dict(rejected.most_common())


def _read(output: Path, folder: str) -> list[dict[str, Any]]:
    columns = ["id"] if folder == "labels" else ["id", "error", "message"]
    return [
        row
        for path in sorted((output / folder).glob("*.parquet"))
        for row in pq.read_table(path, columns=columns).to_pylist()
    ]
