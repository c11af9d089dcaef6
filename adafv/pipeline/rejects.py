"""Why a row has no label: a short closed list of errors, and `Reject`, which carries one through the stages.

A bad row is a value, never an exception: Ray Data loses a whole block to an exception. Each stage fills in the row's
reject and passes the row on, and the sink writes it to `rejects/`.
"""

from __future__ import annotations

from dataclasses import dataclass

from adafv.pipeline.redaction import safe_message


@dataclass(frozen=True, slots=True)
class RejectKind:
    """A kind of reject: the stage that finds it, whether a retry may succeed, and what to do if all rows fail so."""

    stage: str
    meaning: str
    retryable: bool = False
    advice: str = ""


ERRORS: dict[str, RejectKind] = {
    "missing_id": RejectKind(
        "source",
        "the id is null, empty, absent, or neither text nor a whole number",
        advice="--id-column names the column with a unique id per row",
    ),
    "duplicate_id": RejectKind(
        "source",
        "an earlier row of the input has the same id",
        advice="--id-column must name a column with a unique id per row; instead of several folders with images of the "
        "same names, --input takes the folder above them",
    ),
    "bad_row": RejectKind("source", "the row can't be parsed, or a column has the wrong type"),
    "source_unreadable": RejectKind("source", "an input file, or the rest of it, can't be read", retryable=True),
    "image_missing": RejectKind(
        "source", "the row has no image", advice="--image-column names the column of the images"
    ),
    "prompt_incomplete": RejectKind(
        "source",
        "a column named in --prompt is null or absent",
        advice="--prompt names columns, such as '{question}', or is a fixed text such as 'Describe the image.'",
    ),
    "image_refused": RejectKind("fetch", "the job isn't allowed to open the image's path or URI"),
    "image_not_found": RejectKind(
        "fetch", "nothing exists at the image's path or URI", advice="--image-root is the base of relative paths"
    ),
    "image_forbidden": RejectKind(
        "fetch", "the store denies access to the image", advice="give the job credentials that may read the images"
    ),
    "image_too_large": RejectKind(
        "fetch", "the image has more bytes than --max-image-bytes", advice="raise --max-image-bytes"
    ),
    "image_fetch_failed": RejectKind("fetch", "the image could not be fetched, after retries", retryable=True),
    "image_empty": RejectKind("decode", "the image has no bytes"),
    "image_format": RejectKind("decode", "the bytes aren't an image in a supported format"),
    "image_too_many_pixels": RejectKind(
        "decode", "the image has more pixels than --max-image-pixels", advice="raise --max-image-pixels"
    ),
    "image_corrupt": RejectKind("decode", "the image is truncated or damaged"),
    "image_unsupported": RejectKind("prepare", "the model's processor can't handle an image of this shape"),
    "prompt_empty": RejectKind("prepare", "the prompt is empty"),
    "prompt_encoding": RejectKind("prepare", "the prompt isn't valid Unicode"),
    "prompt_placeholder": RejectKind("prepare", "the prompt contains the model's image placeholder"),
    "prompt_too_long": RejectKind("prepare", "prompt, image and answer together exceed the model's context"),
    "prepare_died": RejectKind(
        "prepare", "decoding the image killed its process or exceeded --image-timeout", advice="raise --image-timeout"
    ),
    "out_of_memory": RejectKind("label", "the device hasn't enough memory for this row alone"),
    "label_failed": RejectKind("label", "the model failed on this row, or its scores were NaN or infinite"),
    "answer_incomplete": RejectKind(
        "label",
        "--max-new-tokens cut the answer off before it matched --schema or --regex",
        retryable=True,
        advice="raise --max-new-tokens, with --allow-mixed for the same output",
    ),
    "worker_died": RejectKind(
        "label", "the row killed the model's process, or hung it for --batch-timeout, every time"
    ),
}


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a row has no label. `error` is a key of `ERRORS`; `message` is safe to show."""

    error: str
    message: str

    def __post_init__(self) -> None:
        if self.error not in ERRORS:
            raise ValueError(f"error is {self.error!r}; it must be one of {', '.join(ERRORS)}")
        object.__setattr__(self, "message", safe_message(self.message))

    @property
    def stage(self) -> str:
        return ERRORS[self.error].stage

    @property
    def retryable(self) -> bool:
        return ERRORS[self.error].retryable
