"""The same rows labelled by this job and by `ray.data.llm` with vLLM, each in a process, as its user starts it.

All get the same model, of a preset's shape with random weights, and the same Parquet files of pictures and questions.
Rates leave out what a start takes: each labels a small and a large file, and the difference of rows is divided by that
of seconds. A start before those two fills caches, such as vLLM's of what it has compiled. Then each gets broken rows
among good ones, and what became of them is counted.

Needs vLLM beside Ray: `pip install 'adafv[vllm]'` where there is a GPU; else vLLM's wheel for CPUs, and torchvision.
"""

from __future__ import annotations

import io
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from safetensors.torch import load_file, save_file

from adafv.bench.pipeline import save_model
from adafv.bench.process import apart
from adafv.bench.shapes import Shape, ask
from adafv.bench.table import table as text_table
from adafv.pipeline.errors import UsageError

SCHEMA = pa.schema([("id", pa.string()), ("image", pa.binary()), ("question", pa.string())])
SCRIPT = Path(__file__).with_name("ray_data_llm.py")
BROKEN = 20  # rows
LAST_LINES = 3000  # characters of what a process said that an error shows


@dataclass(frozen=True, kw_only=True)
class PeerTerms:
    """What is measured: the rows of the `small` and the `large` file, and the answers' length in tokens.

    Attributes:
        usd_per_hour: what the machine costs.
    """

    small: int
    large: int
    max_new_tokens: int
    device: str
    keep: float
    usd_per_hour: float


@dataclass(frozen=True, kw_only=True)
class Fate:
    """What became of rows: they got an answer, a reason why not, or neither."""

    answered: int
    reasoned: int
    missing: int


@dataclass(frozen=True, kw_only=True)
class Peer:
    """A way to label `input` into `output`.

    Attributes:
        command: of a model's folder, the input and the output.
        results: of the output, each id with its answer, or None where there is a reason instead.
        lines: of code that its user writes.
    """

    name: str
    command: Callable[[Path, Path, Path], list[str]]
    results: Callable[[Path], Iterator[tuple[str, str | None]]]
    lines: int


@dataclass(frozen=True, kw_only=True)
class Ran:
    """A run that has ended with a status, and what it said on standard error."""

    output: Path
    seconds: float
    status: int
    said: str


@dataclass(frozen=True, kw_only=True)
class Result:
    name: str
    samples_per_s: float
    usd_per_1000: float
    lines: int
    status: int  # of the run with broken rows
    broken: Fate
    good: Fate  # of the rows beside them


def run(shape: Shape, terms: PeerTerms) -> tuple[list[dict[str, Any]], str]:
    """Label with each; the figures, and a table of them.

    Raises:
        UsageError: vLLM isn't installed.
    """
    if find_spec("vllm") is None:
        raise UsageError("peers compares with ray.data.llm and vLLM, which isn't installed here")
    with tempfile.TemporaryDirectory(prefix="peers") as name:
        folder = Path(name)
        apart(_save_model, shape, folder / "model")
        good = _good_rows(shape, terms.large)
        for file, rows in (
            ("small", good[: terms.small]), ("large", good), ("broken", [*good[: terms.small], *broken_rows(good[0])])
        ):  # fmt: skip
            (folder / file).mkdir()
            pq.write_table(pa.Table.from_pylist(rows, schema=SCHEMA), folder / file / "rows.parquet")
        results = [_measure(each, folder, terms) for each in peers(terms)]
    return [asdict(one) for one in results], table(results)


def _save_model(shape: Shape, folder: Path) -> None:
    """With the names of published checkpoints, which vLLM wants."""
    save_model(shape, str(folder))
    weights = load_file(folder / "model.safetensors")
    named = {name.replace("vision_tower.", "vision_tower.vision_model.", 1): each for name, each in weights.items()}
    save_file(named, folder / "model.safetensors", {"format": "pt"})


def _good_rows(shape: Shape, count: int) -> list[dict[str, Any]]:
    def encoded(image: Any) -> bytes:
        image.save(buffer := io.BytesIO(), "PNG")
        return buffer.getvalue()

    questions = ask(shape, count, 1, mixed=False)
    return [{"id": f"r{i}", "image": encoded(one.image), "question": one.text} for i, one in enumerate(questions)]


def broken_rows(good: dict[str, Any]) -> list[dict[str, Any]]:
    """Twenty, made from a good one: with a cut picture, another file, nothing or null for it, or no question."""
    whole = good["image"]
    changes: list[dict[str, Any]] = [
        *({"image": whole[: len(whole) * part // 6]} for part in range(1, 6)),
        *({"image": text.encode()} for text in ("<html>404</html>", "{}", "not found", "0", "GIF89a")),
        *[{"image": b""}] * 3,
        *[{"image": None}] * 4,
        *[{"question": None}] * 3,
    ]
    return [good | change | {"id": f"broken{number}"} for number, change in enumerate(changes)]


def peers(terms: PeerTerms) -> list[Peer]:
    """Ray's library, and this job without and with pruning, each by the same vLLM and by its own loop."""

    def job(*options: str) -> Callable[[Path, Path, Path], list[str]]:
        common = ["--max-new-tokens", str(terms.max_new_tokens), "--device", terms.device, *options]
        return lambda model, input, output: [
            sys.executable, "-m", "adafv", "label", "--model", str(model), "--input", str(input),
            "--output", str(output), *common,
        ]  # fmt: skip

    def script(model: Path, input: Path, output: Path) -> list[str]:
        arguments = (model, input, output, terms.max_new_tokens, terms.device)
        return [sys.executable, str(SCRIPT), *map(str, arguments)]

    ours = {
        f"adafv label{by}{pruned}": (*backend, *strategy)
        for by, backend in (("", ()), (" --backend vllm", ("--backend", "vllm")))
        for pruned, strategy in (
            (" --strategy none", ("--strategy", "none")), (f" --keep {terms.keep}", ("--keep", str(terms.keep)))
        )
    }  # fmt: skip
    return [
        Peer(name="ray.data.llm", command=script, results=_peer_results, lines=_lines(SCRIPT)),
        *(Peer(name=name, command=job(*options), results=_own_results, lines=1) for name, options in ours.items()),
    ]


def _lines(script: Path) -> int:
    """Of code: without blank lines, comments and the text at its head."""
    code = script.read_text().split('"""', 2)[2]
    return sum(bool(line.strip()) and not line.strip().startswith("#") for line in code.splitlines())


def _measure(peer: Peer, folder: Path, terms: PeerTerms) -> Result:
    rows = {"small": terms.small, "large": terms.large}
    _, small, large = (_all_answered(peer, folder, file, rows[file]) for file in ("small", "small", "large"))
    rate = (terms.large - terms.small) / (large.seconds - small.seconds)
    broken = _label(peer, folder, "broken")
    return Result(
        name=peer.name,
        samples_per_s=rate,
        usd_per_1000=1000 * terms.usd_per_hour / 3600 / rate,
        lines=peer.lines,
        status=broken.status,
        broken=fate(peer, broken.output, "broken", BROKEN),
        good=fate(peer, broken.output, "r", terms.small),
    )


def _all_answered(peer: Peer, folder: Path, file: str, rows: int) -> Ran:
    """Label good rows. RuntimeError if one has no answer."""
    ran = _label(peer, folder, file)
    if ran.status or fate(peer, ran.output, "r", rows).answered < rows:
        raise RuntimeError(
            f"{peer.name} ended with status {ran.status} or left good rows unanswered: {ran.said[-LAST_LINES:]}"
        )
    return ran


def _label(peer: Peer, folder: Path, file: str) -> Ran:
    """Label `file` of the folder with the model there, into an empty output."""
    output = folder / peer.name.replace(" ", "_") / file
    shutil.rmtree(output, ignore_errors=True)
    start = time.monotonic()
    command = peer.command(folder / "model", folder / file, output)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return Ran(output=output, seconds=time.monotonic() - start, status=done.returncode, said=done.stderr)


def fate(peer: Peer, output: Path, prefix: str, count: int) -> Fate:
    """What became of the `count` rows whose ids begin with the prefix."""
    found = [answer for id, answer in peer.results(output) if id.startswith(prefix)]
    answered = sum(answer is not None for answer in found)
    return Fate(answered=answered, reasoned=len(found) - answered, missing=count - len(found))


def _peer_results(output: Path) -> Iterator[tuple[str, str | None]]:
    for path in output.glob("*.parquet"):
        for row in pq.read_table(path).to_pylist():
            if row.get("id") is not None:
                yield row["id"], None if row.get("__inference_error__") else row.get("answer")


def _own_results(output: Path) -> Iterator[tuple[str, str | None]]:
    for kind in ("labels", "rejects"):
        for path in (output / kind).glob("*.parquet"):
            for row in pq.read_table(path).to_pylist():
                yield row["id"], row.get("answer")


def table(results: Sequence[Result]) -> str:
    columns = {"": "<36", "samples/s": "10.2f", "USD/1,000": "10.4f", "lines": "6", "status": "7", "answered": "9"}
    columns |= {"reason": "7", "missing": "8", "good": "9"}
    rows = [
        (one.name, one.samples_per_s, one.usd_per_1000, one.lines, one.status, one.broken.answered, one.broken.reasoned,
         one.broken.missing, f"{one.good.answered}/{one.good.answered + one.good.reasoned + one.good.missing}")
        for one in results
    ]  # fmt: skip
    return text_table(columns, rows)
