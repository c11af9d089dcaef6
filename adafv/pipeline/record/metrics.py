"""A run's Prometheus metrics, through `ray.util.metrics`; Ray exports them on the driver's node.

They are counted in the driver, which gets every row once; counters in workers would count reruns. Each counter is
raised by what the tally has gained, so the two can't drift apart. Recording takes microseconds, and Ray sends from its
own thread: a missing or hanging collector doesn't affect the run.
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
import ray
from ray.util.metrics import Counter, Gauge, Histogram

from adafv.internals import record
from adafv.pipeline.record.tally import Tally
from adafv.pipeline.rejects import ERRORS
from adafv.pipeline.schema import STAGES

RUN_TAGS = ("run_id", "strategy")  # on every metric
SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0, 60.0]


@dataclass(frozen=True)
class Meaning:
    """A metric's description, and its tag besides the run's."""

    text: str
    tag: str | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        return RUN_TAGS if self.tag is None else (*RUN_TAGS, self.tag)


# By exported name, without Ray's prefix `ray_`.
COUNTERS = {
    "adafv_rows_total": Meaning("rows finished, labelled or rejected"),
    "adafv_samples_total": Meaning("rows labelled"),
    "adafv_truncated_samples_total": Meaning("labels whose answer --max-new-tokens cut off"),
    "adafv_rejects_total": Meaning("rows rejected, by reason", "error"),
    "adafv_audited_samples_total": Meaning("labels also asked unpruned"),
    "adafv_audited_agreement_total": Meaning("sum of their agreement, each from 0 to 1"),
    "adafv_batches_total": Meaning("batches labelled"),
    "adafv_visual_tokens_total": Meaning("visual tokens before pruning"),
    "adafv_kept_tokens_total": Meaning("visual tokens after pruning"),
    "adafv_prompt_tokens_total": Meaning("prompt tokens, with kept visual tokens"),
    "adafv_output_tokens_total": Meaning("tokens generated"),
    "adafv_stage_seconds_total": Meaning("seconds that labelled samples took, by stage", "stage"),
    "adafv_gpu_seconds_total": Meaning("seconds that batches held their workers"),
    "adafv_worker_seconds_total": Meaning("seconds that workers were held, idle time included"),
    "adafv_cost_usd_total": Meaning("worker-seconds at their price, in USD"),
    "adafv_attributed_cost_usd_total": Meaning("gpu-seconds of labels at their price, in USD"),
}
GAUGES = {"adafv_planned_rows": Meaning("rows to do, while the run goes on")}
HISTOGRAMS = {"adafv_sample_stage_seconds": Meaning("seconds that one labelled sample took, by stage", "stage")}


class Metrics:
    """The metrics of one run with `planned` rows to do. Exported if Ray is initialised."""

    def __init__(self, run_id: str, strategy: str, planned: int) -> None:
        self._planned = planned
        self._published: dict[tuple[str, str | None], float] = {}
        common = {"run_id": run_id, "strategy": strategy}
        self._counters = {
            name: Counter(name, meaning.text, meaning.tags).set_default_tags(common)
            for name, meaning in COUNTERS.items()
        }
        [(name, meaning)] = GAUGES.items()
        self._gauge = Gauge(name, meaning.text, meaning.tags).set_default_tags(common)
        [(name, meaning)] = HISTOGRAMS.items()
        self._histogram = Histogram(name, meaning.text, SECONDS, meaning.tags).set_default_tags(common)

    def observe(self, table: pa.Table) -> None:
        """Put the stage times of a table of `schema.RESULTS` into the histogram.

        One observation per label and stage, even if a batch's rows share a time; none of reused labels. It takes 2 µs
        here and 12 in Ray's agent: a tenth of a millisecond of CPU time per label.
        """
        made = pc.not_equal(table.column("gpu_seconds"), 0.0).fill_null(True)
        labels = pc.and_(pc.is_null(table.column("error")), made)
        times = table.select([f"{stage}_ms" for stage in STAGES]).filter(labels)
        for stage in STAGES:
            for seconds in pc.divide(times.column(f"{stage}_ms").drop_null(), 1000.0).to_pylist():
                self._histogram.observe(seconds, {"stage": stage})

    def publish(self, tally: Tally, worker_seconds: float, usd: float | None) -> None:
        """Bring the counters up to the tally; the first time, start them at zero. One thread at a time, every ten
        seconds: Ray drops a gauge that isn't set for twenty."""
        self._gauge.set(self._planned)
        for (name, tag), value in figures(tally, worker_seconds, usd).items():
            before = self._published.get((name, tag))
            gained = value - (before or 0)
            if gained > 0 or before is None:  # worker-seconds may fall when the clock is set back
                # Also a zero: without it Prometheus doesn't see the first increase.
                record(self._counters[name], gained, {COUNTERS[name].tag: tag} if tag else None)
                self._published[name, tag] = value


def figures(tally: Tally, worker_seconds: float, usd: float | None) -> dict[tuple[str, str | None], float]:
    """The value of each counter, by its name and the value of its own tag. `usd` is None if the price is unknown."""
    totals = tally.totals
    found: dict[tuple[str, str | None], float] = {
        ("adafv_rows_total", None): tally.rows,
        ("adafv_samples_total", None): tally.labelled,
        ("adafv_truncated_samples_total", None): tally.truncated,
        ("adafv_audited_samples_total", None): tally.audit.rows,
        ("adafv_audited_agreement_total", None): tally.audit.agreement,
        ("adafv_batches_total", None): tally.batches,
        ("adafv_worker_seconds_total", None): worker_seconds,
    }
    counted = ("visual_tokens", "kept_tokens", "prompt_tokens", "output_tokens")
    found |= {(f"adafv_{name}_total", None): totals[name] for name in counted}
    found["adafv_gpu_seconds_total", None] = totals["gpu_seconds"] + tally.rejected_seconds
    found |= {("adafv_rejects_total", error): tally.rejected[error] for error in ERRORS}
    found |= {("adafv_stage_seconds_total", stage): totals[f"{stage}_ms"] / 1000 for stage in STAGES}
    if usd is not None:
        found["adafv_cost_usd_total", None] = usd
        found["adafv_attributed_cost_usd_total", None] = totals["cost_usd"]
    return found


def address() -> str | None:
    """The URL of this node's metrics; None if Ray collects none."""
    here = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here]
    host, port = node["NodeManagerAddress"], node["MetricsExportPort"]
    return f"http://{host}:{port}/metrics" if port > 0 else None
