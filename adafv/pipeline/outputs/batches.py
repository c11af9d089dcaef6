"""What stands in labels/ or rejects/, read back: each file once, several at a time, in bounded memory.

A long run leaves thousands of files. On S3 a file costs three round trips, whatever it holds; one file after the
other, five thousand would take many minutes. So the next files are read by threads while one is used.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import pyarrow as pa
import pyarrow.fs
import pyarrow.parquet as pq

from adafv.pipeline.outputs.folder import Output


def read_batches(output: Output, paths: Sequence[str], columns: list[str], ahead: int) -> Iterator[pa.RecordBatch]:
    """The rows of the files at `paths`, in order. `ahead`: how many files may be in memory besides the current one."""
    with ThreadPoolExecutor(ahead) as threads:
        waiting: deque[Future[pa.Table]] = deque()
        for path in paths:
            waiting.append(threads.submit(_read, output.filesystem, path, columns))
            if len(waiting) > ahead:
                yield from waiting.popleft().result().to_batches()
        while waiting:
            yield from waiting.popleft().result().to_batches()


def _read(filesystem: pyarrow.fs.FileSystem, path: str, columns: list[str]) -> pa.Table:
    """The columns of one file. Raises OSError, which names the file."""
    try:
        with filesystem.open_input_file(path) as source:
            table = pq.ParquetFile(source, pre_buffer=True, page_checksum_verification=True).read(columns)
    except (OSError, pa.ArrowException) as error:
        raise OSError(f"{path}: {error}") from error
    if missing := [name for name in columns if name not in table.column_names]:
        raise OSError(f"{path} has no column {', '.join(missing)}; it is no file of a labelling job")
    return table
