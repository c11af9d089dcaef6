"""What an output cost and where the time went: runs, labels and prices together.

**True cost** is the time workers were held, from their start to the end of the run, times their price; it includes idle
time, start-up and repeated work. **Attributed cost** is the part that labels account for by `gpu_seconds`. The
difference is idle cost.

A killed run doesn't record how long it held its workers. Its last label tells, to the minute, so its true cost is
reported as a lower bound.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from adafv.pipeline.outputs.reader import Reconciliation, reconcile
from adafv.pipeline.passed import Passed
from adafv.pipeline.record.prices import Price
from adafv.pipeline.record.run_record import cut_off, format_table
from adafv.pipeline.redaction import shorten
from adafv.pipeline.schema import STAGES
from adafv.pipeline.store.output import open_output
from adafv.pipeline.store.storage import Storage
from adafv.reporting.labels import BINS, SHOWN, LabelFigures, read_figures
from adafv.reporting.prices import Rate, price_of
from adafv.reporting.rejects import RejectExamples
from adafv.reporting.runs import RecordedRun, read_runs
from adafv.reporting.saved import Saved, measured, saved
from adafv.scoring.bounds import floored


@dataclass(frozen=True)
class Held:
    """How long a run took and held its workers. Not `exact` for a killed run: it may be longer."""

    run: RecordedRun
    seconds: float
    worker_seconds: float
    exact: bool


@dataclass(frozen=True)
class Cost:
    """USD. `exact` unless a killed run's end is unknown."""

    attributed: float
    true: float
    exact: bool

    @property
    def idle(self) -> float:
        return self.true - self.attributed


@dataclass(frozen=True)
class Report:
    """All figures of an output.

    Attributes:
        cost: None if a run's price is unknown.
        unpriced: the names of runs without a known price, and why.
        rejects: some current rejects of every error.
        saved: what pruning saved; None if nothing was pruned, or the unpruned work is unknown.
    """

    uri: str
    held: list[Held]
    labels: LabelFigures
    count: Reconciliation
    cost: Cost | None
    unpriced: dict[str, str]
    rejects: list[dict[str, Any]]
    saved: Saved | None

    @property
    def input(self) -> int:
        """Rows in the input of the last run that ended; if none did, the labelled and rejected rows."""
        ended = [held.run.input for held in self.held if held.run.is_known and held.run.input]
        return ended[-1] if ended else self.labelled + self.rejected

    @property
    def passed_over(self) -> tuple[Passed, ...]:
        """What the last run's input passed over."""
        known = [held.run.passed_over for held in self.held if held.run.input]
        return known[-1] if known else ()

    @property
    def labelled(self) -> int:
        return self.count.labelled

    @property
    def rejected(self) -> int:
        return sum(self.count.rejected.values())

    @property
    def seconds(self) -> float:
        return sum(held.seconds for held in self.held)

    @property
    def worker_seconds(self) -> float:
        return sum(held.worker_seconds for held in self.held)

    @property
    def samples_per_second(self) -> float | None:
        return self.labels.rows / self.seconds if self.seconds else None

    @property
    def cost_per_1000(self) -> float | None:
        return None if self.cost is None or not self.labelled else 1000 * self.cost.true / self.labelled

    @property
    def saved_usd(self) -> float | None:
        """At the labels' mean price per second."""
        if self.saved is None or self.cost is None:
            return None
        return self.saved.seconds * self.cost.attributed / self.labels.totals["gpu_seconds"]

    def compared_with(self, other: Report) -> Report:
        """With the savings measured against `other`, if possible."""
        return replace(self, saved=measured(self.labels, other.labels) or self.saved)

    def as_json(self) -> dict[str, Any]:
        labels, cost = self.labels, self.cost
        return {
            "output": self.uri,
            "input": self.input,
            "labelled": self.labelled,
            "rejected": self.rejected,
            "rejected_by_error": self.count.rejected,
            "passed_over": [asdict(one) for one in self.passed_over],
            "superseded": self.count.superseded,
            "duplicates": self.count.duplicates,
            "runs": len(self.held),
            "seconds": self.seconds,
            "samples_per_s": self.samples_per_second,
            "worker_hours": self.worker_seconds / 3600,
            "cost_attributed_usd": None if cost is None else cost.attributed,
            "cost_idle_usd": None if cost is None else cost.idle,
            "cost_true_usd": None if cost is None else cost.true,
            "cost_is_lower_bound": None if cost is None else not cost.exact,
            "cost_per_1000_usd": self.cost_per_1000,
            "cost_unknown": self.unpriced,
            "saved": None if self.saved is None else self.saved.as_json() | {"usd": self.saved_usd},
            "visual_tokens": labels.totals["visual_tokens"],
            "kept_tokens": labels.totals["kept_tokens"],
            "output_tokens": labels.totals["output_tokens"],
            "stage_seconds": {stage: labels.totals[f"{stage}_ms"] / 1000 for stage in STAGES},
            "gpu_seconds": labels.totals["gpu_seconds"],
            "by_strategy": {
                name: {"labelled": part.rows, "gpu_seconds": part.gpu_seconds}
                for name, part in sorted(labels.strategies.items())
            },
            "second_looks": self._second_looks(),
            "audits": self._audits(),
            "finished": dict(sorted(labels.finished.items())),
            "flags": dict(sorted(labels.flags.items())),
            "confidence": {"bins": BINS, "counts": labels.confidence.tolist()},
            "least_confident": [{name: row[name] for name in SHOWN} for row in labels.unsure.rows],
            "slowest": [{name: row[name] for name in SHOWN} for row in labels.slow.rows],
        }

    def _audits(self) -> dict[str, Any]:
        """By run id; a resumed run's earlier ones by its id and their start."""
        audited = [each.run for each in self.held if each.run.audit]
        last = {run.run_id: run for run in audited}
        return {
            run.run_id if last[run.run_id] is run else f"{run.run_id} ({run.started.isoformat()})": run.audit
            for run in audited
        }

    @property
    def second_looks_usd(self) -> float | None:
        """At the labels' mean price per second."""
        spent, used = self.labels.second_looks.seconds, self.labels.totals["gpu_seconds"]
        return None if self.cost is None or spent is None or not used else spent * self.cost.attributed / used

    def _second_looks(self) -> dict[str, Any]:
        found = self.labels.second_looks
        columns = (*SHOWN, "first_answer", "first_confidence")
        return {
            "asked_again": found.rows,
            "changed": found.changed,
            "gpu_seconds": found.seconds,
            "usd": self.second_looks_usd,
            "revised": [{name: row[name] for name in columns} for row in found.revised.rows],
        }


def make_report(
    uri: str | os.PathLike[str],
    price_per_hour: float | None = None,
    prices: Sequence[Price] = (),
    storage: Storage | None = None,
) -> Report:
    """Read the output at `uri`, a local folder or s3://. Labels are streamed.

    Args:
        price_per_hour: USD per worker hour, for all runs.
        prices: for runs that record their devices but no price.

    Raises:
        UsageError: there is no output.
    """
    storage = storage or Storage.from_environment()
    rejects = RejectExamples()
    count = reconcile(uri, storage, rejects.add)
    labels = read_figures(uri, storage)
    output = open_output(os.fspath(uri), storage)
    held = _held(read_runs(output), labels)
    costly = _costly(held, labels)
    rates = [price_of(each.run, price_per_hour, prices) for each in costly]
    unpriced = dict.fromkeys(labels.minutes.keys() - {each.run.run_id for each in held}, "runs/ has no record of it")
    unpriced |= {one.run.run_id: rate.why for one, rate in zip(costly, rates, strict=True) if rate.usd_per_hour is None}
    cost = None if unpriced else _cost(costly, labels, rates, exact=all(each.exact for each in held))
    known = [each.run for each in held if each.run.run_id in labels.minutes]
    sizes = {None if run.config.get("audit") else run.sizes for run in known}
    return Report(output.uri, held, labels, count, cost, unpriced, rejects.rows(), saved(labels, sizes))


def _held(runs: Sequence[RecordedRun], labels: LabelFigures) -> list[Held]:
    held = []
    for place, run in enumerate(runs):
        if run.is_known:
            held.append(Held(run, run.seconds, run.worker_seconds, exact=True))
            continue
        following = next((later.started for later in runs[place + 1 :]), None)
        last = labels.last_label(run.run_id, run.started, following)
        seconds = 0.0 if last is None else max(0.0, (last - run.started).total_seconds())
        held.append(Held(run, seconds, seconds * run.workers, exact=False))
    return held


def _costly(held: Sequence[Held], labels: LabelFigures) -> list[Held]:
    """The runs that held workers. One with nothing to do held none, and needs no price."""
    busy = {each.run.run_id for each in held if each.worker_seconds}
    return [
        each
        for each in held
        if each.worker_seconds or (each.run.run_id not in busy and labels.gpu_seconds(each.run.run_id))
    ]


def _cost(held: Sequence[Held], labels: LabelFigures, rates: Sequence[Rate], exact: bool) -> Cost:
    """The cost of runs with known prices. Runs of one name share its labels, and the last one's price."""
    by_name: dict[str, list[tuple[Held, float]]] = {}
    for each, rate in zip(held, rates, strict=True):
        by_name.setdefault(each.run.run_id, []).append((each, rate.usd_per_hour or 0.0))
    attributed = true = 0.0
    for name, executions in by_name.items():
        used = labels.gpu_seconds(name)
        spent = sum(each.worker_seconds * usd for each, usd in executions)
        ended, last = all(each.exact for each, _ in executions), executions[-1][1]
        attributed += used * last / 3600
        # Without a known end, workers were held at least as long as the labels took.
        true += (spent if ended else max(spent, used * last)) / 3600
    return Cost(attributed, true, exact)


def summary(report: Report) -> str:
    """The text that is printed."""
    labels, totals = report.labels, report.labels.totals
    lines = [("input", f"{report.input:,}"), ("labelled", f"{report.labelled:,}")]
    lines[1:1] = [("passed over", str(one)) for one in report.passed_over]
    lines += [("rejected", f"{report.rejected:,}")]
    lines += [(f"  {error}", f"{count:,}") for error, count in report.count.rejected.items()]
    lines += [("superseded rejects", f"{report.count.superseded:,}"), ("duplicates", f"{report.count.duplicates:,}")]
    lines += [(f"  {line}", "") for line in verdict(report)]
    rate = report.samples_per_second
    lines += [
        ("samples/s", "-" if rate is None else f"{rate:,.2f}"),
        ("worker-hours", f"{report.worker_seconds / 3600:,.3f}"),
    ]
    lines += _cost_lines(report)
    seen, kept = totals["visual_tokens"], totals["kept_tokens"]
    lines += _saved_lines(report)
    lines += _second_look_lines(report)
    lines += [(f"audited in {run_id}", text) for run_id, text in audits(report)]
    lines.append(("visual tokens kept", f"{kept:,.0f} of {seen:,.0f} ({kept / seen:.1%})" if seen else "-"))
    if labels.rows:
        each = ", ".join(f"{stage} {totals[f'{stage}_ms'] / labels.rows:,.1f}" for stage in STAGES)
        lines.append(("ms per sample", each))
        cut = labels.finished.get("length", 0)
        lines.append(("answers cut off", cut_off(cut, labels.rows, _longest(report) if cut else None)))
        others = [f"{flag} {many:,}" for flag, many in labels.flags.most_common() if flag != "cut"]
        lines += [("answers flagged", ", ".join(others))] if others else []
    text = [format_table(f"{report.uri}, runs: {len(report.held)}", lines)]
    text += _rows("least confident", labels.unsure.rows, lambda row: f"{row['mean_logprob']:7.3f}")
    revised = labels.second_looks.revised.rows
    text += _rows("changed by a second look, from", revised, lambda row: f"{_short(row['first_answer'], 20):<20}")
    text += _rows("slowest, ms", labels.slow.rows, lambda row: f"{1000 * row['gpu_seconds']:7.0f}")
    return "\n".join(text)


def _longest(report: Report) -> int | None:
    """The highest --max-new-tokens of the runs."""
    return max((held.run.config.get("max_new_tokens") or 0 for held in report.held), default=0) or None


def verdict(report: Report) -> list[str]:
    """Whether every row of the input is in exactly one place."""
    if report.count.duplicates:
        return ["some ids are in labels/ twice: this is a bug, please report it"]
    # A repeated id is a reject, and no row of its own.
    accounted = report.labelled + report.rejected
    if accounted == report.input:
        return ["every row of the last run's input is labelled or rejected exactly once"]
    if accounted > report.input:
        return [f"{accounted - report.input:,} rows are from input that the last run didn't have"]
    return [f"{report.input - accounted:,} rows are neither yet: run the same command again"]


def _cost_lines(report: Report) -> list[tuple[str, str]]:
    cost = report.cost
    if cost is None:
        hint = "unknown: give --price-per-hour, or --prices such as cluster/prices.yaml, for the workers of"
        lines = [("cost", f"{hint} {', '.join(sorted(report.unpriced))}")]
        return lines + [("", f"{run_id}: {_short(why, 300)}") for run_id, why in sorted(report.unpriced.items()) if why]
    bound = "" if cost.exact else ", at least (a run was killed)"
    idle = f" ({cost.idle / cost.true:.1%})" if cost.true else ""
    per_1000 = report.cost_per_1000
    return [
        ("cost, USD", f"{cost.true:,.4f}{bound}"),
        ("  attributed to labels", f"{cost.attributed:,.4f}"),
        ("  idle and start-up", f"{cost.idle:,.4f}{idle}"),
        ("USD per 1,000 samples", "-" if per_1000 is None else f"{per_1000:,.4f}"),
    ]


def _saved_lines(report: Report) -> list[tuple[str, str]]:
    found, usd = report.saved, report.saved_usd
    if found is None:
        return []
    each = f"{1000 * found.unpruned_seconds:,.1f} -> {1000 * found.pruned_seconds:,.1f} ms per sample"
    money = "" if usd is None else f", {usd:,.4f} USD"
    return [(f"saved, {found.how}", f"{each} ({found.ratio:.2f}x): {found.seconds / 3600:,.3f} worker-hours{money}")]


def audits(report: Report) -> list[tuple[str, str]]:
    """The agreement of each run's audited rows with the unpruned answers."""
    return [
        (
            held.run.run_id,
            f"{found['rows']:,} rows: {found['measure']} agreement {found['agreement']:.4f} "
            f"[{floored(found['low']):.4f}, {found['high']:.4f}] with the unpruned answers",
        )
        for held in report.held
        if (found := held.run.audit) is not None
    ]


def _second_look_lines(report: Report) -> list[tuple[str, str]]:
    found, usd = report.labels.second_looks, report.second_looks_usd
    if not found.rows:
        return []
    took = "" if found.seconds is None else f", about {found.seconds / 3600:,.3f} worker-hours"
    money = "" if usd is None else f", {usd:,.4f} USD"
    return [
        ("asked again", f"{found.rows:,} ({found.rows / report.labels.rows:.1%}){took}{money}"),
        ("  answers changed", f"{found.changed:,} ({found.changed / found.rows:.1%} of these)"),
    ]


def _rows(title: str, rows: Sequence[dict[str, Any]], figure: Callable[[dict[str, Any]], str]) -> list[str]:
    """A few rows that stand out, one per line."""
    if not rows:
        return []
    lines = [
        f"  {figure(row)}  {_short(row['id'], 24):<24}  {_short(row['question'], 40):<40}  {_short(row['answer'], 40)}"
        for row in rows[:5]
    ]
    return ["", title, *lines]


def _short(text: str | None, width: int) -> str:
    """On one line, without control characters."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text or "").split())
    return shorten(line, width)
