"""Write labels in another tool's format.

    adafv export out/ --format jsonl --to labels.jsonl
    adafv export s3://bucket/captions --format coco-captions --image-root s3://bucket/images --to captions.json
    adafv export out/ --format llava --image-root photos/ --to train.json
    adafv export out/ --format label-studio --image-root photos/ --to review.json
    adafv export out/ --format coco-detections --image-root photos/ --to boxes.json
    adafv export out/ --format txt --to photos/
    adafv export out/ --format webdataset --to captioned
    adafv export out/ --format hub --to OWNER/NAME

Streams the labels and doesn't change the output.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from adafv.commands import DONE, price
from adafv.commands.failure import FAILURES, failed
from adafv.exporting.captions import EXISTING, Texts
from adafv.exporting.detections import CONVENTIONS
from adafv.exporting.export import FORMATS, export
from adafv.exporting.formats import Exported, Labels
from adafv.exporting.hub import push
from adafv.exporting.images import Images
from adafv.exporting.shards import SHARD_BYTES, webdataset
from adafv.pipeline.arguments import as_called, new_file
from adafv.pipeline.store.storage import Storage
from adafv.reporting.card import card
from adafv.reporting.report import make_report

FILES = (*FORMATS, "txt", "webdataset")
# The formats of options that aren't for all.
ONLY = {
    "image_root": FILES,
    **dict.fromkeys(("existing", "prefix", "suffix"), ("txt",)),
    "boxes": ("coco-detections",),
    **dict.fromkeys(("shard_bytes", "input"), ("webdataset",)),
    **dict.fromkeys(("public", "price_per_hour"), ("hub",)),
}


def main(arguments: Sequence[str] | None = None, prog: str = "export.py") -> int:
    """Write what is asked for; the exit status."""
    parser = make_parser(prog)
    options = parser.parse_args(arguments)
    for name, formats in ONLY.items():
        if options.format not in formats and getattr(options, name) != parser.get_default(name):
            parser.error(f"--{name.replace('_', '-')} does nothing with --format {options.format}; leave it out")
    try:
        exported = _exported(options, Storage.from_environment(options.s3_endpoint))
    except argparse.ArgumentTypeError as error:
        parser.error(f"argument --to: {error}")
    except FAILURES as error:
        return failed(prog, error)
    print(f"{options.to}: {exported.rows:,} labels")
    if exported.left_out:
        print(f"{exported.left_out:,} labels were left out: {exported.reason}")
    for line in exported.listed:  # ids come from the data
        print("  " + "".join(character if character.isprintable() else " " for character in line))
    return DONE


def _exported(options: argparse.Namespace, storage: Storage) -> Exported:
    if options.format == "hub":
        report = make_report(options.output, options.price_per_hour, storage=storage)
        return push(options.output, options.to, card(report, options.to), storage, private=not options.public)
    if options.format == "txt":
        texts = Texts(_folder(options.to), options.existing, options.prefix, options.suffix)
        return texts.export(Labels(options.output, storage), Images.of(options.image_root or [options.to]))
    if options.format == "webdataset":
        labels, images = Labels(options.output, storage), Images.of(options.image_root)
        return webdataset(labels, images, Path(options.to), options.shard_bytes, options.input)
    return export(options.output, options.format, new_file(options.to), options.image_root, storage, options.boxes)


def _positive(text: str) -> int:
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{text} is less than 1")
    return number


def _folder(text: str) -> Path:
    path = Path(text)
    if path.exists() and not path.is_dir():
        raise argparse.ArgumentTypeError(f"{path} is a file; txt needs a folder")
    return path


def make_parser(prog: str = "export.py") -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog, description=as_called(__doc__, prog), formatter_class=argparse.RawDescriptionHelpFormatter
    )
    given = as_called("the --output of adafv label: a local folder or s3://", prog)
    parser.add_argument("output", metavar="OUTPUT", help=given)
    parser.add_argument("--format", required=True, choices=[*FILES, "hub"], help="format to write")
    parser.add_argument(
        "--to",
        required=True,
        metavar="FILE",
        help="file to write or replace; txt: the images' folder, or another; webdataset: a new folder; hub: OWNER/NAME",
    )
    parser.add_argument(
        "--image-root",
        action="append",
        default=[],
        metavar="URI",
        help="name images relative to this; repeatable; webdataset with --input: the first is also where they are now",
    )
    parser.add_argument(
        "--existing", choices=EXISTING, default="skip", help="txt: what happens to an existing text (default: skip)"
    )
    parser.add_argument("--prefix", default="", metavar="TEXT", help="txt: before each caption")
    parser.add_argument("--suffix", default="", metavar="TEXT", help="txt: after each caption")
    parser.add_argument(
        "--boxes", choices=CONVENTIONS, help="coco-detections: how answers give boxes (default: by the model's name)"
    )
    parser.add_argument(
        "--shard-bytes",
        type=_positive,
        default=SHARD_BYTES,
        metavar="N",
        help=f"webdataset: start another tar after this many (default: {SHARD_BYTES})",
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="URI",
        help="webdataset: where the images are now (default: where the run found them); repeatable",
    )
    parser.add_argument("--public", action="store_true", help="hub: make a new data set public")
    parser.add_argument(
        "--price-per-hour",
        type=price,
        metavar="USD",
        help="hub: USD per hour of one worker, for all runs (default: each run's own price)",
    )
    parser.add_argument(
        "--s3-endpoint", metavar="URL", help="URL of an S3-compatible store (default: AWS_ENDPOINT_URL)"
    )
    return parser
