"""The dashboard asks for what jobs export, in queries that Prometheus takes."""

from __future__ import annotations

import json
from itertools import combinations
from pathlib import Path
from typing import Any

import promql_parser
import pytest
import yaml
from promql_parser import AggregateExpr, MatrixSelector, VectorSelector
from ray._private.ray_constants import PROMETHEUS_SERVICE_DISCOVERY_FILE

from adafv.pipeline.record.metrics import COUNTERS, GAUGES, HISTOGRAMS, Meaning

CLUSTER = Path(__file__).parents[2] / "cluster"
DASHBOARD = json.loads((CLUSTER / "grafana.json").read_text())
PANELS = DASHBOARD["panels"]
QUERIES = [(panel["title"], target["expr"]) for panel in PANELS for target in panel["targets"]]
BUCKETS = {f"{name}_bucket": Meaning(meaning.text, meaning.tag) for name, meaning in HISTOGRAMS.items()}
EXPORTED = {f"ray_{name}": meaning for name, meaning in {**COUNTERS, **GAUGES, **BUCKETS}.items()}
CUMULATIVE = {f"ray_{name}" for name in {**COUNTERS, **BUCKETS}}


def nodes(query: str, kind: type) -> list[Any]:
    """The parts of a query that are of a kind; Grafana's variables replaced, as it does. Raises what is wrong in it."""
    tree = promql_parser.parse(query.replace("$__rate_interval", "1m").replace("$run_id", ".+"))
    found: list[Any] = []
    promql_parser.walk(tree, lambda node: found.append(node) if isinstance(node, kind) else None)
    return found


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_asks_for_what_jobs_export(title, query):
    selectors = nodes(query, VectorSelector)
    assert selectors
    for selector in selectors:
        assert selector.name in EXPORTED
        assert [(one.name, one.value) for one in selector.matchers.matchers] == [("run_id", ".+")]
    for matrix in nodes(query, MatrixSelector):
        assert matrix.vector_selector.name in CUMULATIVE, "a rate of a gauge"


@pytest.mark.parametrize(("title", "query"), QUERIES)
def test_a_query_groups_by_tags_that_its_metrics_have(title, query):
    for aggregate in nodes(query, AggregateExpr):
        labels = set(aggregate.modifier.labels) if aggregate.modifier else set()
        for selector in nodes(aggregate.expr.prettify(), VectorSelector):
            known = {*EXPORTED[selector.name].tags, *(["le"] if selector.name.endswith("_bucket") else [])}
            assert labels <= known


def test_what_is_asked_of_a_night_is_on_the_dashboard():
    shown = {selector.name for _, query in QUERIES for selector in nodes(query, VectorSelector)}
    unshown = {"ray_adafv_prompt_tokens_total", "ray_adafv_output_tokens_total"}
    assert shown == set(EXPORTED) - unshown


def test_panels_have_numbers_of_their_own_and_lie_side_by_side():
    assert len({panel["id"] for panel in PANELS}) == len(PANELS) == len({panel["title"] for panel in PANELS})
    for panel in PANELS:
        assert panel["gridPos"]["x"] >= 0 and panel["gridPos"]["x"] + panel["gridPos"]["w"] <= 24
    for a, b in combinations((panel["gridPos"] for panel in PANELS), 2):
        beside = a["x"] + a["w"] <= b["x"] or b["x"] + b["w"] <= a["x"]
        assert beside or a["y"] + a["h"] <= b["y"] or b["y"] + b["h"] <= a["y"], (a, b)


def test_the_data_source_is_chosen_on_the_dashboard():
    source, run = DASHBOARD["templating"]["list"]
    assert (source["type"], source["query"]) == ("datasource", "prometheus")
    chosen = {"type": "prometheus", "uid": f"${{{source['name']}}}"}
    targets = [target for panel in PANELS for target in panel["targets"]]
    assert [one["datasource"] for one in [run, *PANELS, *targets] if one["datasource"] != chosen] == []
    assert run["name"] == "run_id" and run["definition"].removeprefix("label_values(").split(",")[0] in EXPORTED


def test_prometheus_is_told_where_ray_lists_its_nodes():
    [job] = yaml.safe_load((CLUSTER / "prometheus.yml").read_text())["scrape_configs"]
    assert job["file_sd_configs"] == [{"files": [f"/tmp/ray/{PROMETHEUS_SERVICE_DISCOVERY_FILE}"]}]
