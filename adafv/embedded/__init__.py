"""The small trained models that come with the package: what `--model testbed` and `--model testbed-emerged` load.

Each is a folder beside this file, as `save_pretrained` wrote it, with a README and the log of its training. They answer
questions about drawn scenes; `adafv.worlds.drawn`, which trained them, isn't in the wheel. Nothing here imports torch:
Ray's own workers do without it.
"""

import os
from pathlib import Path

EMBEDDED = ("testbed", "testbed-emerged")
# Models of published parts, too large to come with the package: name -> folder in the cache folder.
BUILT = {
    "testbed-photo": "photo/models/photo-aligned",
    "testbed-photo-next": "photo/models/photo-aligned-next",
    "testbed-photo-emerged": "photo/models/photo",
}
# Models of worlds, which come with the repository only.
OF_WORLDS = ("textured-clip", "textured-qwen")
OWN_MODELS = (*EMBEDDED, *OF_WORLDS, *BUILT)  # what `--model` knows by name


def cache_folder() -> Path:
    """Where downloaded and built models are kept: ADAFV_CACHE, or the user's cache folder."""
    return Path(os.environ.get("ADAFV_CACHE") or Path.home() / ".cache" / "adafv")


def own_model(name: str) -> Path:
    """The folder of one of OWN_MODELS.

    Raises:
        FileNotFoundError: the installation lacks it, or it hasn't been built.
    """
    if name in OF_WORLDS:
        return model_of_world(name)
    if name not in BUILT:
        return embedded_model(name)
    folder = cache_folder() / BUILT[name]
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the model {name} isn't in {folder}; in a checkout of adafv, build it with: make photo"
        )
    return folder


def embedded_model(name: str) -> Path:
    """The folder with the weights and the processor's files of one of EMBEDDED.

    Raises:
        FileNotFoundError: the installation lacks it.
    """
    folder = Path(__file__).parent / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the embedded model {name} is not in {folder}; install adafv again, or in a checkout train it with: "
            f"python -m adafv.worlds.drawn.train --output {folder}"
        )
    return folder


def model_of_world(name: str) -> Path:
    """The folder of one of OF_WORLDS.

    Raises:
        FileNotFoundError: this is no checkout, or one without it.
    """
    folder = Path(__file__).parents[1] / "worlds" / "drawn" / "weights" / name
    if not (folder / "model.safetensors").is_file():
        raise FileNotFoundError(
            f"the model {name} is not in {folder}: it comes with a checkout of adafv, not with the package; train it "
            f"there with: python -m adafv.worlds.drawn.train --model {name} --output {folder}"
        )
    return folder
