"""The report as one HTML file that needs nothing else: no network, no script.

Everything in it that came from data or a model is escaped, by the template and by `charts`; and the page forbids
scripts and whatever lies elsewhere, should anything slip through.
"""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adafv.reporting import charts
from adafv.reporting.labels import BINS, STAGES
from adafv.reporting.report import Report, verdict

COLUMNS = 60  # at most, of labels over time

Chart = tuple[str, Markup, str]  # title, drawing, note


def render(report: Report) -> str:
    """The page."""
    template = Environment(
        loader=PackageLoader("adafv.reporting", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("page.html")
    return template.render(
        report=report,
        verdict=verdict(report),
        headlines=_headlines(report),
        charts=[chart for chart in _charts(report) if chart[1]],
        outstanding=[
            (title, rows)
            for title, rows in (("Least confident", report.labels.unsure.rows), ("Slowest", report.labels.slow.rows))
            if rows
        ],
    )


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """Name, figure and note of each."""
    cost, totals = report.cost, report.labels.totals
    seen, rate, per_1000 = totals["visual_tokens"], report.samples_per_second, report.cost_per_1000
    unknown = "give --price-per-hour or --prices"
    bound = "" if cost is None or cost.exact else "at least: a run was killed"
    return [
        ("labelled", f"{report.labelled:,}", f"of {report.input:,} rows"),
        ("rejected", f"{report.rejected:,}", f"{report.count.superseded:,} more are superseded"),
        ("duplicates", f"{report.count.duplicates:,}", "must be 0"),
        ("samples/s", "-" if rate is None else f"{rate:,.2f}", f"{report.seconds / 3600:,.2f} hours in all"),
        ("USD", "-" if cost is None else f"{cost.true:,.2f}", unknown if cost is None else bound),
        ("USD per 1,000", "-" if per_1000 is None else f"{per_1000:,.4f}", "idle time included"),
        ("idle", "-" if cost is None or not cost.true else f"{cost.idle / cost.true:.1%}", "of the cost"),
        *_saved(report),
        ("visual tokens kept", f"{totals['kept_tokens'] / seen:.1%}" if seen else "-", f"of {seen:,.0f}"),
    ]


def _saved(report: Report) -> list[tuple[str, str, str]]:
    """What pruning saved, if that is known."""
    found, usd = report.saved, report.saved_usd
    if found is None:
        return []
    figure = f"{found.ratio:.2f}x" if usd is None else f"{usd:,.2f} USD"
    return [("saved by pruning", figure, f"{found.how}; unpruned, a sample takes {found.ratio:.2f} times as long")]


def _charts(report: Report) -> list[Chart]:
    labels = report.labels
    stages = [(stage, labels.totals[f"{stage}_ms"] / labels.rows) for stage in STAGES] if labels.rows else []
    sure = [(f"{place / BINS:.2f}", float(count)) for place, count in enumerate(labels.confidence)]
    rejects = sorted(report.count.rejected.items(), key=lambda item: -item[1])
    over_time, minutes = _over_time(report)
    return [
        ("Labels over time", charts.columns(over_time, "labels over time", "labels"), f"in steps of {minutes} minutes"),
        (
            "Where a sample's time goes",
            charts.rows(stages, "milliseconds by stage", "ms"),
            "fetch and preprocess on CPUs",
        ),
        (
            "How long a sample takes",
            charts.columns(labels.latency_bars(), "samples by time", "samples"),
            "its share of its batch's time on a worker, on a logarithmic scale",
        ),
        (
            "How sure the answers are",
            charts.columns(sure if labels.rows else [], "answers by confidence", "answers"),
            "mean probability of an answer's tokens",
        ),
        (
            "What the tokens were kept for",
            charts.columns(labels.split_bars(), "samples by the text cue's share", "samples"),
            "the text cue's share of the picks of both cues; strategies that don't divide their budget have none",
        ),
        ("Rejects", charts.rows([(name, float(count)) for name, count in rejects], "rejects by error", "rows"), ""),
    ]


def _over_time(report: Report) -> tuple[list[charts.Bar], int]:
    """Labels in steps of equal length, and how many minutes one has. Gaps between runs are left out."""
    by_minute: Counter[int] = Counter()
    for (_, minute), part in report.labels.minutes.items():
        by_minute[minute] += part.rows
    active = sorted(by_minute)
    step = max(1, -(-len(active) // COLUMNS))
    bars = []
    for start in range(0, len(active), step):
        some = active[start : start + step]
        begins = datetime.fromtimestamp(60 * some[0], UTC).strftime("%m-%d %H:%M")
        bars.append((begins, float(sum(by_minute[minute] for minute in some))))
    return bars, step
