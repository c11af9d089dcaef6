"""The report as one self-contained HTML file: no network, no script. Text from data or a model is escaped by the
templates, `charts` and `drawing`, and the page's policy forbids scripts and outside content."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from adafv.pipeline.schema import STAGES
from adafv.reporting import charts
from adafv.reporting.gallery import KINDS, make_gallery
from adafv.reporting.labels import BINS, DECADES, PER_DECADE, RATIOS
from adafv.reporting.pictures import Access
from adafv.reporting.report import Cost, Report, verdict
from adafv.scoring.bounds import floored

COLUMNS = 60  # at most, of labels over time
CELLS = 24  # at most, of the share of tokens kept
SHARES = [(0.0, "0"), (0.5, "0.5"), (1.0, "1")]

Chart = tuple[str, Markup, str]  # title, drawing, note


def render(report: Report, access: Access | None = None) -> str:
    """The page. Images are fetched with `access`; None leaves them out."""
    template = Environment(
        loader=PackageLoader("adafv.reporting", "."), autoescape=True, undefined=StrictUndefined
    ).get_template("page.html")
    cards = make_gallery(report, access)
    kinds = {kind: name for kind, name in KINDS.items() if any(kind in card.kinds for card in cards)}
    return template.render(
        report=report,
        verdict=verdict(report),
        mood=_mood(report),
        headlines=_headlines(report),
        charts=[chart for chart in _charts(report) if chart[1]],
        kinds=kinds,
        cards=cards,
        standouts={
            kind: [card for card in cards if kind in card.kinds] for kind in ("unsure", "slow") if kind in kinds
        },
    )


def _mood(report: Report) -> str:
    """The verdict's style: `bad`, `open` if something is still to do, or empty."""
    if report.count.duplicates:
        return "bad"
    return "" if report.labelled + report.rejected == report.input else "open"


def _headlines(report: Report) -> list[tuple[str, str, str]]:
    """Name, figure and note of each."""
    cost, totals = report.cost, report.labels.totals
    seen, rate, per_1000 = totals["visual_tokens"], report.samples_per_second, report.cost_per_1000
    return [
        ("labelled", f"{report.labelled:,}", f"of {report.input:,} rows"),
        ("rejected", f"{report.rejected:,}", f"{report.count.superseded:,} more are superseded"),
        ("duplicates", f"{report.count.duplicates:,}", "must be 0"),
        ("samples/s", "-" if rate is None else f"{rate:,.2f}", f"in {_lasting(report.seconds)}"),
        ("USD", "-" if cost is None else _usd(cost.true), _bound(cost)),
        ("USD per 1,000 labels", "-" if per_1000 is None else f"{per_1000:,.4f}", _idle(cost)),
        *_saved(report),
        *_asked_again(report),
        *_audited(report),
        ("visual tokens kept", f"{totals['kept_tokens'] / seen:.1%}" if seen else "-", f"of {seen:,.0f}"),
    ]


def _usd(amount: float) -> str:
    return f"{amount:,.{2 if abs(amount) >= 10 else 4}f}"


def _bound(cost: Cost | None) -> str:
    if cost is None:
        return "give --price-per-hour or --prices"
    return "workers' whole time" if cost.exact else "at least (a run was killed)"


def _idle(cost: Cost | None) -> str:
    return f"{cost.idle / cost.true:.1%} of it idle" if cost is not None and cost.true else ""


def _lasting(seconds: float) -> str:
    """A duration in the largest unit that fits."""
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:,.1f} {unit}"
    return f"{seconds:.0f} s"


def _saved(report: Report) -> list[tuple[str, str, str]]:
    """What pruning saved, if known."""
    found, usd = report.saved, report.saved_usd
    if found is None:
        return []
    figure = f"{found.ratio:.2f}x" if usd is None else f"{_usd(usd)} USD"
    return [("saved by pruning", figure, f"{found.how}; unpruned takes {found.ratio:.2f} times as long")]


def _asked_again(report: Report) -> list[tuple[str, str, str]]:
    """How many rows had a second look, if any."""
    found, usd = report.labels.second_looks, report.second_looks_usd
    if not found.rows:
        return []
    cost = "" if usd is None else f"; about {_usd(usd)} USD"
    return [("asked again", f"{found.rows / report.labels.rows:.1%}", f"{found.changed:,} answers changed{cost}")]


def _audited(report: Report) -> list[tuple[str, str, str]]:
    """The last audit's agreement."""
    found = [held.run.audit for held in report.held if held.run.audit is not None]
    if not found:
        return []
    audit, low = found[-1], floored(found[-1]["low"], 3)
    note = f"[{low:.1%}, {audit['high']:.1%}], {audit['measure']}: {audit['rows']:,} audited rows"
    return [("agreement with unpruned", f"{audit['agreement']:.1%}", note)]


def _charts(report: Report) -> list[Chart]:
    labels = report.labels
    stages: list[charts.Bar] = [(stage, labels.totals[f"{stage}_ms"] / labels.rows) for stage in STAGES if labels.rows]
    sure = [(f"{place / BINS:.2f} to {(place + 1) / BINS:.2f}", float(n)) for place, n in enumerate(labels.confidence)]
    rejects = sorted(report.count.rejected.items(), key=lambda item: -item[1])
    return [
        _throughput(report),
        _latency(report),
        ("Where a sample's time goes", charts.rows(stages, "milliseconds by stage", "ms"), _where(report)),
        (
            "How sure the answers are",
            charts.columns(sure if labels.rows else [], "answers by confidence", "answers", SHARES),
            "answers by the mean probability of their tokens",
        ),
        _split(report),
        (
            "Rejects",
            charts.rows([(name, float(count)) for name, count in rejects], "rejects by error", ""),
            "rows by error",
        ),
    ]


def _throughput(report: Report) -> Chart:
    """Labels per second over time. The axis is cut where nothing was labelled for long."""
    step, spans = report.labels.timeline.spans(COLUMNS)
    bars: list[charts.Bar] = []
    for start, counts in spans:
        bars += [("", None)] if bars else []
        for place, count in enumerate(counts):
            when = datetime.fromtimestamp(start + place * step, UTC)
            bars.append((when.strftime("%m-%d %H:%M:%S" if step < 60 else "%m-%d %H:%M"), count / step))
    chart = charts.columns(bars, "labels per second over time", "labels/s", _times(bars))
    return "Throughput over time", chart, f"labels per second, UTC, in steps of {_duration(step)}"


def _times(bars: list[charts.Bar]) -> list[charts.Tick]:
    """The first and the last time, if they differ."""
    if len(bars) < 2:
        return [(0.5, label) for label, _ in bars]
    return [(0.0, bars[0][0]), (1.0, bars[-1][0])]


def _duration(seconds: int) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds % size == 0:
            return f"{seconds // size} {unit}"
    return f"{seconds} s"


def _latency(report: Report) -> Chart:
    """A histogram of seconds per sample, on a logarithmic scale."""
    counts = report.labels.latency
    found = np.flatnonzero(counts)
    if not len(found):
        return "How long a sample takes", Markup(""), ""
    first, last = int(found[0]) // PER_DECADE * PER_DECADE, -(-(int(found[-1]) + 1) // PER_DECADE) * PER_DECADE
    edges = [10 ** (DECADES[0] + place / PER_DECADE) for place in range(first, last + 1)]
    bars: list[charts.Bar] = [
        (f"{_time(low)} to {_time(high)}", float(count))
        for low, high, count in zip(edges, edges[1:], counts[first:last], strict=False)
    ]
    ticks = [(place / len(bars), _time(edges[place])) for place in range(0, len(bars) + 1, PER_DECADE)]
    marks = [(_quantile(counts[first:last], share), name) for share, name in ((0.5, "half"), (0.95, "95 %"))]
    chart = charts.columns(bars, "samples by time", "samples", ticks, marks)
    return "How long a sample takes", chart, "samples by their share of their batch's time on a worker"


def _quantile(counts: np.ndarray, share: float) -> float:
    """Where a quantile lies on the axis of the bins, as a fraction."""
    upto = np.cumsum(counts)
    wanted = share * upto[-1]
    place = int(np.searchsorted(upto, wanted))
    inside = (wanted - (upto[place] - counts[place])) / counts[place]
    return float((place + inside) / len(counts))


def _time(seconds: float) -> str:
    return f"{seconds:.3g} s" if seconds >= 0.9995 else f"{1000 * seconds:.3g} ms"


def _where(report: Report) -> str:
    """The total of the stages."""
    labels = report.labels
    total = sum(labels.totals[f"{stage}_ms"] for stage in STAGES) / labels.rows if labels.rows else 0.0
    return f"{total:,.1f} ms per sample on average; fetch and preprocess run on CPUs"


def _split(report: Report) -> Chart:
    """The share of tokens kept against the text cue's share of the picks."""
    counts = report.labels.split
    found = np.flatnonzero(counts.any(axis=1))
    if not len(found):
        return "What the tokens were kept for", Markup(""), ""
    first, last = int(found[0]), int(found[-1]) + 1
    size = -(-(last - first) // CELLS)
    last = min(RATIOS, first + -(-(last - first) // size) * size)
    cells = np.add.reduceat(counts[first:last], np.arange(0, last - first, size), axis=0)
    title = "samples by the share of tokens kept and the text cue's share"
    ends = (f"{first / RATIOS:.0%}", f"{last / RATIOS:.0%}")
    ticks = [(0.0, ends[0]), (1.0, ends[1])] if len(cells) > 1 else [(0.5, f"{ends[0]} to {ends[1]} kept")]
    chart = charts.heat_map(cells, ticks, SHARES, title, "samples")
    return (
        "What the tokens were kept for",
        chart,
        "up: the text cue's share of what both cues picked; across: the share of tokens kept",
    )
