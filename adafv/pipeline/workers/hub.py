"""Models on the Hugging Face Hub: a repository at one commit, downloaded once per node.

A branch moves while a job runs, and a later worker would label with another model. So the driver looks up the commit of
`--revision` once, the run and the recipe record it, and all workers load it. Access is the Hub's own: `HF_TOKEN` or a
login; `HF_HUB_OFFLINE` uses the cache.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from adafv.embedded import OWN_MODELS
from adafv.pipeline.store.hub import hub_problem
from adafv.pipeline.uris import is_s3

_SMALL = ("*.json", "*.jinja", "*.txt", "*.model")
_WEIGHTS = "*.safetensors"
_ASIDE = ("*/*.safetensors", "*/*.json", "consolidated*")  # the same weights in other formats
_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
_PINNED = re.compile(r"(\w[\w.-]*(?:/\w[\w.-]*)?)@([0-9a-f]{40})")


def is_hub_id(name: str) -> bool:
    """Whether `--model` names a repository rather than a folder, a prefix or an embedded model."""
    return not (is_s3(name) or name in OWN_MODELS or os.path.isdir(name)) and _NAME.fullmatch(name) is not None


def commit_of(repository: str, revision: str | None) -> str:
    """The current commit of a branch, tag or commit; the default branch's if `revision` is None.

    Raises:
        OSError: the repository or revision isn't there or not readable; the message says what to do.
    """
    return _snapshot(repository, revision, _SMALL).name


def downloaded(name: str, weights: bool = True) -> Path | None:
    """The folder of a model named REPOSITORY@COMMIT, with its weights if asked for; None for any other name.

    Raises:
        OSError: as for `commit_of`, or there are no safetensors weights.
    """
    match = _PINNED.fullmatch(name)
    if match is None or os.path.isdir(name):
        return None
    folder = _snapshot(match[1], match[2], (*_SMALL, _WEIGHTS) if weights else _SMALL)
    if weights and not any(folder.glob(_WEIGHTS)):
        raise OSError(
            f"{match[1]} has no safetensors weights at {match[2]}; load it with transformers elsewhere, save it with "
            "save_pretrained, and give that folder"
        )
    return folder


def _snapshot(repository: str, revision: str | None, files: tuple[str, ...]) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=[*files], ignore_patterns=[*_ASIDE])
    except HfHubHTTPError as error:
        raise hub_problem(error, repository, revision, "model") from error
    except LocalEntryNotFoundError as error:
        raise OSError(
            f"the hub can't be reached, and {repository} is not in the cache; download it where there is a network "
            f"(hf download {repository}), and give the folder or an s3:// prefix"
        ) from error
    return Path(folder)
