"""What a job's options name, found once, before anything is labelled: the input, the output, and who does the work."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import ray

from adafv.engine.options import EngineOptions
from adafv.pipeline.control.resources import Resources, allot
from adafv.pipeline.control.session import RaySession, is_ours_alone
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.record.prices import Tariff, read_prices
from adafv.pipeline.sources.discovery import open_source
from adafv.pipeline.sources.formats import Unit
from adafv.pipeline.sources.records import Columns
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.store.storage import Storage
from adafv.pipeline.workers.hub import commit_of, is_hub_id

LOG = logging.getLogger("adafv")


@dataclass(frozen=True, kw_only=True)
class Setup:
    """A job's options and what they name.

    Attributes:
        units: the input's, in order; `columns`: which of a record's columns mean what.
        engine: its options, for the device that the cluster has.
        tariff: what a worker costs.
    """

    options: JobOptions
    storage: Storage
    output: Output
    columns: Columns
    units: tuple[Unit, ...]
    engine: EngineOptions
    resources: Resources
    tariff: Tariff


@contextlib.contextmanager
def set_up(options: JobOptions) -> Iterator[Setup]:
    """The setup of a job, and Ray for as long as it is in use. What can be found without Ray is found before that is
    started.

    Raises:
        UsageError: the options name what isn't there, or can't be carried out here.
        RunError: the store or the cluster fails.
    """
    storage = Storage.from_environment(options.s3_endpoint)
    output, columns = open_output(options.output, storage), Columns.of(options)
    units = tuple(_units(options, storage, columns))
    prices = tuple(read_prices(Path(options.prices), options.price_kind)) if options.prices else ()
    with RaySession():
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        resources = allot(options, nodes, may_grow=not is_ours_alone())
        yield Setup(
            options=options,
            storage=storage,
            output=output,
            columns=columns,
            units=units,
            engine=options.engine_on(resources.device),
            resources=resources,
            tariff=Tariff(options.price_per_hour, prices, max(1, int(resources.worker_gpus))),
        )


def with_commit(options: JobOptions) -> JobOptions:
    """`options` with the commit of the hub's model as their revision.

    Raises:
        UsageError: there is no such model or revision, or the model is none of the hub's and has a revision.
    """
    if not is_hub_id(options.model):
        if options.revision is not None:
            raise UsageError(f"--revision is {options.revision!r}, and --model {options.model} is no hub id")
        return options
    try:
        return replace(options, revision=commit_of(options.model, options.revision))
    except OSError as error:
        raise store_error(f"--model {options.model} can't be loaded", error) from error


def _units(options: JobOptions, storage: Storage, columns: Columns) -> Iterator[Unit]:
    for uri in options.input:
        source = open_source(uri, storage, columns)
        if source.ignored:
            LOG.info("%s: %d files are of no known kind and were passed over", uri, source.ignored)
        yield from source.units
