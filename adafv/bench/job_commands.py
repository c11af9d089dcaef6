"""The benchmarks of a job and of what it writes, as commands: what each may be told, and what it prints."""

from __future__ import annotations

import argparse
from dataclasses import asdict

from adafv.bench.arguments import Figures, add_job_options, job_options, positive

PIPELINE = ("model", "strategy", "keep", "max_new_tokens", "workers", "batch_size", "device", "dtype")


def add_ledger(parser: argparse.ArgumentParser) -> None:
    """memory and time to plan a rerun, by the number of ids"""
    parser.add_argument("--ids", type=int, nargs="+", default=[1_000_000, 10_000_000], help="sizes to measure")
    parser.add_argument(
        "--folder", help="where the data is written and removed again; the system's for temporary files"
    )
    parser.set_defaults(run=_run_ledger)


def _run_ledger(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import ledger

    found = ledger.run(options.ids, options.folder)
    return [asdict(one) for one in found], ledger.table(found)


def add_isolation(parser: argparse.ArgumentParser) -> None:
    """what working in child processes costs"""
    parser.add_argument("--rounds", type=int, default=50, help="how often each way is measured")
    parser.set_defaults(run=_run_isolation)


def _run_isolation(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import isolation

    found = isolation.run(options.rounds)
    return [asdict(one) for one in found], isolation.table(found)


def add_pipeline(parser: argparse.ArgumentParser) -> None:
    """the job's speed beside its engine's alone (--model takes presets too); or its memory over many rows"""
    parser.add_argument("--rows", type=positive, default=4000, metavar="N", help="of the testbed (%(default)s)")
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


def add_plan(parser: argparse.ArgumentParser) -> None:
    """how near a plan comes to what the run then takes (--model takes presets too)"""
    parser.add_argument("--rows", type=positive, default=4000, metavar="N", help="of the testbed (%(default)s)")
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
    parser.add_argument("--nodes", type=positive, default=2, metavar="N", help="with GPUs (%(default)s)")
    parser.add_argument("--workers", type=positive, default=8, metavar="N", help="on all of them (%(default)s)")
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
    parser.add_argument(
        "--folder", help="where the data is written and removed again; the system's for temporary files"
    )
    parser.set_defaults(run=_run_report)


def _run_report(options: argparse.Namespace) -> tuple[Figures, str]:
    from adafv.bench import report

    found = report.run(options.rows, options.folder)
    return [asdict(one) for one in found], report.table(found)
