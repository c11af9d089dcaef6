"""The photographed things and the backgrounds that scenes are made of, and which of them are held out.

They come from Debian's packages (see packages.py). `prepare` makes small copies once, since a wallpaper of
5120 x 2880 px takes half a second to open. Stamps are cut to what is visible of them.
"""

from __future__ import annotations

import functools
import json
import re
import shutil
import tempfile
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from adafv.worlds.photo.cache import pictures_folder

STAMP_SIDE, BACKGROUND_SIDE = 340, 1200  # px, the longer side of the copies
VISIBLE = 40  # of 255: what is more transparent than this isn't part of a stamp
INDEX = "index.json"
HELD_OUT_EVERY = 5  # one background motif in so many is never trained on

# A hundred of the stamps' 348 names, common ones of things that no other of them is a kind of: "Is there a penguin?"
# has no answer beside a little penguin.
THINGS = frozenset((
    "airplane", "banana", "baseball cap", "basketball", "bear", "bee", "birthday cake", "bison", "blueberries",
    "bunch of grapes", "butterfly", "camel", "camera", "carrot", "cathedral", "cherries", "chicken", "chimpanzee",
    "classical guitar", "clownfish", "cow", "crow", "daffodil", "deer", "dog", "dolphin", "double decker bus",
    "dragonfly", "drum kit", "duck", "eggplant", "elephant", "fire truck", "fox", "frog", "giraffe", "glove", "goat",
    "gorilla", "hammer", "hedgehog", "hippopotamus", "horse", "hot air balloon", "igloo", "kangaroo", "key",
    "kiwifruit", "koala", "ladybug", "lightbulb", "lion", "mailbox", "measuring tape", "mouse", "mug", "mushroom",
    "onion", "orange", "ostrich", "owl", "palm tree", "peacock", "pear", "penguin", "pig", "pineapple", "pinecone",
    "pomegranate", "pyramid", "rabbit", "race car", "raspberry", "red apple", "rose", "saw", "scarf", "seahorse",
    "sheep", "snowman", "soccer ball", "sock", "sombrero", "squirrel", "steam locomotive", "strawberry", "teapot",
    "tennis ball", "tennis racket", "tent", "tiger", "top hat", "toucan", "trumpet", "violin", "volleyball", "walnut",
    "windmill", "wrench", "zebra",
))  # fmt: skip

# Folders of stamps that aren't pictures of things, or not of everyday ones.
SKIPPED = ("symbols", "town/roadsigns", "seasonal", "military")
# Folder -> what its things are called together, in the singular and the plural.
CATEGORIES = {
    "animals": ("animal", "animals"),
    "food": ("food", "foods"),
    "plants": ("plant", "plants"),
    "clothes": ("piece of clothing", "pieces of clothing"),
    "vehicles": ("vehicle", "vehicles"),
    "household": ("household item", "household items"),
    "sports": ("sports item", "sports items"),
    "hobbies/music": ("instrument", "instruments"),
    "town": ("building", "buildings"),
}
# Folders inside those of CATEGORIES whose things aren't of that category.
NO_CATEGORY = ("town/monuments",)


@dataclass(frozen=True)
class Thing:
    """A thing with one name, and the files of its pictures (in the prepared folder)."""

    name: str
    category: str | None  # one of CATEGORIES
    pictures: tuple[str, ...]


@dataclass(frozen=True)
class Pictures:
    """Everything that scenes are made of. Backgrounds are grouped by motif: a motif has several sizes."""

    folder: Path
    things: tuple[Thing, ...]  # by name
    backgrounds: tuple[tuple[str, ...], ...]  # motif -> files

    def motifs(self, held_out: bool) -> list[tuple[str, ...]]:
        """The motifs for training, or those held out."""
        return [files for i, files in enumerate(self.backgrounds) if (i % HELD_OUT_EVERY == 0) == held_out]

    @functools.cached_property
    def by_name(self) -> dict[str, Thing]:
        return {thing.name: thing for thing in self.things}

    def stamp(self, file: str) -> Image.Image:
        return _open(self.folder / file, "RGBA")

    def background(self, file: str) -> Image.Image:
        return _open(self.folder / file, "RGB")


@functools.lru_cache(maxsize=1024)
def _open(path: Path, mode: str) -> Image.Image:
    return Image.open(path).convert(mode)


def pictures() -> Pictures:
    """The prepared pictures. FileNotFoundError where `make photo` hasn't been run."""
    return read_index(pictures_folder())


@functools.cache
def read_index(folder: Path) -> Pictures:
    """What `prepare` has put there."""
    index = folder / INDEX
    if not index.is_file():
        raise FileNotFoundError(f"there are no prepared pictures in {folder}; make them with: make photo")
    kept = json.loads(index.read_text())
    things = tuple(Thing(each["name"], each["category"], tuple(each["pictures"])) for each in kept["things"])
    return Pictures(folder, things, tuple(tuple(files) for files in kept["backgrounds"]))


def prepare(unpacked: Path, folder: Path) -> None:
    """Copy what is used of the packages unpacked in `unpacked` into `folder`, small, with an index.

    The folder appears when it is whole; one that holds other things, or was begun and not finished, is replaced.
    """
    stamps, backgrounds = find_things(unpacked / "usr/share/tuxpaint/stamps"), find_backgrounds(unpacked / "usr/share")
    if _holds(folder, stamps):
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    things = []
    for name, (category, files) in sorted(stamps.items()):
        copies = [_copy_stamp(file, partial / f"{name.replace(' ', '-')}-{i}.png") for i, file in enumerate(files)]
        things.append({"name": name, "category": category, "pictures": copies})
    motifs = []
    for number, (_, files) in enumerate(sorted(backgrounds.items())):
        motifs.append([
            _copy_background(file, partial / f"background-{number:03d}-{i}.png") for i, file in enumerate(files)
        ])  # fmt: skip
    (partial / INDEX).write_text(json.dumps({"things": things, "backgrounds": motifs}, indent=1))
    if folder.exists():
        folder.rename(partial.with_name(f"{partial.name}-old"))
    partial.rename(folder)
    shutil.rmtree(partial.with_name(f"{partial.name}-old"), ignore_errors=True)


def _holds(folder: Path, names: Iterable[str]) -> bool:
    """Whether pictures of these things have been prepared there."""
    index = folder / INDEX
    return index.is_file() and {each["name"] for each in json.loads(index.read_text())["things"]} == set(names)


def find_things(top: Path) -> dict[str, tuple[str | None, list[Path]]]:
    """Name -> category and files, of the stamps whose text names one of THINGS."""
    found: dict[str, tuple[str | None, list[Path]]] = {}
    for path in sorted(top.rglob("*.png")):
        said = path.with_suffix(".txt")
        place = path.relative_to(top).as_posix()
        if place.startswith(SKIPPED) or path.stem.endswith("_mirror") or not said.is_file():
            continue
        name = thing_name(said.read_text(encoding="utf-8"))
        if name in THINGS:
            found.setdefault(name, (_category(place), []))[1].append(path)
    return found


def thing_name(text: str) -> str:
    """ "A great blue heron (Ardea herodias).", and further lines -> "great blue heron"."""
    first = re.sub(r"\(.*?\)", "", text.partition("\n")[0].strip().rstrip(".")).strip().lower()
    return re.sub(r"\s+", " ", re.sub(r"^(an?|the|some)\s+", "", first))


def _category(place: str) -> str | None:
    if place.startswith(NO_CATEGORY):
        return None
    return next((folder for folder in CATEGORIES if place.startswith(folder + "/")), None)


def find_backgrounds(share: Path) -> dict[str, list[Path]]:
    """Motif -> its files in several sizes and shades."""
    found: dict[str, list[Path]] = defaultdict(list)
    for top in (share / "backgrounds", share / "wallpapers"):
        for path in sorted(top.rglob("*")):
            if path.suffix in (".jpg", ".png", ".webp") and path.is_file() and path.stem != "screenshot":
                found[_motif(path.relative_to(share))].append(path)
    return found


def _motif(place: Path) -> str:
    """wallpapers/Flow/contents/images_dark/5120x2880.jpg -> Flow; Elephants_3840x2160.jpg -> Elephants"""
    if place.parts[0] == "wallpapers":
        return place.parts[1]
    return re.sub(r"(_\d+x\d+|-[ld]|-(Light|Dark)|-(Warm|Cold|Dark|Radioactive)-no-logo)$", "", place.stem)


def _copy_stamp(file: Path, copy: Path) -> str:
    stamp = Image.open(file).convert("RGBA")
    seen = stamp.getchannel("A").point(lambda opacity: 255 if opacity > VISIBLE else 0).getbbox()
    stamp = stamp.crop(seen) if seen else stamp
    stamp.thumbnail((STAMP_SIDE, STAMP_SIDE))
    stamp.save(copy)
    return copy.name


def _copy_background(file: Path, copy: Path) -> str:
    opened = Image.open(file)
    opened.draft("RGB", (BACKGROUND_SIDE, BACKGROUND_SIDE))  # JPEGs are read at a part of their size
    picture = opened.convert("RGB")
    picture.thumbnail((BACKGROUND_SIDE, BACKGROUND_SIDE))
    picture.save(copy)
    return copy.name
