"""Why a row could not be labelled: a short closed list of errors, and `Reject`, which carries one through the stages.

A bad row is a value, never an exception: Ray Data loses a whole block to an exception, or hides the loss. So each
stage fills in a row's reject and passes the row on, and the sink writes it to `rejects/` with its reason.
"""

from __future__ import annotations

from dataclasses import dataclass

from adafv.pipeline.redaction import safe_message


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """One entry of the list: the stage that finds it, whether the same command may succeed later, and what helps where
    all rows end so."""

    stage: str
    meaning: str
    retryable: bool = False
    advice: str = ""


ERRORS: dict[str, ErrorClass] = {
    "missing_id": ErrorClass(
        "source",
        "the row's id is null, empty or absent, or neither a text nor a whole number",
        advice="--id-column names the column that tells rows apart",
    ),
    "duplicate_id": ErrorClass(
        "source",
        "an earlier row of the input has the same id",
        advice="--id-column must name a column that tells rows apart",
    ),
    "bad_row": ErrorClass("source", "the row can't be parsed, or a column has the wrong type"),
    "source_unreadable": ErrorClass("source", "an input file, or the rest of it, can't be read", retryable=True),
    "image_missing": ErrorClass(
        "source",
        "the row has no image",
        advice="--image-column names the column of the images",
    ),
    "prompt_incomplete": ErrorClass(
        "source",
        "a column that --prompt names is null or absent",
        advice="--prompt names the columns that are asked, such as '{question}', or is a fixed text",
    ),
    "image_refused": ErrorClass("fetch", "the image's path or URI is one that the job must not open"),
    "image_not_found": ErrorClass(
        "fetch",
        "there is nothing at the image's path or URI",
        advice="--image-root names the folder that relative paths are relative to",
    ),
    "image_forbidden": ErrorClass(
        "fetch",
        "the store denies access to the image",
        advice="the job's credentials must be allowed to read the images",
    ),
    "image_too_large": ErrorClass(
        "fetch",
        "the image has more bytes than --max-image-bytes",
        advice="--max-image-bytes is the limit",
    ),
    "image_fetch_failed": ErrorClass("fetch", "the image could not be fetched, after retries", retryable=True),
    "image_empty": ErrorClass("decode", "the image has no bytes"),
    "image_format": ErrorClass("decode", "the bytes are no image of a format that is allowed"),
    "image_too_many_pixels": ErrorClass(
        "decode",
        "the image has more pixels than --max-image-pixels",
        advice="--max-image-pixels is the limit",
    ),
    "image_corrupt": ErrorClass("decode", "the image can't be decoded: truncated or damaged"),
    "image_unsupported": ErrorClass("prepare", "the model's processor can't handle an image of this shape"),
    "prompt_empty": ErrorClass("prepare", "nothing is left of the prompt"),
    "prompt_encoding": ErrorClass("prepare", "the prompt is no valid Unicode"),
    "prompt_placeholder": ErrorClass("prepare", "the prompt contains the model's image placeholder"),
    "prompt_too_long": ErrorClass("prepare", "prompt, image and answer exceed the model's context"),
    "prepare_died": ErrorClass(
        "prepare",
        "decoding the image killed its process, or took over --image-timeout",
        advice="--image-timeout is the limit",
    ),
    "out_of_memory": ErrorClass("label", "the device has too little memory for this row alone"),
    "label_failed": ErrorClass("label", "the model raised an error on this row, or its scores were NaN or infinite"),
    "answer_incomplete": ErrorClass(
        "label",
        "--max-new-tokens cut the answer off before it was what --schema or --regex asks for",
        retryable=True,
        advice="--max-new-tokens is the limit; with another one --allow-mixed goes on in the same output",
    ),
    "worker_died": ErrorClass("label", "the row killed the model's process, or hung it for --batch-timeout, each time"),
}


@dataclass(frozen=True, slots=True)
class Reject:
    """Why a row could not be labelled. `error` is a key of `ERRORS`; `message` is safe to show."""

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
