"""What it costs that rows are prepared and labelled in child processes.

The same tables go through the same handler twice: called here, and asked of a child process. The two take turns, and
the quickest round of each counts, since other work on the machine only ever adds. What is left over, per batch, is the
way there and back; it depends on the bytes, not on the model, so it is also measured alone, with the crops of a batch
for a LLaVA-NeXT of full size, and with a model that sees pictures of full size through fewer and narrower layers than
a real one has: a real one takes longer, and pays the same.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from adafv.engine import EngineOptions
from adafv.pipeline.isolation import Handler, Isolated
from adafv.pipeline.options import JobOptions
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row
from adafv.pipeline.storage import Storage
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing
from adafv.testbed import dataset
from adafv.testbed.model import build_processor, model_config

SCENES, BATCH = 4, 32
FEW = 8  # rows, for what takes seconds
CROP, PATCH = 336, 14  # px, LLaVA-NeXT's
CROPS = (5, CROP, CROP, 3)  # of a photograph
PHOTOGRAPH = (768, 1024)


@dataclass(frozen=True)
class Measurement:
    """One kind of table: the seconds of the quickest round in this process, and through a child."""

    what: str
    rows: int
    direct_seconds: float
    isolated_seconds: float

    @property
    def overhead_percent(self) -> float:
        return 100 * (self.isolated_seconds / self.direct_seconds - 1)


def run(rounds: int) -> list[Measurement]:
    """Measure each kind, with so many rounds."""
    options = JobOptions(input=("-",), output="-")
    engine = options.engine_options("cpu")
    preparing = partial(Preparing, Preparation.of(options, "testbed", engine, Storage(), Preparing))
    scenes = rows.to_table(_scene_row(values) for values in islice(dataset.rows(SCENES), BATCH))
    samples = preparing()(scenes, lambda: None)
    labelling = partial(Labelling, _worker_options("testbed", options, engine))
    with tempfile.TemporaryDirectory(prefix="isolation") as folder:
        _save_narrow_model(folder)
        reading = Preparing(Preparation.of(options, folder, engine, Storage(), Preparing))
        photographs = reading(rows.to_table(_photographs(FEW)), lambda: None)
        looking = partial(Labelling, _worker_options(folder, options, engine))
        return [
            _measure("prepare, testbed scenes", preparing, scenes, rounds),
            _measure("prepare, photographs", preparing, rows.to_table(_photographs(BATCH)), max(1, rounds // 4)),
            _measure("label, testbed", labelling, samples, rounds),
            _measure("label, photographs, narrow model", looking, photographs, max(1, rounds // 4)),
            _measure("there and back, LLaVA-NeXT's crops", Echo, _large_batch(), rounds),
        ]


class Echo:
    """Says how many rows it was given; it looks at each byte, as whoever uses a table does."""

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        total = sum(int(np.frombuffer(value.as_buffer(), np.uint8).max()) for value in table.column("crops"))
        return pa.table({"rows": [table.num_rows], "total": [total]})

    def is_spent(self, error: BaseException) -> bool:
        return False


def _measure(what: str, make: Callable[[], Handler], given: pa.Table, rounds: int) -> Measurement:
    handler, child = make(), Isolated(make, timeout=3600)
    ways = {"direct": lambda table: handler(table, lambda: None), "isolated": child.ask}
    for way in ways.values():  # warm up
        way(given)
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds):
        for name in sorted(ways, reverse=number % 2 == 1):
            start = time.perf_counter()
            ways[name](given)
            seconds[name].append(time.perf_counter() - start)
    child.close()
    return Measurement(what, given.num_rows, min(seconds["direct"]), min(seconds["isolated"]))


def _scene_row(values: dict[str, object]) -> Row:
    image, question = values["image"], str(values["question"])
    assert isinstance(image, dict)
    return Row(str(values["id"]), "", image_bytes=image["bytes"], question=question, prompt=question)


def _photographs(count: int) -> Iterator[Row]:
    """JPEGs of the size that data sets of photographs have, none like the one before."""
    height, width = PHOTOGRAPH
    coarse = np.random.default_rng(0)
    for number in range(count):
        pixels = coarse.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        yield Row(str(number), "", image_bytes=buffer.getvalue(), question="what?", prompt="what is in the middle ?")


def _worker_options(model: str, options: JobOptions, engine: EngineOptions) -> WorkerOptions:
    return WorkerOptions(model, model, engine, Storage(), "bench", None, 1, options.batch_timeout, Labelling)


def _save_narrow_model(folder: str) -> None:
    """Random weights behind LLaVA-NeXT's own crops and visual tokens, with the testbed's words."""
    grids = [[CROP, 2 * CROP], [2 * CROP, CROP], [2 * CROP, 2 * CROP]]
    sizes = model_config().to_dict()
    sizes["vision_config"] |= {"hidden_size": 256, "intermediate_size": 1024, "num_hidden_layers": 6}
    sizes["vision_config"] |= {"image_size": CROP, "patch_size": PATCH}
    sizes["text_config"] |= {"hidden_size": 512, "intermediate_size": 1408, "num_hidden_layers": 4, "head_dim": 128}
    sizes["text_config"]["max_position_embeddings"] = 4096
    config = LlavaNextConfig.from_dict(
        sizes | {"image_grid_pinpoints": grids, "image_seq_length": (CROP // PATCH) ** 2}
    )
    torch.manual_seed(0)
    LlavaNextForConditionalGeneration(config).save_pretrained(folder)
    processor = build_processor()
    processor.patch_size, images = PATCH, processor.image_processor
    images.size, images.crop_size = {"shortest_edge": CROP}, {"height": CROP, "width": CROP}
    images.image_grid_pinpoints = grids
    processor.save_pretrained(folder)


def _large_batch() -> pa.Table:
    data = np.random.default_rng(0).bytes(int(np.prod(CROPS)))
    return pa.table({"crops": pa.array([data] * BATCH, pa.large_binary())})


def table(found: Sequence[Measurement]) -> str:
    lines = [f"{'':36}{'rows':>6}{'here, ms':>11}{'in a child, ms':>16}{'overhead':>10}"]
    for one in found:
        lines.append(
            f"{one.what:36}{one.rows:>6}{1000 * one.direct_seconds:>11.2f}{1000 * one.isolated_seconds:>16.2f}"
            f"{one.overhead_percent:>9.1f}%"
        )
    return "\n".join(lines)
