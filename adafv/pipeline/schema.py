"""The columns of `labels/` and `rejects/`: the contract with their readers."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import pyarrow as pa

TIME = pa.timestamp("us", tz="UTC")

# Each has a label column with the row's time, such as `encode_ms`.
STAGES = ("fetch", "preprocess", "encode", "prune", "prefill", "decode")

# A worker's start-up: download the model's files, load them, answer a trial sample.
STARTING = ("download", "load", "trial")

# Where the visual tokens lie: each panel's token rows and columns, and its box in fractions of the image. A sample's
# tokens run panel by panel, row by row, so `kept_indices` can be drawn.
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

# A label's images, in the prompt's order, each with its number of panels and visual tokens. `key` is equal for equal
# pixels; `width` and `height` are pixels of the upright image, before anything shrinks it.
IMAGES = pa.list_(
    pa.struct(
        [
            ("image", pa.string()),
            ("panels", pa.int32()),
            ("visual_tokens", pa.int32()),
            ("kept_tokens", pa.int32()),
            ("uri", pa.string()),
            ("key", pa.string()),
            ("width", pa.int32()),
            ("height", pa.int32()),
        ]
    )
)

# The answers sampled for a row. One that was cut off before it matched the schema is null.
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
        ("image_scales", pa.list_(pa.float32())),
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


# Columns that labels have only if an option asks for them. The first is a map, which Hugging Face datasets can't read.
OPTIONAL = ("choice_probabilities", "samples", "image_scales")


def labels_schema(fields: Iterable[pa.Field] = (), optional: Collection[str] = ()) -> pa.Schema:
    """The columns of a run's labels: `LABELS` with the given `optional` ones only, then `fields`."""
    absent = {*OPTIONAL} - {*optional}
    own = [column for column in LABELS if column.name not in absent]
    return pa.schema([*own, *fields])


DUPLICATE = pa.field("duplicate_of", pa.string())  # of a reused label (`--duplicates reuse`): whose it is

# Columns that older labels lack; they read as nulls.
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
    *OPTIONAL,
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

# What workers send to the sink: labels and rejects in one table; `error` is null for labels.
RESULTS = pa.schema(
    [
        *LABELS,
        ("error", pa.string()),
        ("message", pa.string()),
        ("worker_actor", pa.string()),
        ("worker_started", pa.float64()),
        *((f"worker_{step}_s", pa.float64()) for step in STARTING),
        ("worker_device", pa.string()),
        ("worker_instance", pa.string()),
        ("worker_attention", pa.string()),
    ]
)
