"""Write an output's labels in the format of whoever uses them.

    adafv export out/ --format jsonl --to labels.jsonl
    adafv export s3://bucket/captions --format coco-captions --image-root s3://bucket/images --to captions.json
    adafv export out/ --format llava --image-root photos/ --to train.json
    adafv export out/ --format label-studio --image-root photos/ --to review.json

Labels are streamed, and the output isn't changed. docs/export.md describes the formats.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from adafv.exporting.export import export
from adafv.exporting.formats import FORMATS
from adafv.pipeline.arguments import as_called, new_file
from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.storage import Storage

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None, prog: str = "export.py") -> int:
    """Write the file; the exit status."""
    options = make_parser(prog).parse_args(arguments)
    try:
        storage = Storage.from_environment(options.s3_endpoint)
        exported = export(options.output, options.format, options.to, options.image_root, storage)
    except UsageError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return USAGE
    except OSError as error:
        print(f"{prog}: {error}", file=sys.stderr)
        return FAILED
    print(f"{options.to}: {exported.rows:,} labels")
    if exported.left_out:
        print(f"{exported.left_out:,} labels were left out: {exported.reason}")
    return DONE


def make_parser(prog: str = "export.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=as_called(__doc__, prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = as_called("what adafv label was given as --output: a folder or s3://", prog)
    parser.add_argument("output", metavar="OUTPUT", help=given)
    parser.add_argument("--format", required=True, choices=list(FORMATS))
    parser.add_argument("--to", type=new_file, required=True, metavar="FILE", help="where to write; replaced if there")
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        metavar="URI",
        help="a folder or prefix that images lie under: they are named relative to it; repeatable. For label-studio, "
        "the folder that Label Studio serves",
    )
    parser.add_argument("--s3-endpoint", metavar="URL", help="endpoint of an S3-compatible store (AWS_ENDPOINT_URL)")
    return parser
