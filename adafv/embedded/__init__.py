"""The small trained models that come with the package: what `--model testbed` and `--model testbed-emerged` load.

Each is a folder beside this file, as `save_pretrained` wrote it, with a README and the log of its training. They answer
questions about drawn scenes; `adafv.worlds.drawn`, which trained them, isn't in the wheel. Nothing here imports torch:
Ray's own workers do without it.
"""

from pathlib import Path

EMBEDDED = ("testbed", "testbed-emerged")


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
