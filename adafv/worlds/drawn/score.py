"""Labels against the testbed's truth: accuracy by question type and by object size.

    python -m adafv.worlds.drawn.score OUTPUT_DIR --truth DATASET_DIR [--json FILE]

OUTPUT_DIR is what a labelling job wrote (`labels/*.parquet` with at least id and answer), DATASET_DIR what
`python -m adafv.worlds.drawn.dataset` wrote. An answer is right if all its words are, in order. A caption names
many objects, so it gets the F1 of its "colour kind" pairs instead. Every figure is a mean over the labelled
rows; rows without a label are counted apart, since a job may have been told to do a part only.
"""

from __future__ import annotations

import argparse
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import pyarrow.parquet as pq

from adafv.worlds.captions import f1

CAPTION = "caption"


@dataclass(frozen=True)
class Truth:
    answer: str
    type: str
    size: str


@dataclass(frozen=True)
class Mean:
    value: float
    rows: int


@dataclass(frozen=True)
class Score:
    """Means over labelled rows. `questions` leaves the captions out; `overall` has them, by their pair-F1."""

    by_type: dict[str, Mean]
    by_size: dict[str, Mean]
    questions: Mean | None
    overall: Mean | None
    missing: int  # truth rows without a label
    unknown: int  # labels whose id isn't in the truth

    def json(self) -> str:
        return json.dumps(asdict(self), indent=2) + "\n"

    def table(self) -> str:
        lines = [_line("", "score", "rows")]
        for name, means in (("type", self.by_type), ("size", self.by_size)):
            lines += [_line(f"{name} {key}", *_cells(mean)) for key, mean in means.items()]
        lines += [_line("questions", *_cells(self.questions)), _line("overall", *_cells(self.overall))]
        lines.append(_line("no label", "", str(self.missing)))
        if self.unknown:
            lines.append(_line("label of no known row", "", str(self.unknown)))
        return "\n".join(lines)


def score(labels: Mapping[str, str | None], truth: Mapping[str, Truth]) -> Score:
    """`labels` and `truth` by id."""
    scored = [(truth[id_], points(label or "", truth[id_])) for id_, label in labels.items() if id_ in truth]
    return Score(
        by_type=_means([(row.type, got) for row, got in scored]),
        by_size=_means([(row.size, got) for row, got in scored]),
        questions=_mean([got for row, got in scored if row.type != CAPTION]),
        overall=_mean([got for _, got in scored]),
        missing=len(truth.keys() - labels.keys()),
        unknown=len(labels.keys() - truth.keys()),
    )


def points(label: str, truth: Truth) -> float:
    """What one answer is worth, from 0 to 1."""
    if truth.type == CAPTION:
        return f1(named(label), named(truth.answer))
    return float(label.split() == truth.answer.split())


def named(caption: str) -> list[str]:
    """What a caption names: its "colour kind" pairs."""
    words = caption.split()
    return [" ".join(words[i : i + 2]) for i in range(0, len(words), 2)]


def _means(points: list[tuple[str, float]]) -> dict[str, Mean]:
    groups: dict[str, list[float]] = {}
    for key, got in points:
        groups.setdefault(key, []).append(got)
    return {key: Mean(sum(got) / len(got), len(got)) for key, got in sorted(groups.items())}


def _mean(points: list[float]) -> Mean | None:
    return Mean(sum(points) / len(points), len(points)) if points else None


def _cells(mean: Mean | None) -> tuple[str, str]:
    return (f"{100 * mean.value:.1f}", str(mean.rows)) if mean else ("-", "0")


def _line(name: str, value: str, rows: str) -> str:
    return f"{name:<24}{value:>8}{rows:>8}"


def read_labels(output: Path) -> dict[str, str | None]:
    """id -> answer, of a job's output folder."""
    table = _read(output / "labels", ["id", "answer"])
    ids = table["id"]
    repeated = [id_ for id_, count in Counter(ids).items() if count > 1]
    if repeated:
        raise ValueError(f"{len(repeated)} ids stand twice or more in {output}, such as {repeated[0]!r}")
    return dict(zip(ids, table["answer"], strict=True))


def read_truth(dataset: Path) -> dict[str, Truth]:
    table = _read(dataset, ["id", "answer", "type", "size"])
    return {
        id_: Truth(answer, type_, size)
        for id_, answer, type_, size in zip(table["id"], table["answer"], table["type"], table["size"], strict=True)
    }


def _read(folder: Path, columns: list[str]) -> dict[str, list]:
    files = sorted(folder.glob("*.parquet"))
    if not files:
        raise FileNotFoundError(f"no Parquet files in {folder}")
    return pq.ParquetDataset(files).read(columns).to_pydict()


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description="score a labelling job's answers on a testbed dataset")
    parser.add_argument("output", type=Path, help="the job's output folder, with labels/*.parquet")
    parser.add_argument("--truth", type=Path, required=True, help="the dataset's folder")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    options = parser.parse_args(arguments)
    try:
        result = score(read_labels(options.output), read_truth(options.truth))
    except (FileNotFoundError, ValueError) as error:
        parser.error(str(error))
    if options.json:
        options.json.write_text(result.json())
    print(result.table())


if __name__ == "__main__":
    main()
