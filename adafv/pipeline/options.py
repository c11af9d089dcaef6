"""All options of a job: one frozen dataclass with the engine's options nested in it.

The command line, the config file, the recipe and the run's record are derived from these fields.
"""

from __future__ import annotations

import math
import re
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import Field, dataclass, field, fields, replace
from functools import cache
from itertools import compress
from typing import Any

from adafv.engine.options import EngineOptions
from adafv.option import OptionError, option, require, text_of_file, texts_of, weighted_texts
from adafv.pipeline.errors import UsageError
from adafv.pipeline.redaction import clean
from adafv.pipeline.uris import split_s3
from adafv.pipeline.where import columns_where

PRICE_KINDS = ("on-demand", "spot")
GROUPS = ("data", "model", "hardware", "ending", "access")  # of --help


@dataclass(frozen=True, kw_only=True)
class JobOptions:
    """What to label, with what, and where to write it. Names are those of the command line, with underscores.

    `JobOptions(input=["vqa.parquet"], output="out/", engine=EngineOptions(keep=0.25))` is the same as
    `JobOptions.of(input=["vqa.parquet"], output="out/", keep=0.25)`.

    Raises UsageError for a wrong value.
    """

    input: tuple[str, ...] = option(
        "data",
        "images, Parquet, JSON lines, CSV, TSV or WebDataset tars: a folder, a URI, a pattern such as '**/*.jpg', or "
        "@FILE with a list; repeatable",
        metavar="URI",
    )
    output: str = option("data", "folder or s3:// prefix for labels, rejects and run records", metavar="URI")
    id_column: str = option("data", "column with ids; @row makes them from file and row number", "id", metavar="NAME")
    image_column: str = option(
        "data", "column with images: bytes, paths, URIs, or lists of these", "image", metavar="NAME"
    )
    question_column: str = option("data", "column with questions, or lists of them", "question", metavar="NAME")
    conversations_column: str | None = option(
        "data", "column with conversations in LLaVA's format; each human turn is asked", None, metavar="NAME"
    )
    choices_column: str | None = option("data", "column with each row's own choices", None, metavar="NAME")
    image_root: str | None = option(
        "data",
        "base of relative image paths, outside which no local image is opened (default: the input's folder)",
        None,
        metavar="URI",
    )
    prompt: str = option(
        "data",
        "template over the row's columns, a fixed text, or @FILE",
        "{question}",
        metavar="TEXT",
    )
    prompts: tuple[tuple[str, float], ...] | None = option(
        "data", "instead: YAML file of templates with weights", None, metavar="FILE.yaml"
    )
    system: str | None = option("data", "system turn before each prompt, or @FILE", None, metavar="TEXT")
    where: str | None = option(
        "data", 'label only rows for which this is true, such as "width >= 512"', None, metavar="EXPRESSION"
    )
    columns: tuple[str, ...] | None = option(
        "data", "input columns to copy into the labels", None, metavar="A,B,...", several=True
    )
    duplicates: str = option(
        "data", "label, or reuse an earlier label of the same images and prompt", "label", metavar="HOW"
    )
    limit: int | None = option("data", "use only the first N rows", None, type=int, metavar="N")
    sample: int | None = option("data", "label only N rows, drawn by their ids", None, type=int, metavar="N")
    sample_adjacent: int = option("data", "neighbouring rows that a sample draws together", 32, type=int, metavar="N")
    retry_rejects: bool = option("data", "retry all rejects, not only retryable ones", False, type=bool)
    max_reject_rate: float | None = option(
        "data",
        "exit with status 3 above this share of rejects; 1: never (default: only if all are)",
        None,
        type=float,
        metavar="X",
    )
    allow_mixed: bool = option(
        "data", "add to an output made with another model, strategy, budget or prompt", False, type=bool
    )
    run_id: str | None = option("data", "name of the run (default: start time and a random suffix)", None, metavar="ID")

    model: str = option("model", "hub id, folder, s3:// prefix, or embedded: testbed, testbed-emerged", "testbed")
    revision: str | None = option("model", "branch, tag or commit of a hub id", None, metavar="NAME")
    engine: EngineOptions = field(default_factory=EngineOptions)

    batch_size: int | None = option(
        "hardware",
        "rows per batch; halved when memory is short (default: 64 on a GPU, 16 on a CPU)",
        None,
        type=int,
        metavar="N",
    )
    workers: str | None = option(
        "hardware", "N, or MIN:MAX to follow the load (default: one per GPU, one without GPUs)", None, metavar="MIN:MAX"
    )
    batch_timeout: float = option(
        "hardware", "seconds without progress until a batch counts as hung", 600.0, type=float, metavar="SECONDS"
    )
    price_per_hour: float | None = option(
        "hardware", "USD per hour of one GPU, or of one CPU worker", None, type=float, metavar="USD"
    )
    prices: str | None = option("hardware", "instead: YAML file with prices by machine and GPU", None, metavar="FILE")
    price_kind: str = option("hardware", "prices to take from --prices: on-demand or spot", "on-demand", metavar="NAME")

    max_cost: float | None = option(
        "ending",
        "stop with status 4 when workers have cost this many USD; needs a price",
        None,
        type=float,
        metavar="USD",
    )
    max_hours: float | None = option(
        "ending", "stop likewise this many hours after the start", None, type=float, metavar="H"
    )
    min_agreement: float | None = option("ending", "warn if audited rows agree less", None, type=float, metavar="X")
    audit_fails: bool = option("ending", "exit with status 3 below --min-agreement", False, type=bool)
    on_finish: str | None = option(
        "ending", "command or http(s) URL that gets the run's record at its end", None, metavar="COMMAND|URL"
    )

    allow_http: bool = option("access", "fetch http(s) images, from public addresses only", False, type=bool)
    allow_local: str | None = option("access", "also open local images in this folder", None, metavar="FOLDER")
    max_image_bytes: int = option(
        "access", "reject larger images, and rows whose images are larger together", 64 * 2**20, type=int, metavar="N"
    )
    max_image_pixels: int = option("access", "likewise for pixels, before decoding", 178_956_970, type=int, metavar="N")
    image_timeout: float = option(
        "access", "seconds for decoding and preprocessing an image", 60.0, type=float, metavar="SECONDS"
    )
    s3_endpoint: str | None = option(
        "access", "URL of an S3-compatible store (default: AWS_ENDPOINT_URL)", None, metavar="URL"
    )

    def __post_init__(self) -> None:
        with as_usage_error():
            for name in ("prompt", "system"):
                if (given := getattr(self, name)) is not None:
                    text = text_of_file(name, given)
                    # Or a copy of these options, or a calibration's command, would take it for a file's name.
                    require(text == given or text[:1] != "@", name, given, "a file whose text doesn't begin with @")
                    object.__setattr__(self, name, text)
            if self.columns is not None:
                object.__setattr__(self, "columns", texts_of("columns", self.columns))
            if self.prompts is not None:
                object.__setattr__(self, "prompts", weighted_texts("prompts", self.prompts))
            self._check()
        object.__setattr__(self, "input", tuple(self.input))

    @classmethod
    def of(cls, **values: Any) -> JobOptions:
        """From the names that options have on the command line, the engine's included.

        Raises:
            UsageError: a value is wrong.
            TypeError: an option is unknown, or `input` or `output` is missing.
        """
        engine = {name: values.pop(name) for name in engine_names() & values.keys()}
        with as_usage_error():
            return cls(engine=EngineOptions(**engine), **values)

    def changed(self, **values: Any) -> JobOptions:
        """A copy with other values, given and checked as for `of`."""
        engine = {name: values.pop(name) for name in engine_names() & values.keys()}
        if "backend" in engine:
            engine = {"positions": None} | engine  # whose default is the backend's
        with as_usage_error():
            return replace(self, engine=replace(self.engine, **engine), **values)

    def values(self) -> dict[str, Any]:
        """All options by name, the engine's included."""
        names = engine_names()
        return {name: getattr(self.engine if name in names else self, name) for name in option_fields()}

    def engine_on(self, device: str) -> EngineOptions:
        """The engine's options for the cluster's device, `cpu` or `cuda`. Raises UsageError if it can't run them."""
        with as_usage_error():
            return replace(self.engine, device=device)

    def _check(self) -> None:
        def check(name: str, holds: object, demand: str) -> None:
            require(bool(holds), name, getattr(self, name), demand)

        check("input", self.input and not isinstance(self.input, str), "a list of paths or URIs, at least one")
        for name in ("limit", "sample", "sample_adjacent", "batch_size", "max_image_bytes", "max_image_pixels"):
            check(name, (value := getattr(self, name)) is None or value >= 1, "at least 1")
        for name in ("batch_timeout", "image_timeout"):
            check(name, getattr(self, name) > 0, "above 0")
        for name in ("max_cost", "max_hours"):
            check(name, (value := getattr(self, name)) is None or 0 < value < math.inf, "above 0")
        rate, price, least = self.max_reject_rate, self.price_per_hour, self.min_agreement
        check("max_reject_rate", rate is None or 0 <= rate <= 1, "a fraction from 0 to 1")
        check("price_per_hour", price is None or price >= 0, "0 or above")
        check("prices", self.prices is None or price is None, "unset with --price-per-hour")
        check("duplicates", self.duplicates in ("label", "reuse"), "one of label, reuse")
        check("price_kind", self.price_kind in PRICE_KINDS, " or ".join(PRICE_KINDS))
        check("min_agreement", least is None or 0 < least < 1, "above 0 and below 1")
        check("min_agreement", least is None or self.engine.audit > 0, "unset without --audit")
        check("audit_fails", not self.audit_fails or least is not None, "unset without --min-agreement")
        threshold = self.engine.escalate_below
        require(threshold is None or math.isfinite(threshold), "escalate_below", threshold, "a log-probability")
        require(self.engine.device in ("auto", "cuda", "cpu"), "device", self.engine.device, "auto, cuda or cpu")
        if self.max_cost is not None and not price and not self.prices:
            raise UsageError("--max-cost needs --price-per-hour, above 0, or --prices, to know what a worker costs")
        require(self.on_finish is None or bool(self.on_finish.strip()), "on_finish", "", "a command or an http(s) URL")
        letters = "up to 100 letters, digits, '.', '_' and '-', starting with a letter or digit"
        check("run_id", self.run_id is None or re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.run_id), letters)
        places = [(name, getattr(self, name) or "") for name in ("output", "image_root", "allow_local")]
        for name, uri in [*(("input", uri) for uri in self.input), *places]:
            require(clean(uri) == uri, name, uri, "UTF-8: rename the file or folder")
        for uri in (*self.input, self.output, self.image_root or "", self.model, self.engine.text_tower or ""):
            if uri.startswith("s3://"):
                split_s3(uri)
        self.worker_range()
        if self.choices_column is not None:
            name, column = "choices_column", self.choices_column
            require(self.engine.choices is None, name, column, "unset with --choices")
            try:  # options that choices rule out
                replace(self.engine, choices=("a", "b"))
            except OptionError as error:
                raise OptionError(error.name, error.value, error.demand.replace("choices", name)) from None
        try:
            columns_where(self.where)
        except ValueError as error:
            raise OptionError("where", self.where, str(error)) from None
        check("system", self.system is None or self.system.strip(), "a text")
        alone = self.prompts is None or self.prompt == JobOptions.prompt
        check("prompts", alone, "unset with --prompt")
        for template in self.templates:
            said = template.replace("<image>", "").strip()
            require(bool(said), "prompt", template, "what to ask, such as 'Describe the image.'")
            asked = self.question_column in columns_of(template)
            demand = f"a template with {{{self.question_column}}}, which stands for the turn of a conversation"
            require(self.conversations_column is None or asked, "prompt", template, demand)

    @property
    def chooses(self) -> bool:
        """Whether answers are picked from given choices."""
        return self.choices_column is not None or self.engine.choices is not None

    @property
    def optional_columns(self) -> tuple[str, ...]:
        """The `schema.OPTIONAL` columns that the labels have."""
        from adafv.pipeline.schema import OPTIONAL  # here: it imports pyarrow

        asked = (self.chooses, self.engine.samples is not None, self.engine.max_image_tokens is not None)
        return tuple(compress(OPTIONAL, asked))

    def worker_range(self) -> tuple[int, int] | None:
        """(MIN, MAX) of `--workers`; None if the hardware decides."""
        if self.workers is None:
            return None
        match = re.fullmatch(r"(\d+)(?::(\d+))?", self.workers)
        low, high = (int(match[1]), int(match[2] or match[1])) if match else (0, 0)
        require(1 <= low <= high, "workers", self.workers, "N or MIN:MAX with 1 <= MIN <= MAX")
        return low, high

    def agreement_measure(self) -> str:
        """The default measure for comparing two answers: captions by their words, others normalised."""
        return "normalised" if self.prompt_columns() else "rouge-l"

    def prompt_columns(self) -> tuple[str, ...]:
        """The columns that `--prompt` or `--prompts` name."""
        return tuple(dict.fromkeys(name for template in self.templates for name in columns_of(template)))

    @property
    def templates(self) -> tuple[str, ...]:
        """`prompt`, or each of `prompts`."""
        return (self.prompt,) if self.prompts is None else tuple(text for text, _ in self.prompts)


@cache
def columns_of(template: str) -> tuple[str, ...]:
    """The columns that a prompt template names. Raises UsageError for other than plain names: it must not reach into
    objects."""
    demand = "text with plain {column} names; write literal braces as {{ and }}"
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
    """The fields of all options by name, the engine's included, in the order of `--help`."""
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
    return frozenset(item.name for item in fields(EngineOptions))


def option_string(name: str) -> str:
    """An option's name on the command line, such as `--max-cost`."""
    return "--" + name.replace("_", "-")


def usage_error(error: OptionError) -> UsageError:
    """An option error as a command reports it: redacted, unlike `error`."""
    return UsageError(f"{option_string(error.name)} is {error.shown}; it must be {error.demand}")


@contextmanager
def as_usage_error() -> Iterator[None]:
    try:
        yield
    except OptionError as error:
        raise usage_error(error) from None


def budget_name(strategy: str, keep: float, escalate: float | None = None, escalate_below: float | None = None) -> str:
    """The folder name of one budget's output among others, as in a calibration: `adafv-0.25`."""
    if strategy == "none":
        return strategy
    second = [] if escalate is None else [f"then-{escalate:g}-below{escalate_below:g}"]
    return "-".join([strategy, str(keep).removesuffix(".0"), *second])  # all digits: no two share a folder
