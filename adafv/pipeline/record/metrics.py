"""What Prometheus sees of a run while it runs, through `ray.util.metrics`; Ray exports it on the driver's node.

It is counted in the driver, which every row reaches once; workers' counters would count again what Ray runs again. Each
counter is brought up to the run's tally by adding what this has gained, so that the two can't drift apart. Recording
is a few microseconds in memory, and Ray sends it on from a thread of its own: where nobody collects it, or the
collector hangs, the run doesn't notice.
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
    """A metric's description, and the tag that it has besides those of the run."""

    text: str
    tag: str | None = None

    @property
    def tags(self) -> tuple[str, ...]:
        return RUN_TAGS if self.tag is None else (*RUN_TAGS, self.tag)


# By the names that Ray exports, without the `ray_` that it puts before each.
COUNTERS = {
    "adafv_rows_total": Meaning("rows that came out, labelled or rejected"),
    "adafv_samples_total": Meaning("rows labelled"),
    "adafv_truncated_samples_total": Meaning("labels whose answer --max-new-tokens cut off"),
    "adafv_rejects_total": Meaning("rows rejected, by the reason", "error"),
    "adafv_audited_samples_total": Meaning("labels that were asked unpruned as well"),
    "adafv_audited_agreement_total": Meaning("of these, how far each agrees with the unpruned answer, from 0 to 1"),
    "adafv_batches_total": Meaning("batches that the labels were made in"),
    "adafv_visual_tokens_total": Meaning("visual tokens of the labelled samples, before pruning"),
    "adafv_kept_tokens_total": Meaning("visual tokens that the language model saw"),
    "adafv_prompt_tokens_total": Meaning("tokens that the language model read, kept visual tokens included"),
    "adafv_output_tokens_total": Meaning("tokens generated"),
    "adafv_stage_seconds_total": Meaning("seconds that the labelled samples took, by stage", "stage"),
    "adafv_gpu_seconds_total": Meaning("seconds that batches held their workers, on GPUs or CPUs"),
    "adafv_worker_seconds_total": Meaning("seconds that workers have been held, idle time included"),
    "adafv_cost_usd_total": Meaning("worker-seconds at the price given, in USD"),
    "adafv_attributed_cost_usd_total": Meaning("gpu-seconds at the price given, in USD"),
}
GAUGES = {"adafv_planned_rows": Meaning("rows that the run set out to do, while it runs")}
HISTOGRAMS = {"adafv_sample_stage_seconds": Meaning("seconds that one labelled sample took, by stage", "stage")}


class Metrics:
    """The metrics of one run, which has `planned` rows to do. Needs an initialised Ray to be exported."""

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
        """Put the stages of a table of `schema.RESULTS` into the histogram.

        One observation for each label, also where a batch's rows share one time: the histogram counts samples. That
        takes 2 µs here, and 12 in Ray's agent, which turns buckets into observations again: with all its stages a
        sample costs a tenth of a millisecond of CPU time.
        """
        times = table.select([f"{stage}_ms" for stage in STAGES]).filter(pc.is_null(table.column("error")))
        for stage in STAGES:
            for seconds in pc.divide(times.column(f"{stage}_ms").drop_null(), 1000.0).to_pylist():
                self._histogram.observe(seconds, {"stage": stage})

    def publish(self, tally: Tally, worker_seconds: float, usd: float | None) -> None:
        """Bring the counters up to the tally; at first, to begin them, to zero.

        By one thread at a time, and every ten seconds: Ray forgets a gauge that hasn't been set for twenty.
        """
        self._gauge.set(self._planned)
        for (name, tag), value in figures(tally, worker_seconds, usd).items():
            before = self._published.get((name, tag))
            gained = value - (before or 0)
            if gained > 0 or before is None:  # worker-seconds lose a moment when the clock is put back
                # A zero too: without it Prometheus doesn't see the first ones as a rise.
                record(self._counters[name], gained, {COUNTERS[name].tag: tag} if tag else None)
                self._published[name, tag] = value


def figures(tally: Tally, worker_seconds: float, usd: float | None) -> dict[tuple[str, str | None], float]:
    """What each counter should stand at, by its name and the value of its own tag. `worker_seconds`: held so far;
    `usd`: what that costs, where the price is known."""
    totals = tally.totals
    found: dict[tuple[str, str | None], float] = {
        ("adafv_rows_total", None): tally.rows,
        ("adafv_samples_total", None): tally.labelled,
        ("adafv_truncated_samples_total", None): tally.truncated,
        ("adafv_audited_samples_total", None): tally.audit.rows,
        ("adafv_audited_agreement_total", None): tally.audit.agreement,
        ("adafv_batches_total", None): tally.batches,
        ("adafv_visual_tokens_total", None): totals["visual_tokens"],
        ("adafv_kept_tokens_total", None): totals["kept_tokens"],
        ("adafv_prompt_tokens_total", None): totals["prompt_tokens"],
        ("adafv_output_tokens_total", None): totals["output_tokens"],
        ("adafv_gpu_seconds_total", None): totals["gpu_seconds"],
        ("adafv_worker_seconds_total", None): worker_seconds,
    }
    found |= {("adafv_rejects_total", error): tally.rejected[error] for error in ERRORS}
    found |= {("adafv_stage_seconds_total", stage): totals[f"{stage}_ms"] / 1000 for stage in STAGES}
    if usd is not None:
        found["adafv_cost_usd_total", None] = usd
        found["adafv_attributed_cost_usd_total", None] = totals["cost_usd"]
    return found


def address() -> str | None:
    """Where Prometheus finds this node's metrics; None where Ray collects none."""
    here = ray.get_runtime_context().get_node_id()
    [node] = [node for node in ray.nodes() if node["NodeID"] == here]
    host, port = node["NodeManagerAddress"], node["MetricsExportPort"]
    return f"http://{host}:{port}/metrics" if port > 0 else None
