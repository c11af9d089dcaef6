"""The GPU stage: an actor that has the model answer one batch after the other.

The model lives in a child process (`isolation`), so that a sample which kills or hangs it is found and costs itself
alone. The child is started at the first row that needs it, and first answers a trial sample: if it can't do that, no
row is to blame, and the run ends. Rejects of earlier stages pass through, so that every row reaches the sink once.
What an answer cost is worked out here: the time that the batch held the worker, shared among its rows.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import socket
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
from adafv.pipeline.isolation import Failure, Handler, Isolated, work
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.rejects import Reject
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.model import resolve_model, resolve_text_tower
from adafv.pipeline.workers.samples import NAMES, samples_of

if TYPE_CHECKING:
    from adafv.engine import EngineOptions, Label, Sample
    from adafv.pipeline.control.gate import Gate

# Columns that a result takes from its row.
KEPT = ["id", "image", "image_uri", "question", "prompt", "carried", "fetch_ms", "preprocess_ms"]
DUPLICATE = pa.field("duplicate_of", pa.string())  # the id of the row whose label another has, too
KNOWN = 2**15  # labels that a worker remembers, of about 2 KB each
ENGINE_STAGES = ("encode", "prune", "prefill", "decode")  # a label's own share of each

FREE = {**{f"{stage}_ms": 0.0 for stage in ENGINE_STAGES}, "batch_size": None, "audit_answer": None}


class DeviceMemoryError(Exception):
    """A sample that doesn't fit the device by itself."""


@dataclass(frozen=True, kw_only=True)
class WorkerOptions:
    """What a worker needs to know.

    Attributes:
        model: as the user named it; `path`: the same, where local with its full path.
        threads: of torch, on a CPU.
        batch_timeout: seconds without progress after which a batch counts as hung.
        handler: makes what does the work, of these options; a test may give one that misbehaves.
        carried: columns of the input that labels have.
        reuses: whether a row that repeats another gets its label.
        gate: closed when no more batches may begin; None where they always may.
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
    reuses: bool = False
    gate: Gate | None = None


class LabelWorker:
    """Labels tables of samples. Two threads may ask at once: what one has to do before and after its turn with the
    model is done while it is at work for the other.
    """

    def __init__(self, options: WorkerOptions) -> None:
        self._process = Isolated(partial(options.handler, replace(options, gate=None)), options.batch_timeout)
        self._gate, self._results = options.gate, results_of(options.engine, options.carried)
        self._common = {
            "run_id": options.run_id,
            "worker": f"{socket.gethostname()}/{os.getpid()}",
            "worker_actor": _actor(),
            "worker_started": time.time(),
        }

    def __call__(self, table: pa.Table) -> pa.Table:
        """Samples and rejects (`samples.SCHEMA`) in, labels and rejects (`schema.RESULTS`) out. Of samples that the
        gate doesn't admit nothing comes out."""
        rejected = table.filter(pc.is_valid(table.column("error")))
        results = [_as(self._results, rejected.select([*KEPT, "error", "message"]))]
        good = table.filter(pc.is_null(table.column("error")))
        if self._gate is not None:
            good = self._gate.admit(good)
        if good.num_rows:
            answers, failures = work(self._process, good)
            results += [_as(self._results, one) for one in answers]
            failed = (_failed(good.slice(row, 1), failure) for row, failure in failures.items())
            results += [_as(self._results, one) for one in failed]
        return self._signed(pa.concat_tables(results).combine_chunks())  # the driver pays for each chunk of a column

    def _signed(self, results: pa.Table) -> pa.Table:
        for name, value in self._common.items():
            index, type = schema.RESULTS.get_field_index(name), schema.RESULTS.field(name).type
            results = results.set_column(index, name, pa.repeat(pa.scalar(value, type), results.num_rows))
        return results


def added_fields(engine: EngineOptions, columns: Sequence[str]) -> tuple[tuple[pa.Field, ...], tuple[pa.Field, ...]]:
    """What labels have besides `schema.LABELS`: the columns of the input, and the properties of answers."""
    taken = [*schema.RESULTS.names, DUPLICATE.name]
    carried = carried_fields(columns, taken)
    return carried, fields_of(engine.schema, [*taken, *(field.name for field in carried)])


def results_of(engine: EngineOptions, columns: Sequence[str] = ()) -> pa.Schema:
    """The columns of `schema.RESULTS`, and `added_fields`."""
    carried, fields = added_fields(engine, columns)
    return pa.schema([*schema.RESULTS, DUPLICATE, *carried, *fields])


def _as(results: pa.Schema, table: pa.Table) -> pa.Table:
    """`table` with all columns of results, those that it lacks null."""
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
    [values] = row.select(KEPT).to_pylist()
    return pa.Table.from_pylist([values | {"error": reject.error, "message": reject.message}], schema=schema.RESULTS)


def _actor() -> str | None:
    """Ray's name of the actor that this is; None outside of Ray."""
    import ray  # here: the child process, which has the model, does without

    return ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None


class Labelling:
    """The work itself, in the child process: the engine, and what it says of each row."""

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
        self._reuses, self._known = options.reuses, dict[str, tuple[str, bytes]]()
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
        answers = self._answers(samples, on_progress)
        common = self._common | {"labelled_at": datetime.now(UTC)}
        given, names = table.select(KEPT).to_pylist(), table.column(NAMES).to_pylist()
        results = []
        for row, sample, (label, seconds, original), shown in zip(given, samples, answers, names, strict=True):
            images = [named | {"key": image.key} for named, image in zip(shown, sample.images, strict=True)]
            carried = dict(zip(self._carried, row["carried"], strict=True))
            properties = {} if label.problem else values_of(label.answer, self._fields)
            again = {} if original is None or label.problem else FREE | {DUPLICATE.name: original, "id": row["id"]}
            results.append(row | carried | _outcome(label, images) | properties | self._cost(seconds) | again | common)
        return pa.Table.from_pylist(results, schema=self._results)

    def _answers(
        self, samples: Sequence[Sample], on_progress: Callable[[], None]
    ) -> list[tuple[Label, float, str | None]]:
        """Each sample's label, the seconds that it took, and the id of another sample where it is that one's label."""
        start = time.perf_counter()
        keys = [_digest(sample) if self._reuses else str(number) for number, sample in enumerate(samples)]
        first = {key: number for number, key in reversed([*enumerate(keys)])}
        new = [number for number, key in enumerate(keys) if first[key] == number and key not in self._known]
        labels = self._label([samples[number] for number in new], on_progress) if new else []
        held = shared(time.perf_counter() - start, labels) if new else []
        found: dict[str, tuple[Label, float, str | None]] = {}
        for number, label, seconds in zip(new, labels, held, strict=True):
            found[keys[number]] = label, seconds, None
        for key in first.keys() - found.keys():
            original, data = self._known.pop(key)
            self._known[key] = original, data  # the last one used is the last one forgotten
            found[key] = pickle.loads(data), 0.0, original
        answers = [
            found[key] if first[key] == number or found[key][2] else (found[key][0], 0.0, samples[first[key]].id)
            for number, key in enumerate(keys)
        ]
        if self._reuses:
            self._known |= {
                keys[number]: (samples[number].id, pickle.dumps(label))
                for number, label in zip(new, labels, strict=True)
                if not label.problem
            }
            for key in [*self._known][: max(0, len(self._known) - KNOWN)]:
                del self._known[key]
        return answers

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


def _digest(sample: Sample) -> str:
    """The same for the same pictures and prompt."""
    said = [sample.input_ids.tobytes(), sample.asked.tobytes(), repr((sample.choices, sample.stratum)).encode()]
    parts = [*(image.key.encode() for image in sample.images), *said]
    return hashlib.blake2b(b"\0".join(b"%d %b" % (len(part), part) for part in parts), digest_size=16).hexdigest()


def shared(seconds: float, labels: Sequence[Label]) -> list[float]:
    """The time that a batch held the worker, shared among its rows: a second look is its own row's, and of the rest
    each has the same.
    """
    own = [sum(getattr(label, f"{stage}_ms") for stage in ENGINE_STAGES) / 1000 for label in labels]
    rest = (seconds - sum(own)) / len(labels)
    return [one + rest for one in own]


def _outcome(label: Label, images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """What came of a row: the label's columns, or a reject's where the model computed no answer."""
    if not label.problem:
        return columns_of(label, images)
    reject = Reject(label.error, label.problem)
    return {"error": reject.error, "message": reject.message}


def columns_of(label: Label, images: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The label's own columns of the output; of its images it is given what only the row knows."""
    columns = {name: getattr(label, name) for name in schema.LABELS.names if hasattr(label, name)}
    grid = [{name: getattr(panel, name) for name in schema.GRID.value_type.names} for panel in label.grid]
    shown = [image | asdict(part) for image, part in zip(images, label.parts, strict=True)]
    samples = None if label.samples is None else [asdict(one) for one in label.samples]
    return columns | {"grid": grid, "images": shown, "samples": samples}
