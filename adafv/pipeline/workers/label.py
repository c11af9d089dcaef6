"""The GPU stage: an actor that runs the model on one batch after another.

The model is in a child process (`isolation`), so a sample that kills or hangs it costs only itself. The child starts
with the first row that needs it and answers a trial sample first: if that fails, no row is to blame and the run ends.
Rejects of earlier stages pass through, so every row reaches the sink once. A label's cost is computed here: the time
that the batch held the worker, shared among its rows.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from adafv.pipeline import schema
from adafv.pipeline.fields import carried_fields, fields_of, values_of
from adafv.pipeline.isolation import Failure, Handler, Isolated, run_isolated
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.rejects import Reject
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.model import resolve_model, resolve_text_tower
from adafv.pipeline.workers.repeats import OWN, KnownLabels, LabelMemory, Repeats
from adafv.pipeline.workers.samples import NAMES, samples_of

if TYPE_CHECKING:
    from adafv.engine import EngineOptions, Label, Sample
    from adafv.pipeline.control.gate import Gate

GIVEN = [*OWN]  # columns that a result takes from its row; a label may have another that is called `carried`
ENGINE_STAGES = ("encode", "prune", "prefill", "decode")  # with a time in each label


class DeviceMemoryError(Exception):
    """A sample that doesn't fit the device by itself."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker needs to know.

    Attributes:
        model: as the user named it; `path`: with an absolute local path.
        threads: of torch, on a CPU.
        batch_timeout: seconds without progress after which a batch counts as hung.
        handler: makes the handler that does the work; tests may replace it.
        carried: input columns that labels have.
        known: labels to reuse for duplicates; None to label every row.
        gate: closed when no more batches may begin; None without limits.
    """

    model: str
    path: str
    engine: EngineOptions
    storage: Storage
    run_id: str
    tariff: Tariff
    threads: int
    batch_timeout: float
    handler: Callable[[WorkerOptions], Handler]
    carried: tuple[str, ...] = ()
    known: KnownLabels | LabelMemory | None = None
    gate: Gate | None = None


class LabelWorker:
    """Labels tables of samples. Two threads may call it: one works before and after its turn with the model while
    the other has it."""

    def __init__(self, options: WorkerOptions) -> None:
        self._process = Isolated(
            partial(options.handler, replace(options, gate=None, known=None)), options.batch_timeout
        )
        self._gate, self._known = options.gate, options.known
        self._reusing = threading.Lock()
        self._results = results_of(options.engine, options.carried)
        self._carried = [field.name for field in added_fields(options.engine, options.carried)[0]]
        self._common = {
            "run_id": options.run_id,
            "worker": f"{socket.gethostname()}/{os.getpid()}",
            "worker_actor": _actor(),
            "worker_started": time.time(),
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        """Samples and rejects (`samples.SCHEMA`) in, labels and rejects (`schema.RESULTS`) out. Samples that the
        gate doesn't admit are dropped."""
        rejected = table.filter(pc.is_valid(table.column("error")))
        results = [_as(self._results, rejected.select([*GIVEN, "error", "message"]))]
        good = table.filter(pc.is_null(table.column("error")))
        if self._gate is not None:
            good = self._gate.admit(good)
        if good.num_rows:
            results += self._labelled(good)
        return self._signed(pa.concat_tables(results).combine_chunks())  # the driver pays for each chunk of a column

    def _labelled(self, samples: pa.Table) -> list[pa.Table]:
        """Labels, and rejects for failed rows."""
        if self._known is None:
            return self._work(samples)
        with self._reusing:  # or both threads label what is in both their tables
            repeats = Repeats(samples, self._known)
            results = self._work(repeats.new) if repeats.new.num_rows else []
            copies = repeats.copies(results, self._carried)
        return [*results, pa.Table.from_pylist(copies, schema=self._results)]

    def _work(self, samples: pa.Table) -> list[pa.Table]:
        answers, failures = run_isolated(self._process, samples)
        failed = [_failed(samples.slice(row, 1), failure) for row, failure in failures.items()]
        return [_as(self._results, one) for one in [*answers, *failed]]

    def _signed(self, results: pa.Table) -> pa.Table:
        for name, value in self._common.items():
            index, type = schema.RESULTS.get_field_index(name), schema.RESULTS.field(name).type
            results = results.set_column(index, name, pa.repeat(pa.scalar(value, type), results.num_rows))
        return results


def added_fields(engine: EngineOptions, columns: Sequence[str]) -> tuple[tuple[pa.Field, ...], tuple[pa.Field, ...]]:
    """Label columns besides `schema.LABELS`: carried-over input, and the properties of answers."""
    taken = [*schema.RESULTS.names, schema.DUPLICATE.name]
    carried = carried_fields(columns, taken)
    return carried, fields_of(engine.schema, [*taken, *(field.name for field in carried)])


def results_of(engine: EngineOptions, columns: Sequence[str] = ()) -> pa.Schema:
    """The columns of `schema.RESULTS`, and `added_fields`."""
    carried, fields = added_fields(engine, columns)
    return pa.schema([*schema.RESULTS, schema.DUPLICATE, *carried, *fields])


def _as(results: pa.Schema, table: pa.Table) -> pa.Table:
    """`table` with all columns of `results`; missing ones are null."""
    if table.schema.equals(results):
        return table
    there = {*table.column_names}
    columns = [
        table.column(field.name).cast(field.type) if field.name in there else pa.nulls(table.num_rows, field.type)
        for field in results
    ]
    return pa.Table.from_arrays(columns, schema=results)


def _failed(row: pa.Table, failure: Failure) -> pa.Table:
    """The reject of a row that could not be labelled."""
    errors = {None: "worker_died", DeviceMemoryError.__name__: "out_of_memory"}
    reject = Reject(errors.get(failure.type, "label_failed"), failure.message)
    [values] = row.select(GIVEN).to_pylist()
    return pa.Table.from_pylist([values | {"error": reject.error, "message": reject.message}], schema=schema.RESULTS)


def _actor() -> str | None:
    """This actor's id in Ray; None outside of Ray."""
    import ray  # here: the child process doesn't need Ray

    return ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None


class Labelling(Handler):
    """The work in the child process: the engine, and the columns of its labels."""

    def __init__(self, options: WorkerOptions) -> None:
        import torch

        from adafv.engine import Engine
        from adafv.hardware import instance_type, keep_freed_memory

        torch.set_num_threads(options.threads)
        keep_freed_memory()
        times = [time.perf_counter()]
        engine = resolve_text_tower(options.engine, options.storage)
        path = resolve_model(options.path, options.storage)
        times.append(time.perf_counter())
        self._engine = Engine.load(path, engine)
        times.append(time.perf_counter())
        self._engine.try_out()
        times.append(time.perf_counter())
        device, instance = self._engine.device_name, instance_type()
        self._price = options.tariff.of(device, instance)
        carried, self._fields = added_fields(options.engine, options.carried)
        self._carried = [field.name for field in carried]
        self._results = results_of(options.engine, options.carried)
        self._common = {
            "model": options.model,
            "strategy": options.engine.strategy,
            "worker_device": device,
            "worker_instance": instance,
            "worker_attention": self._engine.attention_name,
            **{f"worker_{step}_s": b - a for step, a, b in zip(schema.STARTING, times, times[1:], strict=False)},
        }

    def __call__(self, table: pa.Table, on_progress: Callable[[], None]) -> pa.Table:
        samples = samples_of(table)
        start = time.perf_counter()
        labels = self._label(samples, on_progress)
        held = shared(time.perf_counter() - start, labels)
        common = self._common | {"labelled_at": datetime.now(UTC)}
        given = table.select(GIVEN).to_pylist()
        own = (table.column(NAMES).to_pylist(), table.column("carried").to_pylist())
        results = []
        for row, sample, label, seconds, shown, texts in zip(given, samples, labels, held, *own, strict=True):
            images = [
                named | {"key": image.key, "scale": image.scale, "height": image.whole[0], "width": image.whole[1]}
                for named, image in zip(shown, sample.images, strict=True)
            ]
            carried = dict(zip(self._carried, texts, strict=True))
            properties = {} if label.problem else values_of(label.answer, self._fields)
            results.append(row | carried | _outcome(label, images) | properties | self._cost(seconds) | common)
        return pa.Table.from_pylist(results, schema=self._results)

    def _cost(self, seconds: float) -> dict[str, float | None]:
        usd = None if self._price is None else seconds * self._price / 3600
        return {"gpu_seconds": seconds, "cost_usd": usd}

    def is_spent(self, error: BaseException) -> bool:
        from adafv.engine import breaks_device

        return breaks_device(error)

    def _label(self, samples: list[Sample], on_progress: Callable[[], None]) -> list[Label]:
        from adafv.engine import is_out_of_memory

        try:
            return self._engine.label(samples, on_progress)
        except Exception as error:
            if is_out_of_memory(error):
                raise DeviceMemoryError(str(error)) from error
            raise


def shared(seconds: float, labels: Sequence[Label]) -> list[float]:
    """The seconds that a batch held the worker, shared among its rows: each pays its own second look, and an equal
    part of the rest."""
    own = [sum(getattr(label, f"{stage}_ms") for stage in ENGINE_STAGES) / 1000 for label in labels]
    rest = (seconds - sum(own)) / len(labels)
    return [one + rest for one in own]


def _outcome(label: Label, images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The label's columns, or a reject's if there is no answer."""
    if not label.problem:
        return columns_of(label, images)
    reject = Reject(label.error, label.problem)
    return {"error": reject.error, "message": reject.message}


def columns_of(label: Label, images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The label's own output columns; `images` are the columns that only the row knows."""
    columns = {name: getattr(label, name) for name in schema.LABELS.names if hasattr(label, name)}
    grid = [{name: getattr(panel, name) for name in schema.GRID.value_type.names} for panel in label.grid]
    shown = [image | asdict(part) for image, part in zip(images, label.parts, strict=True)]
    samples = None if label.samples is None else [asdict(one) for one in label.samples]
    scales = [image["scale"] for image in images]
    return columns | {"grid": grid, "images": shown, "samples": samples, "image_scales": scales}
