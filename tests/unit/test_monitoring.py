"""Alerts, dashboard, runbook and documents tell of the metrics that there are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from monitoring.dashboard import dashboard
from serve_app.observability.instruments import INSTRUMENTS, exported
from serve_app.observability.labels import OTHER, BoundedLabel
from tests.promql import MONITORING, alerts, expressions, panels, series_of

ROOT = Path(__file__).parents[2]

# What Serve adds to every metric of a replica, and what histograms have.
SERVES = {"application", "deployment", "replica"}
SERIES = {name: instrument for instrument in INSTRUMENTS for name in exported(instrument)}


def labels_of(series: str) -> set[str]:
    instrument = INSTRUMENTS[SERIES[series]]
    return {*instrument.labels, *SERVES, *({"le"} if series.endswith("_bucket") else ())}


@pytest.mark.parametrize("expression", expressions())
def test_what_is_read_exists_with_its_labels(expression: str) -> None:
    read = series_of(expression)
    assert read
    for name, labels in read:
        assert name in SERIES, name
        assert labels <= labels_of(name), name


@pytest.mark.parametrize(
    "expression",
    [
        "ray_similarity_request_total",
        'sum by (modl) (rate(ray_similarity_requests_total{code="ok"}[5m]))',
        'ray_similarity_requests_total{status="200"}',
        "ray_similarity_latency_ms",
        "sum by (model (ray_similarity_requests_total)",
    ],
)
def test_what_does_not_exist_is_noticed(expression: str) -> None:
    with pytest.raises((AssertionError, ValueError)):
        test_what_is_read_exists_with_its_labels(expression)


def test_every_metric_is_drawn() -> None:
    drawn = {SERIES[name] for _, expression, _ in panels() for name, _ in series_of(expression)}
    assert drawn == set(INSTRUMENTS)


def test_the_dashboards_legends_have_labels_that_are_left() -> None:
    for title, expression, legend in panels():
        named = set(re.findall(r"\{\{(\w+)\}\}", legend))
        for name, labels in series_of(expression):
            assert named <= labels | labels_of(name), title


def test_the_dashboard_is_what_its_script_writes() -> None:
    written = json.loads((MONITORING / "dashboard.json").read_text())
    assert written == dashboard(), "run: python monitoring/dashboard.py"
    ids = [panel["id"] for panel in written["panels"]]
    assert len(ids) == len(set(ids))


def test_no_two_panels_lie_on_each_other() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in dashboard()["panels"]:
        at = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & taken, panel["title"]
        taken |= cells


def test_every_alert_has_its_place_in_the_runbook() -> None:
    text = (ROOT / "docs" / "runbook.md").read_text()
    headings = re.findall(r"^## (.+)$", text, re.MULTILINE)
    names = [rule["alert"] for rule in alerts()]
    assert [heading for heading in headings if heading.startswith("Similarity")] == names
    for rule in alerts():
        assert rule["annotations"]["runbook_url"] == f"docs/runbook.md#{rule['alert'].lower()}"
        assert rule["labels"]["severity"] in ("page", "ticket")
        named = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
        grouped = [labels for _, labels in series_of(rule["expr"])]
        assert all(named <= labels for labels in grouped), rule["alert"]


def test_every_metric_is_documented_with_its_labels() -> None:
    text = (ROOT / "docs" / "http-api.md").read_text()
    rows = dict(re.findall(r"^\| `(similarity_\w+)` \| (.*?) \|", text, re.MULTILINE))
    assert set(rows) == set(INSTRUMENTS)
    for name, written in rows.items():
        assert tuple(re.findall(r"`(\w+)`", written)) == INSTRUMENTS[name].labels, name


def test_prometheus_and_its_operator_find_the_pods() -> None:
    found: dict[str, Any] = yaml.safe_load((MONITORING / "prometheus.yml").read_text())
    assert found["rule_files"] == ["alerts.yml"]
    monitor = yaml.safe_load((MONITORING / "podmonitor.yaml").read_text())["spec"]
    service = next(
        item
        for item in yaml.safe_load_all((ROOT / "kuberay/rendered/base.yaml").read_text())
        if item["kind"] == "RayService"
    )
    cluster = service["spec"]["rayClusterConfig"]
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        labels = group["template"]["metadata"]["labels"]
        assert monitor["selector"]["matchLabels"].items() <= labels.items()
        ports = group["template"]["spec"]["containers"][0]["ports"]
        assert monitor["podMetricsEndpoints"][0]["port"] in [port["name"] for port in ports]


def test_a_label_stops_growing() -> None:
    bounded = BoundedLabel(most=2)
    assert [bounded(value) for value in ("a", "b", "c", "a", "d", "b")] == [
        *("a", "b", OTHER, "a", OTHER, "b")
    ]
