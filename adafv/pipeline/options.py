"""All options of a job: one frozen dataclass, in which the engine's are nested.

The command line (`arguments`), the configuration file (`config`), the recipe and the run's record follow from the
fields. The checks of values are in `__post_init__`; those of the engine's options are the engine's own.
"""

from __future__ import annotations

import math
import re
import string
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from typing import Any

from adafv.engine.options import EngineOptions
from adafv.option import OptionError, option, require, require_one_of, text_of_file, texts_of, weighted_texts
from adafv.pipeline.errors import UsageError
from adafv.pipeline.uris import split_s3
from adafv.pipeline.where import columns_where

PRICE_KINDS = ("on-demand", "spot")
GROUPS = ("data", "model", "hardware", "ending", "access")  # of --help


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What to label, with what, and where to. Names are those of the command line, with underscores.

    `JobOptions(input=["photos/"], output="out/", engine=EngineOptions(keep=0.25))` is the same as
    `JobOptions.of(input=["photos/"], output="out/", keep=0.25)`.

    Raises UsageError for a wrong value.
    """

    input: tuple[str, ...] = option(
        "data",
        "Parquet, JSONL, CSV, WebDataset tars, a folder of images, or @FILE with a list; a path, s3://, "
        "hf://datasets/OWNER/NAME or what pyarrow opens, also with wildcards such as '*.tar', '**/*.jpg' or "
        "'{00000..00099}.tar'; repeatable",
        metavar="URI",
    )
    output: str = option("data", "where labels/, rejects/ and runs/ go: a local folder or s3://", metavar="URI")
    id_column: str = option(
        "data",
        "column with the row's id; @row where there is none: the file and the row's number, data/train.parquet#17",
        "id",
        metavar="NAME",
    )
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
    choices_column: str | None = option(
        "data", "column with a list of texts, of which the row's answer is one: --choices by row", None, metavar="NAME"
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
        "word.', or a fixed text such as 'Describe the image.'; or @FILE with it",
        "{question}",
        metavar="TEXT",
    )
    prompts: tuple[tuple[str, float], ...] | None = option(
        "data",
        "instead: a YAML file with several templates, each with its weight; each row draws one by its id",
        None,
        metavar="FILE.yaml",
    )
    system: str | None = option("data", "a system turn before each prompt, or @FILE with one", None, metavar="TEXT")
    where: str | None = option(
        "data",
        "label only the rows for which this holds, such as \"width >= 512 and license in ['cc0', 'cc-by']\"",
        None,
        metavar="EXPRESSION",
    )
    columns: tuple[str, ...] | None = option(
        "data", "columns of the input that labels have, too, as texts: a,b", None, metavar="A,B,...", several=True
    )
    duplicates: str = option(
        "data",
        "label, or reuse: a row with the pictures and the prompt of one that its worker has just labelled gets that "
        "one's label, at no cost",
        "label",
        metavar="HOW",
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
    max_reject_rate: float | None = option(
        "data",
        "exit with status 3 when more than this fraction of the run's rows is rejected (default: when all are and none "
        "was done before; 1 never does)",
        None,
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
    engine: EngineOptions = field(default_factory=EngineOptions)

    batch_size: int | None = option(
        "hardware",
        "rows per batch; halved where memory is short (default: 64 on a GPU, 16 on a CPU)",
        None,
        type=int,
        metavar="N",
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
    min_agreement: float | None = option(
        "ending",
        "warn when the rows of --audit agree less than that with the unpruned answers",
        None,
        type=float,
        metavar="X",
    )
    audit_fails: bool = option("ending", "exit with status 3 then", False, type=bool)
    on_finish: str | None = option(
        "ending",
        "what is given the run's record, as JSON, when it has ended in any way: an http(s) URL, by POST, or a command, "
        "on its standard input and in the file that ADAFV_RUN_FILE names",
        None,
        metavar="COMMAND|URL",
    )

    allow_http: bool = option("access", "fetch http(s) images, from public addresses only", False, type=bool)
    allow_local: str | None = option(
        "access",
        "also open local images in this folder, outside of --image-root: targets of links, such as the blobs/ of a "
        "Hugging Face cache, and paths with '..'",
        None,
        metavar="FOLDER",
    )
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
        try:
            object.__setattr__(self, "prompt", text_of_file("prompt", self.prompt))
            if self.system is not None:
                object.__setattr__(self, "system", text_of_file("system", self.system))
            if self.columns is not None:
                object.__setattr__(self, "columns", texts_of("columns", self.columns))
            if self.prompts is not None:
                object.__setattr__(self, "prompts", weighted_texts("prompts", self.prompts))
            self._check()
        except OptionError as error:
            raise usage_error(error) from None
        object.__setattr__(self, "input", tuple(self.input))

    @classmethod
    def of(cls, **values: Any) -> JobOptions:
        """By the names that options have on a command line, the engine's among them.

        Raises:
            UsageError: a value is wrong.
            TypeError: there is no such option, or `input` or `output` is missing.
        """
        engine = {name: values.pop(name) for name in engine_names() & values.keys()}
        return cls(engine=_engine(EngineOptions(), engine), **values)

    def changed(self, **values: Any) -> JobOptions:
        """With other values, given as for `of`. Raises UsageError and TypeError likewise."""
        engine = {name: values.pop(name) for name in engine_names() & values.keys()}
        return replace(self, engine=_engine(self.engine, engine), **values)

    def values(self) -> dict[str, Any]:
        """All options by name, the engine's among them."""
        names = engine_names()
        return {name: getattr(self.engine if name in names else self, name) for name in option_fields()}

    def engine_on(self, device: str) -> EngineOptions:
        """The engine's options for the device that the cluster has decided on, `cpu` or `cuda`.

        Raises UsageError where they can't be had on it.
        """
        return _engine(self.engine, {"device": device})

    def _check(self) -> None:
        one = isinstance(self.input, str)
        require(not one and len(self.input) > 0, "input", self.input, "a list of paths or URIs, at least one")
        for name in ("limit", "sample", "sample_adjacent", "batch_size", "max_image_bytes", "max_image_pixels"):
            value = getattr(self, name)
            require(value is None or value >= 1, name, value, "at least 1")
        for name in ("batch_timeout", "image_timeout"):
            require(getattr(self, name) > 0, name, getattr(self, name), "above 0")
        rate = self.max_reject_rate
        require(rate is None or 0 <= rate <= 1, "max_reject_rate", rate, "a fraction from 0 to 1")
        require(
            self.price_per_hour is None or self.price_per_hour >= 0, "price_per_hour", self.price_per_hour, "0 or above"
        )
        require(
            self.prices is None or self.price_per_hour is None, "prices", self.prices, "left out with --price-per-hour"
        )
        require_one_of("duplicates", self.duplicates, ("label", "reuse"))
        require(self.price_kind in PRICE_KINDS, "price_kind", self.price_kind, " or ".join(PRICE_KINDS))
        least = self.min_agreement
        require(least is None or 0 < least < 1, "min_agreement", least, "above 0 and below 1")
        require(least is None or self.engine.audit > 0, "min_agreement", least, "left out without --audit")
        fails = not self.audit_fails or least is not None
        require(fails, "audit_fails", self.audit_fails, "left out without --min-agreement")
        threshold = self.engine.escalate_below
        require(threshold is None or math.isfinite(threshold), "escalate_below", threshold, "a log-probability")
        for name in ("max_cost", "max_hours"):
            value = getattr(self, name)
            require(value is None or 0 < value < math.inf, name, value, "above 0")
        if self.max_cost is not None and not self.price_per_hour and not self.prices:
            raise UsageError(
                "--max-cost needs --price-per-hour, above 0, or --prices: what a worker costs isn't known without"
            )
        require(self.on_finish is None or bool(self.on_finish.strip()), "on_finish", "", "a command or an http(s) URL")
        require(self.engine.device in ("auto", "cuda", "cpu"), "device", self.engine.device, "auto, cuda or cpu")
        require(
            self.run_id is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.run_id) is not None,
            "run_id",
            self.run_id,
            "up to 100 letters, digits, '.', '_' and '-', the first a letter or digit",
        )
        for uri in (*self.input, self.output, self.image_root or "", self.model, self.engine.text_tower or ""):
            if uri.startswith("s3://"):
                split_s3(uri)
        self.worker_range()
        if self.choices_column is not None:
            name, column = "choices_column", self.choices_column
            require(self.engine.choices is None, name, column, "left out with --choices")
            try:  # what doesn't go with choices, whoever gives them
                replace(self.engine, choices=("a", "b"))
            except OptionError as error:
                raise OptionError(error.name, error.value, error.demand.replace("choices", name)) from None
        try:
            columns_where(self.where)
        except ValueError as error:
            raise OptionError("where", self.where, str(error)) from None
        require(self.system is None or bool(self.system.strip()), "system", self.system, "a text")
        alone = self.prompts is None or self.prompt == JobOptions.__dataclass_fields__["prompt"].default
        require(alone, "prompts", self.prompts, "left out with --prompt")
        for template in self.templates:
            said = template.replace("<image>", "").strip()
            require(bool(said), "prompt", template, "what to ask, such as 'Describe the image.'")
            asked = self.question_column in columns_of(template)
            demand = f"a template that names {{{self.question_column}}}, for which each turn of a conversation stands"
            require(self.conversations_column is None or asked, "prompt", template, demand)

    @property
    def chooses(self) -> bool:
        """Whether answers are out of given choices."""
        return self.choices_column is not None or self.engine.choices is not None

    def worker_range(self) -> tuple[int, int] | None:
        """(MIN, MAX) of `--workers`, or None where the hardware decides."""
        if self.workers is None:
            return None
        match = re.fullmatch(r"(\d+)(?::(\d+))?", self.workers)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        require(1 <= low <= high, "workers", self.workers, "N or MIN:MAX with 1 <= MIN <= MAX")
        return low, high

    def agreement_measure(self) -> str:
        """How two answers are compared, unless a user says: captions by their words."""
        return "normalised" if self.prompt_columns() else "rouge-l"

    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that `--prompt` or `--prompts` name."""
        return tuple(dict.fromkeys(name for template in self.templates for name in columns_of(template)))

    @property
    def templates(self) -> tuple[str, ...]:
        """What may be asked: `prompt`, or each of `prompts`."""
        return (self.prompt,) if self.prompts is None else tuple(text for text, _ in self.prompts)


@cache
def columns_of(template: str) -> tuple[str, ...]:
    """The columns that a prompt's template names. Only plain names: it must not reach into objects.

    Raises UsageError for others.
    """
    demand = "text with plain {column} names; literal braces are written {{ and }}"
    try:
        parts = list(string.Formatter().parse(template))
    except ValueError as error:
        raise UsageError(f"--prompt is {template!r}; it must be {demand} ({error})") from error
    names = [(name, spec, conversion) for _, name, spec, conversion in parts if name is not None]
    for name, spec, conversion in names:
        plain = name and not re.search(r"[.\[\]]", name) and not name.isdigit() and not spec and not conversion
        if not plain:
            raise UsageError(f"--prompt is {template!r}; it must be {demand}")
    return tuple(dict.fromkeys(name for name, _, _ in names))


@cache
def option_fields() -> dict[str, Field[Any]]:
    """The fields of all options by name, the engine's among them, in the order of `--help`."""
    nested = fields(EngineOptions)
    flat = [one for item in fields(JobOptions) for one in (nested if item.name == "engine" else (item,))]
    names = [item.name for group in GROUPS for item in flat if item.metadata["group"] == group]
    known = {item.name: item for item in flat}
    for name, item in known.items():
        if item.metadata["after"] is not None:
            names.remove(name)
            names.insert(names.index(item.metadata["after"]) + 1, name)
    return {name: known[name] for name in names}


@cache
def engine_names() -> frozenset[str]:
    """The names of those options that are the engine's."""
    return frozenset(item.name for item in fields(EngineOptions))


def flag(name: str) -> str:
    """An option's name as it stands on a command line."""
    return "--" + name.replace("_", "-")


def usage_error(error: OptionError) -> UsageError:
    """What is wrong with an option, as a command says it: without secrets, unlike `error`."""
    return UsageError(f"{flag(error.name)} is {error.shown}; it must be {error.demand}")


def _engine(options: EngineOptions, values: dict[str, Any]) -> EngineOptions:
    try:
        anew = {"positions": None} if "backend" in values else {}  # its default is the backend's
        return replace(options, **anew | values)
    except OptionError as error:
        raise usage_error(error) from None


def budget_name(strategy: str, keep: float, escalate: float | None = None, escalate_below: float | None = None) -> str:
    """What the output of a budget is called that stands beside those of others, as after a calibration."""
    if strategy == "none":
        return strategy
    second = [] if escalate is None else [f"then-{escalate:g}-below{escalate_below:g}"]
    return "-".join([strategy, f"{keep:g}", *second])
