"""Opens what a job's options name before anything is labelled: input, output, and Ray's resources."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from adafv.engine.grammar import check_grammar
from adafv.engine.options import EngineOptions
from adafv.pipeline.control.resources import Resources, allot
from adafv.pipeline.control.session import is_ours_alone, ray_session
from adafv.pipeline.errors import JobError, UsageError
from adafv.pipeline.options import JobOptions, as_usage_error
from adafv.pipeline.record.prices import Tariff, read_prices
from adafv.pipeline.sources.discovery import Source, check_roots, open_sources
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.store.hub import pin
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.s3 import S3_ERRORS, store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.uris import is_s3
from adafv.pipeline.workers.hub import commit_of, is_hub_id
from adafv.pipeline.workers.model import at_version

TRIAL = ".tmp/trial"  # a file written to test the output
PATIENCE = 15.0  # seconds to retry that


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A job's options and what they name.

    Attributes:
        source: the input's units, in order; `columns`: what a record's columns mean.
        engine: the engine's options for the cluster's device.
        tariff: what a worker costs.
    """

    options: JobOptions
    storage: Storage
    output: Output
    columns: Columns
    source: Source
    engine: EngineOptions
    resources: Resources
    tariff: Tariff


@contextlib.contextmanager
def set_up(options: JobOptions, writing: bool = False) -> Iterator[Setup]:
    """A job's setup, with Ray running while it is in use. Checks that don't need Ray come before Ray starts.

    Args:
        writing: whether to check that the output can be written.

    Raises:
        UsageError: something the options name isn't there, or the options can't be carried out here.
        RunError: the store or the cluster fails.
    """
    storage = Storage.from_environment(options.s3_endpoint)
    _check_models(options, storage)
    with as_usage_error():
        check_grammar(options.engine)
    output, columns = open_output(options.output, storage), Columns.of(options)
    check_roots(columns.image_root, options.allow_local, storage)
    source = open_sources(options.input, storage, columns, output.uri)
    prices = tuple(read_prices(Path(options.prices), options.price_kind)) if options.prices else ()
    if writing:
        _check_writable(output)
    with ray_session():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = allot(options, nodes, may_grow=not is_ours_alone())
        yield Setup(
            options=options,
            storage=storage,
            output=output,
            columns=columns,
            source=source,
            engine=options.engine_on(resources.device),
            resources=resources,
            tariff=Tariff(options.price_per_hour, prices, max(1, int(resources.worker_gpus))),
        )


def with_commit(options: JobOptions) -> JobOptions:
    """`options` with Hub models and data sets pinned to their current commits.

    Raises:
        UsageError: there is no such model, revision or data set, or a model that isn't on the Hub has a revision.
        RunError: the Hub can't be reached for a data set.
    """
    options = replace(options, input=pin(options.input))
    if not is_hub_id(options.model):
        if options.revision is not None:
            raise UsageError(f"--revision is {options.revision!r}, but --model {options.model} isn't a hub id")
        return options
    try:
        return replace(options, revision=commit_of(options.model, options.revision))
    except OSError as error:
        raise store_error(f"--model {options.model} can't be loaded", error) from error


def _check_models(options: JobOptions, storage: Storage) -> None:
    """Raise UsageError if a local model folder is missing. Stores and the Hub are asked later."""
    for option, name in (("model", options.model), ("text-tower", options.engine.text_tower)):
        if name is not None and not is_s3(name) and not is_hub_id(name):
            try:
                at_version(name, storage)
            except OSError as error:
                raise UsageError(f"--{option} {name} can't be loaded: {error}") from error


def _check_writable(output: Output) -> None:
    """Write and delete a file, so that a read-only output fails before Ray and the model are loaded."""
    try:
        output.put(TRIAL, b"", PATIENCE)
    except (*S3_ERRORS, OSError) as error:
        raise unwritable(output, error) from error
    with contextlib.suppress(*S3_ERRORS, OSError):  # a writer need not be allowed to delete
        output.delete(TRIAL)


def unwritable(output: Output, error: Exception) -> JobError:
    """The error for an output that can't be written at the start."""
    return store_error(f"--output {output.uri} can't be written", error)
