"""What a job's options name, found once, before anything is labelled: the input, the output, and who does the work."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from adafv.engine.grammar import check_grammar
from adafv.engine.options import EngineOptions
from adafv.option import OptionError
from adafv.pipeline.control.resources import Resources, allot
from adafv.pipeline.control.session import RaySession, is_ours_alone
from adafv.pipeline.errors import JobError, UsageError
from adafv.pipeline.options import JobOptions, usage_error
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

TRIAL = ".tmp/trial"  # a file that is written to see whether one can be
PATIENCE = 15.0  # seconds for which that is tried again


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A job's options and what they name.

    Attributes:
        source: the input's units, in order; `columns`: which of a record's columns mean what.
        engine: its options, for the device that the cluster has.
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
    """The setup of a job, and Ray for as long as it is in use. What can be found without Ray is found before that is
    started.

    Args:
        writing: whether the output will be written to.

    Raises:
        UsageError: the options name what isn't there, or can't be carried out here.
        RunError: the store or the cluster fails.
    """
    storage = Storage.from_environment(options.s3_endpoint)
    _check_models(options, storage)
    _check_grammar(options)
    output, columns = open_output(options.output, storage), Columns.of(options)
    check_roots(columns.image_root, options.allow_local, storage)
    source = open_sources(options.input, storage, columns, output.uri)
    prices = tuple(read_prices(Path(options.prices), options.price_kind)) if options.prices else ()
    if writing:
        _check_writable(output)
    with RaySession():
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
    """`options` with the commit of the hub's model as their revision, and data sets of the Hub at their commits.

    Raises:
        UsageError: there is no such model, revision or data set, or the model is none of the hub's and has a revision.
        RunError: the Hub can't be reached for a data set.
    """
    options = replace(options, input=pin(options.input))
    if not is_hub_id(options.model):
        if options.revision is not None:
            raise UsageError(f"--revision is {options.revision!r}, and --model {options.model} is no hub id")
        return options
    try:
        return replace(options, revision=commit_of(options.model, options.revision))
    except OSError as error:
        raise store_error(f"--model {options.model} can't be loaded", error) from error


def _check_models(options: JobOptions, storage: Storage) -> None:
    """Raise a UsageError where a model should be a folder and isn't there; stores and the hub are asked later."""
    for option, name in (("model", options.model), ("text-tower", options.engine.text_tower)):
        if name is not None and not is_s3(name) and not is_hub_id(name):
            try:
                at_version(name, storage)
            except OSError as error:
                raise UsageError(f"--{option} {name} can't be loaded: {error}") from error


def _check_grammar(options: JobOptions) -> None:
    try:
        check_grammar(options.engine)
    except OptionError as error:
        raise usage_error(error) from error


def _check_writable(output: Output) -> None:
    """Write a file and remove it again, so that nobody waits for Ray and a model first, to learn that it can't be."""
    try:
        output.put(TRIAL, b"", PATIENCE)
    except (*S3_ERRORS, OSError) as error:
        raise unwritable(output, error) from error
    with contextlib.suppress(*S3_ERRORS, OSError):  # who may write need not be allowed to delete
        output.delete(TRIAL)


def unwritable(output: Output, error: Exception) -> JobError:
    """What a job says whose output can't be written when it begins."""
    return store_error(f"--output {output.uri} can't be written", error)
