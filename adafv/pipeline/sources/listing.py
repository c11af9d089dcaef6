"""The files under a folder or matching a pattern, and which of them their location rules out."""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from itertools import islice, takewhile

import pyarrow.fs as pafs

from adafv.pipeline.errors import UsageError
from adafv.pipeline.passed import PassedOver
from adafv.pipeline.store.s3 import store_error
from adafv.pipeline.uris import folder_of, has_scheme, is_hub, join

SYSTEM = ("__MACOSX", "@eaDir", "$RECYCLE.BIN", "System Volume Information", "lost+found")
OUTPUTS = (r"(labels|rejects)/[^/]*\.parquet", r"runs/[^/]*\.json", r"lease/.*", r"\.tmp/.*", r"recipe\.json")
MOST = 100_000  # names from braces
NO, ENTER, WITHIN = range(3)


@dataclass(frozen=True)
class Pattern:
    """A URI with wildcards: `*`, `?` and `[...]` within a name, `**` for any folders, and braces.

    Attributes:
        uri: as given; `folder`: its part before the wildcards.
        names: names without wildcards, from braces or a list, relative to `folder`; `globs`: the others, split at
            slashes.
    """

    uri: str
    folder: str
    names: frozenset[str]
    globs: tuple[tuple[str, ...], ...]

    @classmethod
    def of(cls, uri: str) -> Pattern | None:
        """None if `uri` has no wildcards."""
        match = re.search(r"[*?\[{]", uri)
        if match is None:
            return None
        folder = uri[: uri.rfind("/", 0, match.start())]
        relative = expand_braces(uri[len(folder) + 1 :])
        globs = [name for name in relative if re.search(r"[*?\[]", name)]
        names = frozenset(relative) - frozenset(globs)
        return cls(uri, folder or "/", names, tuple(tuple(glob.split("/")) for glob in globs))

    @classmethod
    def listed(cls, uri: str, list_uri: str, lines: Iterable[str]) -> Pattern:
        """A pattern for the lines of a list, paths or URIs relative to its folder. Raises UsageError if they have no
        folder in common."""
        places = [join(folder_of(list_uri), line) for line in lines]
        places = [place if has_scheme(place) else posixpath.abspath(place) for place in places]  # without ..
        parts = [place.split("/") for place in places]
        same = list(takewhile(lambda several: len(set(several)) == 1, zip(*(one[:-1] for one in parts), strict=False)))
        folder = "/".join(several[0] for several in same)
        if not same or folder.endswith(("/", ":")) or is_hub(folder):
            why = "it has no lines" if not places else "its lines must lie in one folder or bucket, and not on the Hub"
            raise UsageError(f"--input {uri}: {why}")
        return cls(uri, folder or "/", frozenset(place[len(folder) + 1 :] for place in places), ())

    @cached_property
    def _above(self) -> frozenset[str]:
        """The folders of the names."""
        return frozenset(name[:at] for name in self.names for at in range(len(name)) if name[at] == "/")

    def reach(self, path: str) -> int:
        """WITHIN if `path` or a folder above it matches, ENTER if something below it may, else NO."""
        parts = path.split("/")
        if any("/".join(parts[:end]) in self.names for end in range(1, len(parts) + 1)):
            return WITHIN
        above = ENTER if path in self._above else NO
        return max([above, *(_reach(glob, parts) for glob in self.globs)])

    def missing(self, files: Collection[str]) -> list[str]:
        """The names without wildcards that are neither a file nor a folder with files."""
        found = {
            "/".join(parts[:end]) for parts in (file.split("/") for file in files) for end in range(1, len(parts) + 1)
        }
        return sorted(self.names - found)


def _reach(glob: Sequence[str], parts: Sequence[str]) -> int:
    if not glob:
        return WITHIN
    if not parts:
        return ENTER
    if glob[0] == "**":
        return WITHIN if len(glob) == 1 else max(_reach(glob[1:], parts), _reach(glob, parts[1:]))
    return _reach(glob[1:], parts[1:]) if fnmatchcase(parts[0], glob[0]) else NO


def expand_braces(text: str) -> list[str]:
    """Expand braces as a shell does: `{a,b}` and `{00..12}`."""
    found = list(islice(_expand_braces(text), MOST + 1))
    if len(found) > MOST:
        raise UsageError(f"--input {text}: its braces stand for more than {MOST:,} names")
    return list(dict.fromkeys(found))


def _expand_braces(text: str) -> Iterator[str]:
    match = re.search(r"\{([^{}]*)\}", text)
    choices = _choices(match[1]) if match else None
    if match is None:
        yield text
    elif choices is None:  # a name with braces
        yield from (f"{text[: match.end()]}{rest}" for rest in _expand_braces(text[match.end() :]))
    else:
        for choice in choices:
            yield from _expand_braces(text[: match.start()] + choice + text[match.end() :])


def _choices(text: str) -> Iterable[str] | None:
    numbers = re.fullmatch(r"(\d+)\.\.(\d+)", text)
    if numbers is None:
        return text.split(",") if "," in text else None
    first, last = int(numbers[1]), int(numbers[2])
    padded = any(len(number) > 1 and number.startswith("0") for number in numbers.groups())
    width, step = max(map(len, numbers.groups())) if padded else 0, 1 if last >= first else -1
    return (f"{number:0{width}}" for number in range(first, last + step, step))


def list_files(
    filesystem: pafs.FileSystem, path: str, uri: str, passed: PassedOver, pattern: Pattern | None = None
) -> list[str]:
    """The paths of the files under `path`, relative to it and sorted; with `pattern`, those that match."""
    try:
        if isinstance(filesystem, pafs.LocalFileSystem):
            found = _walk(path, "", (os.path.realpath(path),), uri, passed, pattern)
            return sorted(found)
        infos = filesystem.get_file_info(pafs.FileSelector(path, recursive=True))
    except OSError as error:
        raise store_error(f"--input {uri} can't be listed", error) from error
    prefix, names = path.rstrip("/") + "/", []
    parsed = not isinstance(filesystem, pafs.PyFileSystem)  # pyarrow takes options from a URI, such as another server
    for info in infos:
        name = info.path.removeprefix(prefix)
        if info.type == pafs.FileType.Directory or (pattern is not None and pattern.reach(name) != WITHIN):
            continue
        if parsed and re.search("[?#%]", name):
            passed.add("files", "in this store no name with ?, # or % can be opened", f"{uri}/{name}")
        elif info.type == pafs.FileType.File:
            names.append(name)
        else:
            passed.add("files", "a name that ends with a slash is a folder's", f"{uri}/{name}")
    return sorted(names)


def _walk(
    root: str, folder: str, above: tuple[str, ...], uri: str, passed: PassedOver, pattern: Pattern | None
) -> Iterator[str]:
    """The files in `folder` of `root`. Links to folders are followed, unless they lead back up."""
    with os.scandir(os.path.join(root, folder)) as entries:
        for entry in entries:
            name = f"{folder}/{entry.name}" if folder else entry.name
            reach = WITHIN if pattern is None else pattern.reach(name)
            if reach == NO:
                continue
            if _is(os.DirEntry.is_dir, entry):
                real = os.path.realpath(entry.path) if entry.is_symlink() else os.path.join(above[-1], entry.name)
                if real in above:
                    passed.add("links", "a link to a folder that it lies in leads round in circles", f"{uri}/{name}")
                else:
                    yield from _walk(root, name, (*above, real), uri, passed, pattern)
            elif reach != WITHIN:
                continue
            elif _is(os.DirEntry.is_file, entry) or not os.path.exists(entry.path):
                yield name  # a link to nothing is a file that can't be read
            else:
                passed.add("files", "a pipe, a socket or a device is no file", f"{uri}/{name}")


def _is(kind: Callable[[os.DirEntry[str]], bool], entry: os.DirEntry[str]) -> bool:
    try:
        return kind(entry)
    except OSError:  # a link loop, or a folder without access
        return False


def without_outputs(files: Sequence[str], uri: str, output: str | None, passed: PassedOver) -> list[str]:
    """`files` without those a job wrote: this one to `output`, or another.

    A job's output is recognised by recipe.json beside runs/. Other files in such a folder are its export or report and
    no input either; in `uri` itself they are.
    """
    recipes = {posixpath.dirname(name) for name in files if posixpath.basename(name) == "recipe.json"}
    runs = {posixpath.dirname(name) for name in files if name.endswith(".json")} if recipes else set[str]()
    folders = {folder for folder in recipes if posixpath.join(folder, "runs") in runs}
    own = lies_in(uri, output) if output is not None else None
    if own is not None:
        folders.add(own)
    at_root = re.compile("|".join(OUTPUTS)) if "" in folders else None
    kept = []
    for name in files:
        parts = name.split("/")
        inside = next((above for end in range(1, len(parts)) if (above := "/".join(parts[:end])) in folders), None)
        if inside is not None or (at_root is not None and at_root.fullmatch(name)):
            whose = "the job's own output" if (inside or "") == own else "another job's output"
            passed.add("files", f"{whose} is no input", f"{uri}/{name}")
        else:
            kept.append(name)
    return kept


def lies_in(folder: str, uri: str) -> str | None:
    """`uri` relative to `folder`: empty if they are the same, None if it is elsewhere. Both are absolute."""
    if folder.startswith("/") and uri.startswith("/"):
        folder, uri = os.path.realpath(folder), os.path.realpath(uri)
    if uri == folder:
        return ""
    prefix = folder.rstrip("/") + "/"
    return uri.removeprefix(prefix) if uri.startswith(prefix) else None


def without_hidden(files: Sequence[str], uri: str, images: tuple[str, ...], passed: PassedOver) -> list[str]:
    """`files` without hidden and system files. Cameras name photos `_DSC0001.JPG`, so images may begin with an
    underscore."""
    kept = []
    for name in files:
        parts = name.split("/")
        if any(part in SYSTEM for part in parts):
            passed.add("files", "an operating system's own folder holds no data", f"{uri}/{name}")
        elif any(part.startswith(".") for part in parts):
            passed.add("files", "a name that begins with a dot is hidden", f"{uri}/{name}")
        elif any(part.startswith("_") for part in parts) and not name.lower().endswith(images):
            passed.add("files", "a name that begins with an underscore is hidden, but an image's", f"{uri}/{name}")
        else:
            kept.append(name)
    return kept
