"""Records of a file, with columns of any name and type, and what those columns mean."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from adafv.pipeline.rejects import Reject
from adafv.pipeline.uris import as_root
from adafv.pipeline.where import columns_where

if TYPE_CHECKING:
    from adafv.pipeline.options import JobOptions


BY_PLACE = "@row"  # instead of an id column: the table's file and the row's number
IMAGE_FIELDS = ("bytes", "path", "url")  # of an image struct: the first one present counts
VIDEO = ("video", "videos")  # columns in which LLaVA data sets name videos


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """What the columns of a record mean, and what to ask.

    Attributes:
        prompts: weighted templates instead of `prompt`; `prompt_columns`: the columns that any of them names.
        system: the system turn, unless a conversation has its own.
        where: the condition for a record to be a row; `carried`: columns copied to its label.
        max_image_bytes: of an image in a tar, which is read before the fetch stage could refuse it.
    """

    id: str
    image: str
    question: str
    prompt: str
    prompt_columns: tuple[str, ...]
    image_root: str | None = None
    conversations: str | None = None
    stratum: str | None = None
    choices: str | None = None
    prompts: tuple[tuple[str, float], ...] = ()
    system: str | None = None
    where: str | None = None
    carried: tuple[str, ...] = ()
    max_image_bytes: int = 2**31

    @classmethod
    def of(cls, job: JobOptions) -> Columns:
        return cls(
            id=job.id_column,
            image=job.image_column,
            question=job.question_column,
            prompt=job.prompt,
            prompt_columns=job.prompt_columns(),
            image_root=None if job.image_root is None else as_root(job.image_root),
            conversations=job.conversations_column,
            stratum=job.engine.stratum_column,
            choices=job.choices_column,
            prompts=job.prompts or (),
            system=job.system,
            where=job.where,
            carried=job.columns or (),
            max_image_bytes=job.max_image_bytes,
        )

    @property
    def wanted(self) -> tuple[str, ...]:
        talk = () if self.conversations is None else (self.conversations, *VIDEO)
        kind = tuple(name for name in (self.stratum, self.choices) if name is not None)
        named = (self.id, self.image, self.question, *self.prompt_columns, *talk, *kind, *self.filtered, *self.carried)
        return tuple(dict.fromkeys(named))

    @property
    def filtered(self) -> tuple[str, ...]:
        """The columns that `where` names."""
        return columns_where(self.where)

    def template(self, id: str) -> str:
        """The template for the row with this id: the same in every run."""
        if not self.prompts:
            return self.prompt
        digest = hashlib.blake2b(f"prompt\0{id}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
        place = int.from_bytes(digest, "little") / 2**64 * sum(weight for _, weight in self.prompts)
        for text, weight in self.prompts:
            place -= weight
            if place < 0:
                return text
        return self.prompts[-1][0]

    @property
    def asks(self) -> bool:
        """Whether the question column is asked, so that a list of questions in it is several rows."""
        return self.question in self.prompt_columns

    @property
    def needed(self) -> tuple[str, ...]:
        """The prompt's columns that records must have. A conversation supplies the question itself."""
        return tuple(name for name in self.prompt_columns if self.conversations is None or name != self.question)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question with image markers, its answer if the data has one, and the system turn if it is a conversation's
    first."""

    question: str
    answer: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an input file.

    Attributes:
        place: the file's URI, `#`, and the record's number or name in it.
        root: the folder that a relative image path is relative to.
        columns: values by name.
        reject: why it could not be read.
        exchanges: for a record with several questions (`questions`), those up to the one to ask; `asked`: how many
            there are; `marked`: how many images all of them show.
    """

    place: str
    root: str
    columns: dict[str, Any]
    reject: Reject | None = None
    exchanges: tuple[Exchange, ...] = ()
    marked: int = 0
    asked: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that can't be used.

    Attributes:
        problem: follows a column's name, such as "holds text that isn't UTF-8".
        error: the row's reject.
    """

    problem: str
    error: str = "bad_row"


@lru_cache(maxsize=1024)
def partition(folder: str) -> dict[str, str | None]:
    """The columns that Hive-style folder names give: year=2024/month=01. All values are texts."""
    found: dict[str, str | None] = {}
    for part in folder.split("/"):
        name, equals, text = part.partition("=")
        if name and equals:
            value = unquote(text)
            found[unquote(name)] = None if value == "__HIVE_DEFAULT_PARTITION__" else value
    return found


def without_nan(value: Any, depth: int = 3) -> Any:
    """`value` with None for NaN, which pandas writes for missing values; in lists and objects, up to `depth`."""
    if isinstance(value, float):
        return None if value != value else value
    if not depth or not value:
        return value
    if isinstance(value, list):
        return [without_nan(one, depth - 1) for one in value]
    if isinstance(value, dict):
        return {name: without_nan(one, depth - 1) for name, one in value.items()}
    return value


def is_of(value: Any) -> str:
    """What a value is, in the words of a message."""
    if isinstance(value, Unreadable):
        return value.problem
    return "is null or NaN" if value is None else f"is of type {type(value).__name__}"
