"""What it costs that rows are prepared and labelled in child processes.

A table is asked of a child process again and again, by what asks it in a job. The handler in there says how long it
worked; what the parent waited beyond that is the way there and back: writing the table into shared memory, waking each
other up, reading the answer. The two are of the same execution, so other work on the machine, and which memory a
process happens to get, disturb both alike. The way depends on the bytes, not on the model. So it is measured with the
testbed, whose rows take next to no time, and with a model that sees photographs as LLaVA-NeXT does, in the same crops,
through fewer and narrower layers: a real one takes longer, and pays the same.
"""

from __future__ import annotations

import io
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from statistics import median

import numpy as np
import pyarrow as pa
import torch
from PIL import Image
from transformers import LlavaNextConfig, LlavaNextForConditionalGeneration

from adafv.bench.examples import scene_row
from adafv.engine import EngineOptions
from adafv.pipeline.isolation import Handler, Isolated
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.sources import rows
from adafv.pipeline.sources.rows import Row, RowImage
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.label import Labelling, WorkerOptions
from adafv.pipeline.workers.prepare import Preparation, Preparing
from adafv.worlds.drawn import dataset
from adafv.worlds.drawn.model import build_processor, model_config

SCENES, BATCH = 4, 32
FEW = 8  # rows, for what takes seconds
CROP, PATCH = 336, 14  # px, LLaVA-NeXT's
PHOTOGRAPH = (768, 1024)
SECONDS = b"work_seconds"


@dataclass(frozen=True)
class IsolationTimes:
    """One kind of table: medians over the rounds of the seconds that the child worked, and of those beyond."""

    what: str
    rows: int
    work_seconds: float
    way_seconds: float

    @property
    def overhead_percent(self) -> float:
        return 100 * self.way_seconds / self.work_seconds


def run(rounds: int) -> list[IsolationTimes]:
    """Measure each kind, with so many rounds."""
    options = JobOptions(input=("-",), output="-")
    engine = options.engine_on("cpu")
    preparing = partial(Preparing, _preparation(options, "testbed", engine))
    scenes = rows.to_table(map(scene_row, islice(dataset.rows(SCENES), BATCH)))
    samples = preparing()(scenes, lambda: None)
    labelling = partial(Labelling, _worker_options("testbed", options, engine))
    with tempfile.TemporaryDirectory(prefix="isolation") as folder:
        _save_narrow_model(folder)
        reading = partial(Preparing, _preparation(options, folder, engine))
        pictures = rows.to_table(_photographs(BATCH))
        photographs = reading()(pictures.slice(0, FEW), lambda: None)
        looking = partial(Labelling, _worker_options(folder, options, engine))
        few = max(1, rounds // 4)
        return [
            _measure("prepare, testbed scenes", preparing, scenes, rounds),
            _measure("label, testbed", labelling, samples, rounds),
            _measure("prepare, photographs, LLaVA-NeXT's crops", reading, pictures, few),
            _measure("label, photographs, narrow model", looking, photographs, few),
        ]


class Timed:
    """What `make` makes, and how long it took over each table, in the answer's metadata."""

    def __init__(self, make: Callable[[], Handler]) -> None:
        self._handler = make()

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        start = time.perf_counter()
        answer = self._handler(table, on_progress)
        return answer.replace_schema_metadata({SECONDS: repr(time.perf_counter() - start)})

    def is_spent(self, error: BaseException) -> bool:
        return self._handler.is_spent(error)


def _measure(what: str, make: Callable[[], Handler], given: pa.Table, rounds: int) -> IsolationTimes:
    child = Isolated(partial(Timed, make), timeout=3600)
    child.ask(given)  # warm up
    asked = [_ask(child, given) for _ in range(rounds)]
    child.close()
    work, way = (median(seconds) for seconds in zip(*asked, strict=True))
    return IsolationTimes(what, given.num_rows, work, way)


def _ask(child: Isolated, given: pa.Table) -> tuple[float, float]:
    """The seconds that the child worked, and those beyond until its answer was here."""
    start = time.perf_counter()
    work = float(child.ask(given).schema.metadata[SECONDS])
    return work, time.perf_counter() - start - work


def _photographs(count: int) -> Iterator[Row]:
    """JPEGs of the size that data sets of photographs have, none like the one before."""
    height, width = PHOTOGRAPH
    coarse = np.random.default_rng(0)
    for number in range(count):
        pixels = coarse.integers(0, 256, (height // 16, width // 16, 3), np.uint8)
        buffer = io.BytesIO()
        Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC).save(buffer, "JPEG", quality=90)
        shown = RowImage("", data=buffer.getvalue())
        yield Row(str(number), "", (shown,), question="what?", prompt="what is in the middle ?")


def _worker_options(model: str, options: JobOptions, engine: EngineOptions) -> WorkerOptions:
    return WorkerOptions(
        model=model,
        path=model,
        engine=engine,
        storage=Storage(),
        run_id="bench",
        tariff=Tariff(),
        threads=1,
        batch_timeout=options.batch_timeout,
        handler=Labelling,
    )


def _preparation(options: JobOptions, model: str, engine: EngineOptions) -> Preparation:
    return Preparation.of(options, model=model, engine=engine, storage=Storage(), handler=Preparing)


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


def table(found: Sequence[IsolationTimes]) -> str:
    lines = [f"{'':42}{'rows':>6}{'work, ms':>12}{'there and back, ms':>20}{'overhead':>10}"]
    for one in found:
        lines.append(
            f"{one.what:42}{one.rows:>6}{1000 * one.work_seconds:>12.2f}{1000 * one.way_seconds:>20.2f}"
            f"{one.overhead_percent:>9.1f}%"
        )
    return "\n".join(lines)
