"""Write an output's labels in the format of whoever uses them.

    adafv export out/ --format jsonl --to labels.jsonl
    adafv export s3://bucket/captions --format coco-captions --image-root s3://bucket/images --to captions.json
    adafv export out/ --format llava --image-root photos/ --to train.json
    adafv export out/ --format label-studio --image-root photos/ --to review.json
    adafv export out/ --format txt --to photos/
    adafv export out/ --format hub --to OWNER/NAME

Labels are streamed, and the output isn't changed. docs/export.md describes the formats.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from adafv.exporting.captions import EXISTING, Texts
from adafv.exporting.export import FORMATS, export
from adafv.exporting.formats import Exported, Labels
from adafv.exporting.hub import push
from adafv.exporting.images import Images
from adafv.pipeline.arguments import as_called, new_file
from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.storage import Storage
from adafv.reporting.card import card
from adafv.reporting.report import make_report

DONE, FAILED, USAGE = 0, 1, 2


def main(arguments: Sequence[str] | None = None, prog: str = "export.py") -> int:
    """Write what is asked for; the exit status."""
    parser = make_parser(prog)
    options = parser.parse_args(arguments)
    try:
        exported = _exported(options, Storage.from_environment(options.s3_endpoint))
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --to: {error}")
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


def _exported(options: argparse.Namespace, storage: Storage) -> Exported:
    if options.format == "hub":
        report = make_report(options.output, options.price_per_hour, storage=storage)
        return push(options.output, options.to, card(report, options.to), storage, private=not options.public)
    if options.format == "txt":
        texts = Texts(_folder(options.to), options.existing, options.prefix, options.suffix)
        return texts.export(Labels(options.output, storage), Images.of(options.image_root or [options.to]))
    return export(options.output, options.format, new_file(options.to), options.image_root, storage)


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; txt needs a folder")
    return path


def make_parser(prog: str = "export.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=as_called(__doc__, prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = as_called("what adafv label was given as --output: a folder or s3://", prog)
    parser.add_argument("output", metavar="OUTPUT", help=given)
    parser.add_argument("--format", required=True, choices=[*FORMATS, "txt", "hub"])
    parser.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="where to write, replaced if there; of txt the folder of the images, or another to be laid out alike; of "
        "hub the data set, OWNER/NAME",
    )
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        metavar="URI",
        help="a folder or prefix that images lie under: they are named relative to it; repeatable. For label-studio, "
        "the folder that Label Studio serves",
    )
    parser.add_argument(
        "--existing", choices=EXISTING, default="skip", help="txt: what is done where there is a text (default: skip)"
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="txt: before each caption")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="txt: behind each caption")
    parser.add_argument("--public", action="store_true", help="hub: a data set that isn't there yet is public")
    parser.add_argument(
        "--price-per-hour", type=float, metavar="USD", help="hub: what a worker cost, where the runs don't say"
    )
    parser.add_argument("--s3-endpoint", metavar="URL", help="endpoint of an S3-compatible store (AWS_ENDPOINT_URL)")
    return parser
