"""The columns of `labels/` and `rejects/`: the contract with whoever reads them."""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

# A label says of each, in a column such as `encode_ms`, what its row took.
STAGES = ("fetch", "preprocess", "encode", "prune", "prefill", "decode")

# What a worker does before it can label: have the model's files here, load them, answer a trial sample.
STARTING = ("download", "load", "trial")

# Where the visual tokens lie on the image: per panel its token rows and columns, and its place in fractions of the
# image. A sample's tokens are its panels' one after the other, row by row, so `kept_indices` can be drawn.
GRID = pa.list_(
    pa.struct(
        [
            ("rows", pa.int32()),
            ("columns", pa.int32()),
            ("top", pa.float32()),
            ("left", pa.float32()),
            ("bottom", pa.float32()),
            ("right", pa.float32()),
        ]
    )
)

# The images that a label is about, in the prompt's order: the first has the first so many panels of the grid and the
# first so many visual tokens, and so on. `key` is the same for the same pixels.
IMAGES = pa.list_(
    pa.struct(
        [
            ("image", pa.string()),
            ("panels", pa.int32()),
            ("visual_tokens", pa.int32()),
            ("kept_tokens", pa.int32()),
            ("uri", pa.string()),
            ("key", pa.string()),
        ]
    )
)

# The answers that were sampled for a row; one that was cut off before it was what a schema asks for is null.
SAMPLES = pa.list_(pa.struct([("answer", pa.string()), ("mean_logprob", pa.float32()), ("output_tokens", pa.int32())]))

LABELS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("question", pa.string()),
        ("prompt", pa.string()),
        ("answer", pa.string()),
        ("finish_reason", pa.string()),
        ("mean_logprob", pa.float32()),
        ("confidence", pa.float32()),
        ("flags", pa.list_(pa.string())),
        ("choice_probabilities", pa.map_(pa.string(), pa.float64())),
        ("samples", SAMPLES),
        ("model", pa.string()),
        ("strategy", pa.string()),
        ("keep", pa.float64()),
        ("looks", pa.int32()),
        ("first_answer", pa.string()),
        ("first_confidence", pa.float32()),
        ("first_kept_indices", pa.list_(pa.int32())),
        ("audit_answer", pa.string()),
        ("visual_tokens", pa.int32()),
        ("kept_tokens", pa.int32()),
        ("kept_indices", pa.list_(pa.int32())),
        ("kept_cues", pa.list_(pa.int8())),
        ("from_text", pa.int32()),
        ("from_saliency", pa.int32()),
        ("grid", GRID),
        ("images", IMAGES),
        ("image_uri", pa.string()),
        ("prompt_tokens", pa.int32()),
        ("output_tokens", pa.int32()),
        ("batch_size", pa.int32()),
        ("fetch_ms", pa.float64()),
        ("preprocess_ms", pa.float64()),
        ("encode_ms", pa.float64()),
        ("prune_ms", pa.float64()),
        ("prefill_ms", pa.float64()),
        ("decode_ms", pa.float64()),
        ("gpu_seconds", pa.float64()),
        ("cost_usd", pa.float64()),
        ("run_id", pa.string()),
        ("worker", pa.string()),
        ("labelled_at", TIME),
    ]
)


def labels_schema(fields: Iterable[pa.Field] = (), *, choices: bool = False, samples: bool = False) -> pa.Schema:
    """The columns of a run's labels: `LABELS` and `fields`. Where there are no choices, no column has their
    probabilities: it is a map, and Hugging Face's datasets can't read labels that have one. Nor has one the samples
    where an answer is one.
    """
    absent = {name for name, there in {"choice_probabilities": choices, "samples": samples}.items() if not there}
    own = [column for column in LABELS if column.name not in absent]
    return pa.schema([*own, *fields])


# Columns that labels written before there were these don't have; they read as nulls.
FIRST_LOOK = ("first_answer", "first_confidence", "first_kept_indices")
LATER = (
    "images",
    "image_uri",
    "confidence",
    "keep",
    "looks",
    *FIRST_LOOK,
    "audit_answer",
    "flags",
    "choice_probabilities",
    "samples",
)

REJECTS = pa.schema(
    [
        ("id", pa.string()),
        ("image", pa.string()),
        ("question", pa.string()),
        ("stage", pa.string()),
        ("error", pa.string()),
        ("message", pa.string()),
        ("retryable", pa.bool_()),
        ("image_uri", pa.string()),
        ("run_id", pa.string()),
        ("rejected_at", TIME),
    ]
)

# What the workers hand to the sink: labels and rejects in one table, told apart by `error`.
RESULTS = pa.unify_schemas(
    [
        LABELS,
        pa.schema(
            [
                ("error", pa.string()),
                ("message", pa.string()),
                ("worker_actor", pa.string()),
                ("worker_started", pa.float64()),
                *((f"worker_{step}_s", pa.float64()) for step in STARTING),
                ("worker_device", pa.string()),
                ("worker_instance", pa.string()),
                ("worker_attention", pa.string()),
            ]
        ),
    ]
)
