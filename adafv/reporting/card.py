"""The card of published labels: how they were made, how far they can be trusted, and what they cost."""

from __future__ import annotations

import json
import posixpath
from collections.abc import Sequence
from typing import Any

import adafv
from adafv.pipeline.uris import has_scheme, is_hub
from adafv.reporting.report import Report, audits

FILES = "data/*.parquet"
PLAN = ("escalate", "escalate_below", "escalate_flags", "thresholds", "max_new_tokens", "choices", "schema", "regex")


def card(report: Report, name: str) -> str:
    """Markdown with the Hub's front matter. It names no local path."""
    configs = [held.run.config for held in report.held if held.run.labelled or not held.run.is_known]
    kept, seen = report.labels.totals["kept_tokens"], report.labels.totals["visual_tokens"]
    alone = [config for config in configs if not config.get("prompts")]  # else the record has the default prompt
    asked = _values(configs, "prompts") + _values(alone, "prompt") + _values(configs, "system")
    plan = [f"{key.replace('_', '-')} {_one(value)}" for key in PLAN for value in _values(configs, key)]
    lines = [
        ("Labels", f"{report.labelled:,}, of {report.input:,} rows"),
        ("Made from", ", ".join(uri for uris in _values(configs, "input") for uri in uris if is_hub(uri))),
        ("Model", ", ".join(dict.fromkeys(map(_model, configs)))),
        ("Prompt", ", ".join(map(_one, asked))),
        ("Pruning", ", ".join(map(str, _values(configs, "strategy")))),
        ("Budget", f"{kept:,.0f} of {seen:,.0f} visual tokens kept ({kept / seen:.1%})" if seen else ""),
        ("Plan", "; ".join(plan)),
        ("Agreement", "; ".join(text for _, text in audits(report)) or "not audited (`--audit`)"),
        ("Cost", _cost(report)),
        ("Rejects", ", ".join(f"{count:,} {error}" for error, count in report.count.rejected.items()) or "none"),
    ]
    front = ["---", "configs:", "- config_name: default", f"  data_files: {FILES}", "tags:", "- adafv", "---", ""]
    made = f"Labels made by [AdaFV Batch](https://arxiv.org/abs/2501.09532) {adafv.__version__}."
    cells = [(key, " ".join(text.replace("|", "\\|").split())) for key, text in lines if text]
    table = ["| | |", "|---|---|", *(f"| {key} | {text} |" for key, text in cells)]
    return "\n".join([*front, f"# {name}", "", made, "", *table, ""])


def _values(configs: Sequence[dict[str, Any]], name: str) -> list[Any]:
    """The values of an option in the runs, each once, without empty ones."""
    found = {json.dumps(config.get(name), sort_keys=True): config.get(name) for config in configs}
    return [value for value in found.values() if value not in (None, [], ())]


def _model(config: dict[str, Any]) -> str:
    """A model's name; for a folder or bucket its last part."""
    name = str(config.get("model"))
    name = posixpath.basename(name.rstrip("/")) if has_scheme(name) or name.count("/") != 1 else name
    return name if config.get("revision") is None else f"{name} at {config['revision']}"


def _cost(report: Report) -> str:
    if report.cost is None or report.cost_per_1000 is None:
        return f"{report.worker_seconds / 3600:,.3f} worker-hours"
    bound = "" if report.cost.exact else "at least "
    return f"{bound}{report.cost.true:,.4f} USD, {report.cost_per_1000:,.4f} for 1,000 labels"


def _one(value: Any) -> str:
    return f"`{value}`" if isinstance(value, str) else f"`{json.dumps(value, ensure_ascii=False)}`"
