"""What `trial` says of every image-text-to-text type of the installed transformers, as the table in docs.

python -m tests.models.general.matrix          tries all types that have no adapter of their own, and writes the table
python -m tests.models.general.matrix aria …   tries some, and prints what came out
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

import transformers
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from adafv.models.loading import FAMILIES
from tests.models.general.kinds import KINDS, Kind
from tests.models.general.tiny import build
from tests.models.general.trial import COLUMNS, Trial

DOCS = Path(__file__).parents[3] / "docs" / "measurements" / "types.md"
_BEGIN, _END = "<!-- types: python -m tests.models.general.matrix -->", "<!-- end of types -->"
_REASONS = {  # what the table says for a message that this is found in
    "torchvision": "need torchvision",
    "timm": "need timm",
    "not tried": "not tried: no small model of it was made",
    "its own forward fails": "not tried: the small model's own forward fails",
    "makes nothing of an image": "refused: the processor makes nothing of an image",
    "encoder and a decoder": "refused: an encoder and a decoder",
    "keep states": "refused: layers keep states other than keys and values",
    "depend on more": "refused: input embeddings depend on more than their own token or image",
}


def tried(model_type: str) -> tuple[dict[str, str], str]:
    """Of each column how it came out, and where saliency comes from; or nothing and the reason."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            build(model_type, Path(folder))
        except Exception as error:
            return {}, f"not tried: no small model of it was made ({_said(error)})"
        trial = Trial(model_type, Path(folder))
        try:
            adapter = trial.adapter
        except Exception as error:
            return {}, f"refused: {_said(error)}"
        cells = {}
        for name, column in COLUMNS.items():
            if name in KINDS.get(model_type, Kind()).without:
                cells[name] = "—"
                continue
            try:
                column(trial)
                cells[name] = "✓"
            except Exception as error:
                print(model_type, name, _said(error), file=sys.stderr)
                cells[name] = "✗"
        mapping = adapter.watch.mapping
        return cells, "even" if mapping is None else "[CLS]" if mapping.leading else "received"


def _said(error: Exception) -> str:
    first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
    return first[:140].replace("|", "\\|")


def table(results: dict[str, tuple[dict[str, str], str]]) -> str:
    """Markdown: the types that passed, by where saliency comes from; those that failed; and, by reason, the others."""
    failed = {name: [column for column, mark in cells.items() if mark == "✗"] for name, (cells, _) in results.items()}
    passed = [(saliency, name) for name, (cells, saliency) in results.items() if cells and not failed[name]]
    others = [(_reason(reason), name) for name, (cells, reason) in results.items() if not cells]
    begin = f"transformers {transformers.__version__}: {len(passed)} types pass all, by where saliency comes from:"
    lines = [begin, "", *_grouped(passed), "", "Others:", ""]
    lines += [f"- fails {', '.join(columns)}: `{name}`" for name, columns in failed.items() if columns]
    return "\n".join([*lines, *_grouped(others)])


def _grouped(pairs: Iterable[tuple[str, str]]) -> list[str]:
    groups: dict[str, list[str]] = {}
    for group, name in pairs:
        groups.setdefault(group, []).append(f"`{name}`")
    return [f"- {group}: {', '.join(names)}" for group, names in groups.items()]


def _reason(said: str) -> str:
    short = re.sub(r"model type '[^']*' can't be pruned: |; it can't be pruned", "", said).strip()
    return next((reason for found, reason in _REASONS.items() if re.search(found, said, re.I)), short)


def main(names: list[str]) -> int:
    types = names or [name for name in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES if name not in FAMILIES]
    results = {}
    for name in types:
        results[name] = tried(name)
        print(name, *results[name], file=sys.stderr, flush=True)
    if names:
        print(table(results))
        return 0
    before, _, rest = DOCS.read_text(encoding="utf-8").partition(_BEGIN)
    after = rest.partition(_END)[2]
    DOCS.write_text(f"{before}{_BEGIN}\n\n{table(results)}\n\n{_END}{after}", encoding="utf-8")
    return int(any("✗" in cells.values() for cells, _ in results.values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
