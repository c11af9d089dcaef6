"""Print what a labelling job cost, where the time went, and which answers to check.

    adafv report out/ --price-per-hour 1.006
    adafv report out/ --prices cluster/prices.yaml --price-kind spot
    adafv report s3://bucket/labels --json report.json --compare s3://bucket/labels-unpruned

Summarises an output over all its runs, and changes nothing.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from adafv.commands import DONE, price
from adafv.commands.failure import FAILURES, failed
from adafv.pipeline.arguments import as_called, new_file
from adafv.pipeline.options import PRICE_KINDS
from adafv.pipeline.record.prices import read_prices
from adafv.pipeline.store.storage import Storage
from adafv.reporting.compare import compare, comparison_table
from adafv.reporting.report import make_report, summary


def main(arguments: Sequence[str] | None = None, prog: str = "report.py") -> int:
    """Print the report; the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        storage = Storage.from_environment(options.s3_endpoint)
        prices = read_prices(options.prices, options.price_kind) if options.prices else []
        report, *others = (
            make_report(uri, options.price_per_hour, prices, storage)
            for uri in (options.output, options.compare)
            if uri is not None
        )
        report = report.compared_with(others[0]) if others else report
        comparison = compare(report, others[0], storage) if others else None
        print(summary(report))
        if comparison is not None:
            print(f"\n{comparison_table(comparison)}")
        if options.html:
            from adafv.reporting.page import render
            from adafv.reporting.pictures import Access

            access = Access(storage, tuple(options.input or ()), options.image_root, options.allow_http)
            page = render(report, None if options.no_images else access)
            options.html.write_bytes(page.encode("utf-8", "replace"))
        if options.json:
            figures = report.as_json() | ({"compared": comparison.as_json()} if comparison else {})
            options.json.write_text(json.dumps(figures, indent=2) + "\n")
    except FAILURES as error:
        return failed(prog, error)
    return DONE


def make_parser(prog: str = "report.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=as_called(__doc__, prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = as_called("the --output of adafv label: a local folder or s3://", prog)
    parser.add_argument("output", metavar="OUTPUT", help=given)
    parser.add_argument("--html", type=new_file, metavar="FILE", help="write a page with charts and images")
    images = parser.add_argument_group("images on the page")
    images.add_argument("--no-images", action="store_true", help="leave images out")
    images.add_argument("--input", nargs="+", metavar="URI", help="where the input is now, if it moved")
    images.add_argument("--image-root", metavar="URI", help="likewise")
    images.add_argument("--allow-http", action="store_true", help="fetch http(s) images, from public addresses only")
    parser.add_argument("--json", type=new_file, metavar="FILE", help="write all figures")
    parser.add_argument("--compare", metavar="OUTPUT2", help="second output to compare with, row by row")
    paid = parser.add_mutually_exclusive_group()
    paid.add_argument(
        "--price-per-hour",
        type=price,
        metavar="USD",
        help="USD per hour of one worker, for all runs (default: each run's own price)",
    )
    paid.add_argument(
        "--prices",
        type=Path,
        metavar="FILE",
        help="YAML file with prices by machine and GPU, for runs without a price",
    )
    parser.add_argument(
        "--price-kind",
        choices=PRICE_KINDS,
        default=PRICE_KINDS[0],
        help="prices to take from --prices (default: %(default)s)",
    )
    parser.add_argument(
        "--s3-endpoint", metavar="URL", help="URL of an S3-compatible store (default: AWS_ENDPOINT_URL)"
    )
    return parser
