"""All options of a job: one frozen dataclass, from which the command line and the configuration file follow.

A field's metadata is its line of `--help`. A YAML file given with `--config` uses the same names; it is turned into
arguments that stand before those of the command line, so that it goes through the same checks and the command line
wins. The checks of values are in `__post_init__`; those of the engine's options are the engine's own.
"""

from __future__ import annotations

import argparse
import math
import re
import string
from collections.abc import Collection, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, dataclass, field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from adafv.pipeline.errors import UsageError
from adafv.pipeline.hook import public_hook
from adafv.pipeline.prices import KINDS
from adafv.pipeline.rejects import redact
from adafv.pipeline.storage import split_s3

if TYPE_CHECKING:
    from adafv.engine import EngineOptions

ENGINE = (
    "strategy", "keep", "keep_tokens", "max_new_tokens", "text_scope", "text_tower", "newlines", "temperature", "top_p",
    "seed", "quantize", "backend",
)  # fmt: skip


def option(group: str, help: str, default: Any = MISSING, *, type: Any = str, metavar: str | None = None) -> Any:
    metadata = {"group": group, "help": help, "type": type, "metavar": metavar}
    return field(metadata=metadata) if default is MISSING else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What to label, with what, and where to. Names are those of the command line, with underscores."""

    input: tuple[str, ...] = option(
        "data",
        "Parquet, JSONL, WebDataset tars or a folder of images; a path, s3:// or what pyarrow opens; repeatable",
        metavar="URI",
    )
    output: str = option("data", "where labels/, rejects/ and runs/ go: a local folder or s3://", metavar="URI")
    id_column: str = option("data", "column with the row's id", "id", metavar="NAME")
    image_column: str = option(
        "data",
        "column with the image: bytes, a {bytes, path} struct, or a path or URI; or a list of these",
        "image",
        metavar="NAME",
    )
    question_column: str = option("data", "column with the question, or a list of them", "question", metavar="NAME")
    conversations_column: str | None = option(
        "data",
        "column with a conversation in LLaVA's format, each turn of which is asked (docs/input.md)",
        None,
        metavar="NAME",
    )
    image_root: str | None = option(
        "data",
        "what relative image paths are relative to, and what local paths must stay "
        "in (default: the folder of the input file)",
        None,
        metavar="URI",
    )
    prompt: str = option(
        "data",
        "what to ask: a template over the row's columns, e.g. '{question} Answer in one "
        "word.', or a fixed text such as 'Describe the image.'",
        "{question}",
        metavar="TEXT",
    )
    limit: int | None = option("data", "consider only the first N rows of the input", None, type=int, metavar="N")
    sample: int | None = option(
        "data",
        "label only N rows of the input, drawn at random by their ids: the same ones every time",
        None,
        type=int,
        metavar="N",
    )
    sample_adjacent: int = option(
        "data",
        "of the sample, how many rows are drawn together that stand together in the input, as questions about one "
        "picture do, so that it takes what all rows take; 1 draws each by itself",
        32,
        type=int,
        metavar="N",
    )
    retry_rejects: bool = option(
        "data",
        "label again all rows that were rejected before, not only those whose error may have passed",
        False,
        type=bool,
    )
    max_reject_rate: float = option(
        "data",
        "exit with status 3 when more than this fraction of the run's rows is rejected",
        1.0,
        type=float,
        metavar="X",
    )
    allow_mixed: bool = option(
        "data",
        "add labels to an output whose labels were made by another model, strategy, budget or prompt",
        False,
        type=bool,
    )
    run_id: str | None = option("data", "name of the run (default: the time and a random suffix)", None, metavar="ID")

    model: str = option(
        "model", "hub id, local folder, s3:// prefix, or the small embedded 'testbed' or 'testbed-emerged'", "testbed"
    )
    revision: str | None = option(
        "model",
        "branch, tag or commit of a hub id; the run keeps to the commit that it is at the start (default: the hub's)",
        None,
        metavar="NAME",
    )
    strategy: str = option("model", "how visual tokens are selected; 'none' keeps all", "adafv-plus", metavar="NAME")
    keep: float = option("model", "fraction of the visual tokens to keep", 0.1, type=float, metavar="X")
    keep_tokens: int | None = option(
        "model", "number of visual tokens to keep, instead of --keep", None, type=int, metavar="K"
    )
    max_new_tokens: int = option("model", "longest answer, in tokens", 64, type=int, metavar="N")
    text_scope: str = option("model", "which text guides the selection: question or prompt", "question", metavar="NAME")
    text_tower: str | None = option(
        "model",
        "the CLIP model that the model's vision tower comes from, named like --model: cdpruner and eadp then "
        "take their relevance from its text tower",
        None,
        metavar="PATH",
    )
    newlines: str = option(
        "model",
        "newline embeddings of any-resolution models: drop, or keep those of rows that keep a token (rows)",
        "drop",
        metavar="NAME",
    )
    temperature: float = option("model", "0 answers greedily; above, tokens are sampled", 0.0, type=float, metavar="T")
    top_p: float = option(
        "model", "sample from the most likely tokens that make up this share", 1.0, type=float, metavar="P"
    )
    seed: int = option("model", "seed of sampling", 0, type=int, metavar="N")
    quantize: str | None = option(
        "model",
        "the language model's weights in fewer bits: int8, or on a GPU int4 (adafv[quantize])",
        None,
        metavar="NAME",
    )
    backend: str = option(
        "model",
        "what the language model runs on: transformers, or vllm where that is installed (adafv[vllm])",
        "transformers",
        metavar="NAME",
    )

    batch_size: int | None = option(
        "hardware", "rows per batch (default: 32 on a GPU, 16 on a CPU)", None, type=int, metavar="N"
    )
    device: str = option(
        "hardware", "auto (GPUs where the cluster has any now), cuda (waits for them) or cpu", "auto", metavar="NAME"
    )
    dtype: str = option(
        "hardware", "auto (bfloat16 on a GPU, float32 on a CPU), float32, bfloat16 or float16", "auto", metavar="NAME"
    )
    workers: str | None = option(
        "hardware",
        "how many workers: N, or MIN:MAX as there is work for (default: one on each GPU, also those that come later; "
        "on CPUs one)",
        None,
        metavar="MIN:MAX",
    )
    batch_timeout: float = option(
        "hardware",
        "a batch that neither encodes an image nor generates a token for so long has hung",
        600.0,
        type=float,
        metavar="SECONDS",
    )
    tensor_parallel: int = option(
        "hardware",
        "GPUs of each worker, for a language model that doesn't fit one: it is spread over them; with --backend vllm",
        1,
        type=int,
        metavar="N",
    )
    price_per_hour: float | None = option(
        "hardware", "USD per hour of one GPU (or of one CPU worker)", None, type=float, metavar="USD"
    )
    prices: str | None = option(
        "hardware",
        "instead: YAML with prices by machine and GPU, such as cluster/prices.yaml; each worker costs what it runs on",
        None,
        metavar="FILE",
    )
    price_kind: str = option("hardware", "which of those prices: on-demand or spot", "on-demand", metavar="NAME")

    max_cost: float | None = option(
        "ending",
        "end the run when its workers have cost so much: batches in hand are finished, exit status 4; needs "
        "--price-per-hour or --prices",
        None,
        type=float,
        metavar="USD",
    )
    max_hours: float | None = option(
        "ending", "likewise after so many hours from its start", None, type=float, metavar="H"
    )
    on_finish: str | None = option(
        "ending",
        "what is given the run's record, as JSON, when it has ended in any way: an http(s) URL, by POST, or a command, "
        "on its standard input and in the file that ADAFV_RUN_FILE names",
        None,
        metavar="COMMAND|URL",
    )

    allow_http: bool = option("access", "fetch http(s) images, from public addresses only", False, type=bool)
    max_image_bytes: int = option(
        "access", "reject images with more bytes, and rows whose images have", 64 * 2**20, type=int, metavar="N"
    )
    max_image_pixels: int = option(
        "access",
        "reject images with more pixels, before they are decoded, and rows whose images have",
        178_956_970,
        type=int,
        metavar="N",
    )
    image_timeout: float = option(
        "access",
        "reject an image that takes longer to decode and cut into crops",
        60.0,
        type=float,
        metavar="SECONDS",
    )
    s3_endpoint: str | None = option(
        "access",
        "endpoint of an S3-compatible store (default: AWS_ENDPOINT_URL); keys and "
        "region come from the AWS environment variables",
        None,
        metavar="URL",
    )

    def __post_init__(self) -> None:
        _require(len(self.input) > 0, "input", "()", "at least one path or URI")
        for name in ("limit", "sample", "sample_adjacent", "batch_size", "max_image_bytes", "max_image_pixels"):
            value = getattr(self, name)
            _require(value is None or value >= 1, name, value, "at least 1")
        for name in ("batch_timeout", "image_timeout"):
            _require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        _require(0 <= self.max_reject_rate <= 1, "max_reject_rate", self.max_reject_rate, "a fraction from 0 to 1")
        _require(
            self.price_per_hour is None or self.price_per_hour >= 0, "price_per_hour", self.price_per_hour, "0 or above"
        )
        _require(
            self.prices is None or self.price_per_hour is None, "prices", self.prices, "left out with --price-per-hour"
        )
        _require(self.price_kind in KINDS, "price_kind", self.price_kind, " or ".join(KINDS))
        for name in ("max_cost", "max_hours"):
            value = getattr(self, name)
            _require(value is None or 0 < value < math.inf, name, value, "above 0")
        if self.max_cost is not None and not self.price_per_hour and not self.prices:
            raise UsageError(
                "--max-cost needs --price-per-hour, above 0, or --prices: what a worker costs isn't known without"
            )
        _require(self.on_finish is None or bool(self.on_finish.strip()), "on_finish", "", "a command or an http(s) URL")
        _require(self.device in ("auto", "cuda", "cpu"), "device", self.device, "auto, cuda or cpu")
        _require(
            self.run_id is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.run_id) is not None,
            "run_id",
            self.run_id,
            "up to 100 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
        for uri in (*self.input, self.output, self.image_root or "", self.model, self.text_tower or ""):
            if uri.startswith("s3://"):
                split_s3(uri)
        self.worker_range()
        asked = self.question_column in self.prompt_columns()
        demand = f"a template that names {{{self.question_column}}}, for which each turn of a conversation stands"
        _require(self.conversations_column is None or asked, "prompt", self.prompt, demand)
        self.engine_options()

    def worker_range(self) -> tuple[int, int] | None:
        """(MIN, MAX) of `--workers`, or None where the hardware decides."""
        if self.workers is None:
            return None
        match = re.fullmatch(r"(\d+)(?::(\d+))?", self.workers)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        _require(1 <= low <= high, "workers", self.workers, "N or MIN:MAX with 1 <= MIN <= MAX")
        return low, high

    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that `--prompt` names. Only plain names: a template must not reach into objects."""
        demand = "text with plain {column} names; literal braces are written {{ and }}"
        try:
            parts = list(string.Formatter().parse(self.prompt))
        except ValueError as error:
            raise UsageError(f"--prompt is {self.prompt!r}; it must be {demand} ({error})") from error
        names = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
        for name, spec, conversion in names:
            plain = name and not re.search(r"[.\[\]]", name) and not name.isdigit() and not spec and not conversion
            _require(bool(plain), "prompt", self.prompt, demand)
        return tuple(dict.fromkeys(name for name, _, _ in names))

    def engine_options(self, device: str | None = None) -> EngineOptions:
        """The engine's part of the options, for `device` where the cluster has decided it."""
        from adafv.engine import EngineOptions

        values = {name: getattr(self, name) for name in ENGINE}
        try:
            return EngineOptions(
                **values, device=device or self.device, dtype=self.dtype, tensor_parallel=self.tensor_parallel
            )
        except ValueError as error:
            name, _, rest = str(error).partition(" ")
            raise UsageError(f"--{name.replace('_', '-')} {rest}") from error

    def public(self) -> dict[str, Any]:
        """The options as the run's file records them: no secrets, which only URIs could hold."""
        hook = None if self.on_finish is None else public_hook(self.on_finish)
        values = asdict(self) | {"input": [redact(uri) for uri in self.input], "on_finish": hook}
        return {name: redact(value) if isinstance(value, str) else value for name, value in values.items()}


def budget_name(strategy: str, keep: float) -> str:
    """What the output of a budget is called that stands beside those of others, as after a calibration."""
    return strategy if strategy == "none" else f"{strategy}-{keep:g}"


def parse_strategies(text: str) -> list[str]:
    """Names of strategies, comma-separated, in the registry's order; `all` for all of them. `none` is always there."""
    from adafv.pruning import STRATEGIES  # here: it imports torch

    names = list(STRATEGIES) if text == "all" else text.split(",")
    unknown = [name for name in names if name not in STRATEGIES]
    if unknown:
        raise UsageError(
            f"--strategies names {', '.join(map(repr, unknown))}; there are {', '.join(STRATEGIES)}, and 'all'"
        )
    return [name for name in STRATEGIES if name in names and name != "none"]


def parse_keeps(text: str) -> list[float]:
    """Fractions to keep, comma-separated, as they stand, each once."""
    try:
        keeps = [float(part) for part in text.split(",")]
    except ValueError:
        keeps = [0.0]
    if not all(0 < keep <= 1 for keep in keeps):
        raise UsageError(f"--keep is {text!r}; it must be fractions above 0 and at most 1, such as 0.5,0.25,0.1,0.05")
    return list(dict.fromkeys(keeps))


def _require(holds: bool, name: str, value: object, demand: str) -> None:
    if not holds:
        raise UsageError(f"--{name.replace('_', '-')} is {value!r}; it must be {demand}")


def parse_options(arguments: Sequence[str], description: str, epilog: str) -> JobOptions:
    """The options of a command line, with those of its `--config` file underneath.

    Raises UsageError for wrong values; argparse itself exits, with status 2, for arguments that it doesn't know.
    """
    return job_options(parse_arguments(make_parser(description, epilog), arguments))


def parse_arguments(
    parser: argparse.ArgumentParser, arguments: Sequence[str], decided: Collection[str] = ()
) -> dict[str, Any]:
    """The values of a command line by name, with those of its `--config` file underneath.

    Args:
        decided: names of options in the file that count for nothing, since the command decides them.
    """
    known, _ = _config_parser().parse_known_args(arguments)
    under = _config_arguments(Path(known.config), _named(arguments), decided) if known.config else []
    values = vars(parser.parse_args([*under, *arguments]))
    del values["config"]
    if not values["input"] or not values["output"]:
        raise UsageError("--input and --output are needed: on the command line or in the --config file")
    return values


def job_options(values: Mapping[str, Any]) -> JobOptions:
    """The job's part of a command line's values."""
    own = {item.name: values[item.name] for item in fields(JobOptions) if item.name in values}
    return JobOptions(**own | {"input": tuple(own["input"])})


def _config_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--config")
    return parser


def make_parser(description: str, epilog: str, without: Collection[str] = ()) -> argparse.ArgumentParser:
    """A parser of a job's options, but those named in `without`."""
    parser = argparse.ArgumentParser(
        description=description, epilog=epilog, allow_abbrev=False, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config", metavar="FILE.yaml", help="a file with any of these options, by the same names")
    groups = {name: parser.add_argument_group(name) for name in ("data", "model", "hardware", "ending", "access")}
    for item in fields(JobOptions):
        if item.name not in without:
            add_option(groups[item.metadata["group"]], item)
    return parser


def add_option(parser: argparse._ActionsContainer, item: Field[Any], shown: str = "(default: {})") -> None:
    """Add the option of a field of `JobOptions`. `shown`: how its help tells the default."""
    parser.add_argument(flag(item.name), **_argument(item, shown))


def new_file(text: str) -> Path:
    """An option's file, to be written when the work is done: its folder is there, or that would be lost."""
    path = Path(text)
    if path.is_dir() or not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {path.parent}, or {path.name} is one")
    return path


def _argument(item: Field[Any], shown: str) -> dict[str, Any]:
    """What argparse is to know of a field."""
    kind, default = item.metadata["type"], None if item.default is MISSING else item.default
    text = item.metadata["help"].replace("%", "%%")
    if item.name == "input":
        return {"nargs": "+", "action": "extend", "metavar": item.metadata["metavar"], "help": text}
    if kind is bool:
        return {"action": argparse.BooleanOptionalAction, "default": default, "help": text}
    text += "" if default is None or "default" in text else " " + shown.format(default)
    return {"type": kind, "default": default, "metavar": item.metadata["metavar"], "help": text}


def flag(name: str) -> str:
    return "--" + name.replace("_", "-")


def _named(arguments: Sequence[str]) -> set[str]:
    """The names of the options that stand on the command line."""
    flags = {argument.partition("=")[0] for argument in arguments if argument.startswith("--")}
    return {flag.removeprefix("--").replace("-", "_") for flag in flags}


def _config_arguments(path: Path, named: set[str], decided: Collection[str]) -> list[str]:
    """The YAML file as arguments, without what the command line overrides, or the command decides."""
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UsageError(f"--config {path} can't be read: {error}") from error
    if not isinstance(values, dict):
        raise UsageError(f"--config {path} must hold option names and values, such as 'keep: 0.1'")
    known = {item.name: item for item in fields(JobOptions)}
    unknown = [str(name) for name in values if str(name).replace("-", "_") not in known]
    if unknown:
        names = ", ".join(name.replace("_", "-") for name in known)
        raise UsageError(f"--config {path} has unknown options: {', '.join(unknown)}; there are {names}")
    overridden = named | set(decided) | ({"keep", "keep_tokens"} if named & {"keep", "keep_tokens"} else set())
    arguments: list[str] = []
    for name, value in values.items():
        item = known[str(name).replace("-", "_")]
        if item.name not in overridden and value is not None:
            arguments += _config_argument(item, value, path)
    return arguments


def _config_argument(item: Field[Any], value: Any, path: Path) -> list[str]:
    name = flag(item.name)
    if item.metadata["type"] is bool and isinstance(value, bool):
        return [name if value else "--no-" + name.removeprefix("--")]
    if item.name == "input" and isinstance(value, list) and value:
        return [name, *(str(uri) for uri in value)]
    if item.metadata["type"] is bool or isinstance(value, bool | list | dict):
        raise UsageError(f"--config {path}: {item.name.replace('_', '-')} is {value!r}, which is of the wrong type")
    return [f"{name}={value}"]
