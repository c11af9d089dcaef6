"""Reads labels/ or rejects/ back: each file once, several at a time, in bounded memory.

A long run leaves thousands of files, and on S3 each costs three round trips. So threads read the next files while one
is in use.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from adafv.pipeline.fields import added_in
from adafv.pipeline.schema import LABELS, LATER
from adafv.pipeline.store.output import Output

T = TypeVar("T", pa.Table, pa.RecordBatch)
_LATER = {name: LABELS.field(name) for name in LATER}
ROWS_AT_ONCE = 1024  # rows in memory while a few are looked for


def read_batches(
    output: Output,
    paths: Sequence[str],
    columns: list[str],
    ahead: int,
    numbered: bool = False,
    whole: bool = False,
    properties: Sequence[pa.Field] = (),
) -> Iterator[pa.RecordBatch]:
    """The rows of the files at `paths`, in order.

    Args:
        ahead: how many files may be in memory besides the current one.
        numbered: add two columns, `file` and `row`: the path, and the row's number in it.
        whole: add the columns that a file's job added.
        properties: the `columns` that are such; a file may lack them.
    """
    may_lack = _LATER | {field.name: field for field in properties}
    with ThreadPoolExecutor(ahead) as threads:
        waiting: deque[Future[pa.Table]] = deque()
        for path in paths:
            waiting.append(threads.submit(_read, output.filesystem, path, columns, numbered, whole, may_lack))
            if len(waiting) > ahead:
                yield from waiting.popleft().result().to_batches()
        while waiting:
            yield from waiting.popleft().result().to_batches()


def properties_of(output: Output, paths: Sequence[str], names: Collection[str]) -> list[pa.Field]:
    """The named columns that jobs added, as the first file that has them defines them."""
    found: dict[str, pa.Field] = {}
    for path in paths:
        if found.keys() >= set(names):
            break
        with _named(path), output.filesystem.open_input_file(path) as source:
            for field in added_in(pq.read_schema(source)):
                if field.name in names:
                    found.setdefault(field.name, field)
    return [*found.values()]


def pick_rows(output: Output, path: str, numbers: Sequence[int], columns: list[str]) -> dict[int, dict[str, Any]]:
    """Some rows of one file by number, with at most `ROWS_AT_ONCE` rows in memory. Raises OSError, which names the
    file."""
    found: dict[int, dict[str, Any]] = {}
    wanted = sorted(numbers)
    with _named(path), output.filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source, page_checksum_verification=True)
        _check(path, columns, file.schema_arrow.names, _LATER)
        first = 0
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=_there(columns, file)):
            here = [number for number in wanted if first <= number < first + batch.num_rows]
            rows = batch.take(pa.array([number - first for number in here], pa.int64()))
            found.update(zip(here, _whole(rows, columns, _LATER).to_pylist(), strict=True))
            first += batch.num_rows
    return found


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """Turn errors of a file into an OSError that names it."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        raise OSError(f"{path}: {error}") from error


def _read(
    filesystem: pyarrow.fs.FileSystem,
    path: str,
    columns: list[str],
    numbered: bool,
    whole: bool,
    may_lack: Mapping[str, pa.Field],
) -> pa.Table:
    """The columns of one file. Raises OSError, which names the file."""
    with _named(path), filesystem.open_input_file(path) as source:
        file = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True)
        names = file.schema_arrow.names
        more = added_in(file.schema_arrow).names if whole else []
        table = file.read(_there([*columns, *more], file))
        _check(path, columns, names, may_lack)
        table = _whole(table, columns, may_lack)
    if not numbered:
        return table
    file = pa.DictionaryArray.from_arrays(np.zeros(table.num_rows, np.int8), [path])
    return table.append_column("file", file).append_column("row", pa.array(np.arange(table.num_rows)))


def _check(path: str, columns: Sequence[str], names: Sequence[str], may_lack: Mapping[str, pa.Field]) -> None:
    if missing := [name for name in columns if name not in names and name not in may_lack]:
        raise OSError(f"{path} has no column {', '.join(missing)}; it is no file of a labelling job")


def _there(columns: Sequence[str], file: pq.ParquetFile) -> list[str]:
    """The columns that the file has."""
    return [name for name in columns if name in file.schema_arrow.names]


def _whole(found: T, columns: Sequence[str], may_lack: Mapping[str, pa.Field]) -> T:
    """A table or batch with all `columns` in this order, then its others. Columns and struct fields that the file lacks
    are null."""
    for name in columns:
        field = may_lack.get(name)
        if name not in found.schema.names:
            assert field is not None
            found = found.append_column(field, pa.nulls(found.num_rows, field.type))
        elif field is not None and found.schema.field(name).type != field.type:
            index = found.schema.get_field_index(name)
            found = found.set_column(index, field, found.column(index).cast(field.type))
    return found.select([*columns, *(name for name in found.schema.names if name not in columns)])
