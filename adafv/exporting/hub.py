"""Labels as a data set on the Hugging Face Hub: Parquet files and a card, in one commit."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq

from adafv.exporting.formats import LISTS, Exported
from adafv.pipeline.errors import UsageError
from adafv.pipeline.store.hub import in_words
from adafv.pipeline.store.output import Output, open_output
from adafv.pipeline.store.storage import Storage

SHARD = 2**28  # bytes of a file, before it is compressed


def push(uri: str | os.PathLike[str], name: str, card: str, storage: Storage, private: bool = True) -> Exported:
    """Make the labels of the output at `uri` the data set `name` on the Hub, replacing its current ones.

    All columns except `LISTS` are pushed. The labels are first streamed to a temporary folder.

    Args:
        private: whether a new data set is private.

    Raises:
        UsageError: there are no labels, or runs have columns of one name and different types.
        OSError: the labels can't be read, or the Hub refuses or can't be reached.
    """
    from huggingface_hub import HfApi

    output = open_output(os.fspath(uri), storage)
    if not output.parquet_files("labels"):
        raise UsageError(f"{output.uri} has no labels")
    with tempfile.TemporaryDirectory() as folder, in_words(name):
        api = HfApi()
        api.create_repo(name, repo_type="dataset", private=private, exist_ok=True)  # first: a refusal ends it at once
        (Path(folder) / "data").mkdir()
        (Path(folder) / "README.md").write_text(card, encoding="utf-8")
        rows = sum(_write(output, Path(folder) / "data"))
        api.upload_folder(
            folder_path=folder,
            repo_id=name,
            repo_type="dataset",
            delete_patterns="data/*.parquet",
            commit_message=f"{rows:,} labels",
        )
    return Exported(rows)


def _write(output: Output, folder: Path) -> Iterator[int]:
    """Write the labels in files of about `SHARD` bytes; yields the rows of each."""
    files = ds.dataset(output.parquet_files("labels"), filesystem=output.filesystem, format="parquet")
    try:
        schema = pa.unify_schemas([one.physical_schema for one in files.get_fragments()], promote_options="permissive")
    except pa.ArrowTypeError as error:  # answers' properties, under several schemas
        raise UsageError(
            f"runs disagree on a column's type ({error}), which jsonl can hold, but no data set"
        ) from error
    columns = [column for column in schema.names if column not in LISTS]
    gathered: list[pa.RecordBatch] = []
    number = 0
    for batch in ds.dataset(files.files, filesystem=output.filesystem, schema=schema).to_batches(columns=columns):
        gathered.append(batch)
        if sum(one.nbytes for one in gathered) >= SHARD:
            yield _write_shard(gathered, folder / f"train-{number:05}.parquet")
            gathered, number = [], number + 1
    if gathered or not number:
        yield _write_shard(gathered, folder / f"train-{number:05}.parquet")


def _write_shard(batches: list[pa.RecordBatch], path: Path) -> int:
    table = pa.Table.from_batches(batches)
    for place, field in enumerate(table.schema):
        if pa.types.is_map(field.type):  # which datasets can't read
            texts = [None if one is None else json.dumps(dict(one)) for one in table.column(place).to_pylist()]
            table = table.set_column(place, field.name, pa.array(texts, pa.string()))
    pq.write_table(table, path, compression="zstd")
    return table.num_rows
