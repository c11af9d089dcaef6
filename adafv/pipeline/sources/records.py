"""What a file holds: records, with columns of any names and types, and which of these mean what."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from adafv.pipeline.rejects import Reject
from adafv.pipeline.uris import has_scheme
from adafv.pipeline.where import columns_where

if TYPE_CHECKING:
    from adafv.pipeline.options import JobOptions


BY_PLACE = "@row"  # in the place of the id's column: a table's file and the number of the row in it
IMAGE_FIELDS = ("bytes", "path", "url")  # of a struct that is an image: the first of them that is there
VIDEO = ("video", "videos")  # columns in which LLaVA's data sets name what no image is


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """Which columns of a record mean what, and what to ask.

    Attributes:
        prompts: templates with their weights, in the place of `prompt`; `prompt_columns`: those of all of them.
        system: what is said before, unless a conversation has its own.
        where: what must hold for a record to be a row; carried: columns that its label gets.
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

    @classmethod
    def of(cls, job: JobOptions) -> Columns:
        root = job.image_root
        if root is not None:
            root = root.removesuffix("/") if has_scheme(root) else os.path.abspath(root)
        return cls(
            id=job.id_column,
            image=job.image_column,
            question=job.question_column,
            prompt=job.prompt,
            prompt_columns=job.prompt_columns(),
            image_root=root,
            conversations=job.conversations_column,
            stratum=job.engine.stratum_column,
            choices=job.choices_column,
            prompts=job.prompts or (),
            system=job.system,
            where=job.where,
            carried=job.columns or (),
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
        """What the row of this id is asked: the same in every run."""
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
        """Whether the question's column is asked, so that a list of questions there is as many rows."""
        return self.question in self.prompt_columns

    @property
    def needed(self) -> tuple[str, ...]:
        """The columns that a prompt takes, and that records must have: a conversation has the question itself."""
        return tuple(name for name in self.prompt_columns if self.conversations is None or name != self.question)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A question, in which markers stand, and its answer, if the data have one; of the first one of a conversation the
    system turn before it, too.
    """

    question: str
    answer: str | None = None
    system: str | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """One entry of an input file.

    Attributes:
        place: where it lies: the file's URI, `#`, and its number or name in it.
        root: the folder that a relative image path is relative to.
        columns: its values by name.
        reject: why it could not be read.
        exchanges: of a record that asks several questions (`questions`), those up to the one that is meant; and
            `marked`: how many images all of them show.
    """

    place: str
    root: str
    columns: dict[str, Any]
    reject: Reject | None = None
    exchanges: tuple[Exchange, ...] = ()
    marked: int = 0


@dataclass(frozen=True, slots=True)
class Unreadable:
    """Stands for a value that nothing can be made of.

    Attributes:
        problem: what a column's name is put before, such as "holds text that isn't UTF-8".
        error: what its row is rejected as.
    """

    problem: str
    error: str = "bad_row"


@lru_cache(maxsize=1024)
def partition(folder: str) -> dict[str, str | None]:
    """The columns that the names of folders give, as Hive has them: year=2024/month=01. All values are texts."""
    found: dict[str, str | None] = {}
    for part in folder.split("/"):
        name, equals, text = part.partition("=")
        if name and equals:
            value = unquote(text)
            found[unquote(name)] = None if value == "__HIVE_DEFAULT_PARTITION__" else value
    return found


def without_nan(value: Any, depth: int = 3) -> Any:
    """`value` with None for NaN, as pandas writes what is missing; also in lists and objects, so many deep."""
    if isinstance(value, float):
        return None if value != value else value
    if not depth or not value:
        return value
    if isinstance(value, list):  # of integers it is an image's bytes, which may be millions
        return value if isinstance(value[0], int) else [without_nan(one, depth - 1) for one in value]
    if isinstance(value, dict):
        return {name: without_nan(one, depth - 1) for name, one in value.items()}
    return value


def is_of(value: Any) -> str:
    """What a value is, in the words of a message."""
    if isinstance(value, Unreadable):
        return value.problem
    return "is null or NaN" if value is None else f"is of type {type(value).__name__}"
