"""Data sets on the Hugging Face Hub: `hf://datasets/OWNER/NAME[@REVISION][/PATH]`, or `/CONFIG/SPLIT` for a path.

A data set is read at one commit, which the driver looks up once (`pin`). Files are read by ranges through
huggingface_hub's file system and pyarrow's bridge; nothing is downloaded as a whole. Access is the Hub's own, by
`HF_TOKEN` or a login and `HF_ENDPOINT`; no token travels with a job.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.fs

from adafv.pipeline.errors import UsageError
from adafv.pipeline.redaction import safe_message
from adafv.pipeline.store.retry import UnavailableError
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.uris import is_hub

if TYPE_CHECKING:
    from huggingface_hub import DatasetInfo

CONVERTED = "refs/convert/parquet"  # the Hub's branch with data sets as Parquet
Splits = Mapping[tuple[str, str], list[str]]  # paths and patterns by (config, split)


def hub_problem(error: Exception, name: str, revision: str | None = None, kind: str = "data set") -> OSError:
    """An error of huggingface_hub for the data set or model `name`, in words, without URL or token."""
    from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, GatedRepoError):
        return PermissionError(
            f"{name} is gated: accept its terms on its page on the Hub, and give the job that account's token in "
            "HF_TOKEN, on every node"
        )
    if isinstance(error, RepositoryNotFoundError):
        return FileNotFoundError(
            f"there is no {kind} {name!r} on the Hub; if it is private, give the job a token that may read it in "
            "HF_TOKEN, on every node"
        )
    if isinstance(error, RevisionNotFoundError):
        return FileNotFoundError(f"{name} has no revision {revision!r}; give a branch, a tag or a whole commit")
    answer = error.response if isinstance(error, HfHubHTTPError) else None
    if answer is None:
        return UnavailableError(f"the Hub can't be reached for {name} ({type(error).__name__})")
    if answer.status_code in (401, 403):
        return PermissionError(f"the Hub refuses {name} ({answer.status_code}); see to the token in HF_TOKEN")
    kinds = UnavailableError if answer.status_code == 429 or answer.status_code >= 500 else OSError
    return kinds(f"the Hub answered {answer.status_code} for {name}")


@contextlib.contextmanager
def in_words(name: str, revision: str | None = None) -> Iterator[None]:
    """Turn errors of the Hub and the network into OSErrors that say what to do."""
    from huggingface_hub.errors import HTTPError, OfflineModeIsEnabled

    try:
        yield
    except (HTTPError, OfflineModeIsEnabled) as error:
        raise hub_problem(error, name, revision) from error


class HubHandler(pyarrow.fs.FSSpecHandler):
    """huggingface_hub's file system for pyarrow."""

    def get_file_info(self, paths: list[str]) -> list[pyarrow.fs.FileInfo]:
        with in_words(_repository(paths[0]) if paths else ""):
            return super().get_file_info(paths)

    def get_file_info_selector(self, selector: pyarrow.fs.FileSelector) -> list[pyarrow.fs.FileInfo]:
        with in_words(_repository(selector.base_dir)):
            return super().get_file_info_selector(selector)

    def open_input_file(self, path: str) -> pa.NativeFile:
        return self._open(path, "none")  # no read-ahead

    def open_input_stream(self, path: str) -> pa.NativeFile:
        return self._open(path, "readahead")

    def _open(self, path: str, cache_type: str) -> pa.NativeFile:
        with in_words(_repository(path)):
            return pa.PythonFile(HubFile(self.fs.open(path, cache_type=cache_type), path), mode="r")


class HubFile(io.RawIOBase):
    """A file whose errors are in words and whose reads are complete."""

    def __init__(self, file: Any, path: str) -> None:
        super().__init__()
        self._file, self._path = file, path

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._file.tell()

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def read(self, size: int = -1) -> bytes:
        left = max(0, self._file.size - self._file.tell())
        size = left if size < 0 else min(size, left)
        if not size:
            return b""
        with in_words(_repository(self._path)):
            data = self._file.read(size)
        if len(data) != size:
            raise UnavailableError(f"{len(data)} bytes came of {size} of hf://{self._path}")
        return data


def _repository(path: str) -> str:
    return "/".join(path.split("/")[1:3]).partition("@")[0]


def hub_filesystem() -> pyarrow.fs.FileSystem:
    """The Hub for pyarrow; paths are URIs without the scheme."""
    from huggingface_hub import HfFileSystem

    return pyarrow.fs.PyFileSystem(HubHandler(HfFileSystem()))


def pin(uris: Sequence[str]) -> tuple[str, ...]:
    """`uris` with each Hub data set at its current commit, and configs and splits replaced by their files.

    Raises:
        UsageError: there is no such data set, revision, path, config or split, or no access to it.
        RunError: the Hub can't be reached.
    """
    return tuple(pinned for uri in uris for pinned in (_pinned(uri) if is_hub(uri) else [uri]))


def _pinned(uri: str) -> list[str]:
    from huggingface_hub import HfApi, parse_hf_uri
    from huggingface_hub.errors import HfUriError, RevisionNotFoundError

    try:
        parsed = parse_hf_uri(uri.rstrip("/"))
    except HfUriError as error:
        raise UsageError(f"--input {uri}: {safe_message(str(error))}") from error
    if parsed.type != "dataset":
        raise UsageError(f"--input {uri}: of the Hub only data sets are read, hf://datasets/OWNER/NAME")
    converted = None
    try:
        with in_words(parsed.id, parsed.revision):
            info = HfApi().dataset_info(parsed.id, revision=parsed.revision)
            known = dict(_of_card(info))
            if parsed.revision is None and not known and not _has(info, parsed.path_in_repo):
                with contextlib.suppress(RevisionNotFoundError):
                    converted = HfApi().dataset_info(parsed.id, revision=CONVERTED)
    except OSError as error:
        raise store_error(f"--input {uri}", error) from error
    if _has(info, parsed.path_in_repo):
        return [f"{_at(info)}/{parsed.path_in_repo}".rstrip("/")]
    paths = _of_split(uri, parsed.path_in_repo, known or dict(_of_branch(converted)))
    return [f"{_at(converted or info)}/{path}" for path in paths]


def _at(info: DatasetInfo) -> str:
    return f"hf://datasets/{info.id}@{info.sha}"


def _has(info: DatasetInfo, path: str) -> bool:
    """Whether a path is one of the data set's files or folders, or a pattern."""
    names = (file.rfilename for file in info.siblings or ())
    return not path or any(mark in path for mark in "*?[{") or any(f"{name}/".startswith(f"{path}/") for name in names)


def _of_split(uri: str, path: str, known: Splits) -> list[str]:
    """The files of CONFIG/SPLIT, of a CONFIG, or of a SPLIT of the only or default config."""
    configs = [config for config, _ in known]
    default = "default" if "default" in configs else configs[0] if len(set(configs)) == 1 else ""
    asked = tuple(path.split("/"))
    chosen = [key for key in known if asked in (key, key[:1]) or (asked == key[1:] and key[0] == default)]
    if not chosen:
        there = ", ".join(f"{config}/{split}" for config, split in known) or "none that are known"
        raise UsageError(f"--input {uri}: there is no file, config or split {path!r}; configs and splits: {there}")
    return [path for key in chosen for path in known[key]]


def _of_branch(info: DatasetInfo | None) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """((config, split), folders) of the Hub's Parquet branch, CONFIG/SPLIT/0000.parquet."""
    for file in () if info is None else info.siblings or ():
        if file.rfilename.endswith(".parquet") and file.rfilename.count("/") == 2:
            config, split, _ = file.rfilename.split("/")
            yield (config, split), [f"{config}/{split}"]


def _of_card(info: DatasetInfo) -> Iterator[tuple[tuple[str, str], list[str]]]:
    """((config, split), patterns) from a card's `configs`."""
    card = info.card_data.to_dict() if info.card_data is not None else {}
    for config in card.get("configs") or ():
        files = config.get("data_files")
        files = [{"split": "train", "path": files}] if isinstance(files, str) else files
        for one in files or ():
            one = {"split": "train", "path": one} if isinstance(one, str) else one
            paths = one["path"] if isinstance(one["path"], list) else [one["path"]]
            yield (
                (config.get("config_name", "default"), one.get("split", "train")),
                [f"{config.get('data_dir', '')}/{p}".lstrip("/") for p in paths],
            )
