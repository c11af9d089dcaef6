"""The command line: see the package's docstring."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from adafv.pipeline.images.decode import decode
from adafv.pipeline.options import JobOptions
from tests.fuzz import images, job, rows, schemas
from tests.tiny_models import build

MAX_PIXELS = JobOptions.__dataclass_fields__["max_image_pixels"].default


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description="Mutated images and rows through the job."
    )
    parser.add_argument("--images", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--rows", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--schemas", type=int, default=1000, help="how many (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="which ones (default: %(default)s)")
    parser.add_argument("--only", type=int, metavar="N", help="show case N instead: what it is, what is made of it")
    parser.add_argument("--deadline", type=float, default=3600, help="seconds (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the counts there, too")
    options = parser.parse_args()
    if options.only is not None:
        show(options.only, options.seed)
        return 0
    with tempfile.TemporaryDirectory() as folder:
        tables = schemas.fuzz(options.schemas, options.seed, Path(folder))
        report = fuzz(Path(folder), options.images, options.rows, options.seed, options.deadline) | {"schemas": tables}
        report["problems"] += tables.pop("problems")
    text = json.dumps(report, indent=2)
    print(text)
    if options.json:
        options.json.parent.mkdir(parents=True, exist_ok=True)
        options.json.write_text(text + "\n")
    return 1 if report["problems"] else 0


def show(number: int, seed: int) -> None:
    name, data = images.image(number, seed)
    print(f"image {number}: {name}: {len(data)} bytes: {decode(data, MAX_PIXELS)}")
    line, id = rows.json_line(number, seed)
    print(f"row {number}, as JSON: {line[:2000]!r}, id {id}")
    table, columns = schemas.table(number, seed)
    print(f"schema {number}, asked {columns}:\n{table.schema.to_string(show_field_metadata=False)}")


def fuzz(folder: Path, image_count: int, row_count: int, seed: int, deadline: float) -> dict[str, Any]:
    """Run all there is to run, and report."""
    inputs = job.write_inputs(folder / "in", image_count, row_count, seed)
    outcome = job.run_job(inputs, folder / "out", build(folder / "model"), deadline)
    return {
        "date": datetime.now(UTC).date().isoformat(),
        "images": image_count,
        "rows": row_count,
        "seed": seed,
        "inputs": inputs.count,
        "outcomes": job.counts(folder / "out"),
        "seconds": round(outcome.seconds, 1),
        "driver_peak_mib": outcome.driver_bytes >> 20,
        "largest_peak_mib": outcome.largest_bytes >> 20,
        "decoding": decode_all(image_count, seed),
        "problems": job.problems(inputs, outcome, folder / "out"),
    }


def decode_all(count: int, seed: int) -> dict[str, Any]:
    """All images in one process."""
    command = [sys.executable, "-m", "tests.fuzz.growth", str(count), str(seed), str(MAX_PIXELS)]
    done = subprocess.run(command, cwd=job.REPOSITORY, check=True, capture_output=True, text=True)
    found = json.loads(done.stdout)
    return {
        "outcomes": found["outcomes"],
        "halfway_mib": found["halfway"] >> 20,
        "end_mib": found["end"] >> 20,
        "log_bytes": len(done.stderr),
    }


if __name__ == "__main__":
    sys.exit(main())
