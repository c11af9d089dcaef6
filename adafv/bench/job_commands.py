"""The benchmarks of a job and of what it writes, as commands: what each may be told, and what it prints."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from importlib import import_module

from adafv.bench.arguments import Figures, add_counts, add_job_options, job_options, positive, share
from adafv.bench.process import by_size
from adafv.pipeline.errors import UsageError

PIPELINE = ("model", "strategy", "keep", "max_new_tokens", "workers", "batch_size", "device", "dtype")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """memory and time to plan a rerun, by the number of ids"""
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes to measure")
    _add_folder(parser, "ids", "ledger")


def _add_folder(parser: argparse.ArgumentParser, sizes: str, module: str) -> None:
    """Of the benchmarks that write and measure data of several sizes."""
    parser.add_argument(
        "--folder", help="where the data is written and removed again; the system's for temporary files"
    )
    parser.set_defaults(run=lambda options: _run_by_size(getattr(options, sizes), options.folder, module))


def _run_by_size(sizes: list[int], folder: str | None, name: str) -> tuple[Figures, str]:
    module = import_module(f"adafv.bench.{name}")
    found = by_size(sizes, folder, module.write_data, module.measure)
    return [asdict(one) for one in found], module.table(found)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """the job's speed beside its engine's alone (--model takes presets too); or its memory over many rows"""
    add_counts(parser, rows=(4000, "of the testbed (%(default)s)"))
    parser.add_argument(
        "--no-engine", action="store_true", help="label with a constant, and report the driver's and the store's memory"
    )
    add_job_options(parser.add_argument_group("job"), PIPELINE)
    parser.set_defaults(run=_run_pipeline)


def _run_pipeline(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import pipeline

    job = job_options(options, ("-",), PIPELINE)
    if options.no_engine:
        rate, found = pipeline.memory(job, options.rows)
        return [{"rows": options.rows, "rows_per_s": rate}, *map(asdict, found)], pipeline.memory_table(rate, found)
    one = pipeline.throughput(job, options.rows)
    return [asdict(one) | {"kept": one.kept}], pipeline.throughput_table([one])


def add_peers(parser: argparse.ArgumentParser) -> None:
    """the same rows by this job and by ray.data.llm with vLLM: samples/s, cost, and what becomes of broken rows"""
    from adafv.bench.shapes import PRESETS

    parser.add_argument("--preset", choices=PRESETS, default="cpu-small", help="shape of the model (%(default)s)")
    add_counts(
        parser,
        small=(8, "rows of the file whose time is taken off (%(default)s)"),
        large=(40, "rows of the other (%(default)s)"),
        max_new_tokens=(16, "of each answer (%(default)s)"),
    )
    parser.add_argument("--keep", type=share, default=0.1, metavar="X", help="keep ratio where it prunes (%(default)s)")
    parser.add_argument("--price-per-hour", type=float, default=1.0, metavar="USD", help="of the machine (%(default)s)")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="(%(default)s)")
    parser.set_defaults(run=_run_peers)


def _run_peers(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import peers
    from adafv.bench.shapes import PRESETS

    if options.small >= options.large:
        raise UsageError(f"--small {options.small} must be below --large {options.large}")
    terms = peers.PeerTerms(
        small=options.small, large=options.large, max_new_tokens=options.max_new_tokens, device=options.device,
        keep=options.keep, usd_per_hour=options.price_per_hour,
    )  # fmt: skip
    return peers.run(PRESETS[options.preset], terms)


def add_plan(parser: argparse.ArgumentParser) -> None:
    """how near a plan comes to what the run then takes (--model takes presets too)"""
    add_counts(parser, rows=(4000, "of the testbed (%(default)s)"))
    parser.add_argument(
        "--samples", type=positive, nargs="+", default=[200, 500], metavar="N",
        help="rows that are labelled first, and that the plan is made by",
    )  # fmt: skip
    add_job_options(parser.add_argument_group("job"), PIPELINE)
    parser.set_defaults(run=_run_plan)


def _run_plan(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import forecast

    found = forecast.compare(job_options(options, ("-",), PIPELINE), options.rows, options.samples)
    return [asdict(one) for one in found], forecast.table(found)


def add_scale(parser: argparse.ArgumentParser) -> None:
    """what bounds a job on many workers: the real pipeline, and simulated engines on a simulated cluster"""
    parser.add_argument("--rows", type=positive, nargs="+", default=[10_000, 50_000], metavar="N", help="%(default)s")
    add_counts(parser, nodes=(2, "with GPUs (%(default)s)"), workers=(8, "on all of them (%(default)s)"))
    parser.add_argument("--rate", type=float, default=75.0, metavar="X", help="samples/s of a worker (%(default)s)")
    parser.add_argument(
        "--slow", type=float, default=0.0, metavar="X", help="share that is 3 times slower (%(default)s)"
    )
    parser.add_argument("--kill-every", type=float, metavar="SECONDS", help="kill a worker so often")
    add_job_options(parser.add_argument_group("job"), ("batch_size",))
    parser.set_defaults(run=_run_scale)


def _run_scale(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import scale

    load = scale.Load(options.nodes, options.workers, options.rate, options.slow, options.kill_every)
    found = scale.run(job_options(options, ("-",), ("batch_size",)), options.rows, load)
    return scale.figures(found), scale.table(found, load)


def add_report(parser: argparse.ArgumentParser) -> None:
    """memory and time of a report and its page, by the number of labels"""
    parser.add_argument("--rows", type=positive, nargs="+", default=[1_000_000], metavar="N", help="sizes to measure")
    _add_folder(parser, "rows", "report")
