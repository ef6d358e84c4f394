"""What an expression of Prometheus reads: series, with the labels that it names of them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import promql_parser
import yaml

MONITORING = Path(__file__).parents[1] / "monitoring"

Series = tuple[str, frozenset[str]]


def series_of(expression: str) -> set[Series]:
    """Names of series, each with the labels by which they are chosen or added up.

    Raises:
        ValueError: It is no expression of PromQL.
    """
    # What Grafana puts in before it asks.
    asked = expression.replace("$__rate_interval", "5m")
    asked = re.sub(r"\$\w+", "x", asked)
    found: set[Series] = set()
    _walk(promql_parser.parse(asked), frozenset(), found)
    return found


def _walk(node: Any, grouped: frozenset[str], found: set[Series]) -> None:
    if isinstance(node, promql_parser.AggregateExpr):
        labels = [] if node.modifier is None else node.modifier.labels
        _walk(node.expr, grouped | set(labels), found)
    elif isinstance(node, promql_parser.VectorSelector):
        chosen = {matcher.name for matcher in node.matchers.matchers}
        found.add((node.name, grouped | chosen))
    elif isinstance(node, promql_parser.MatrixSelector):
        _walk(node.vector_selector, grouped, found)
    elif isinstance(node, promql_parser.BinaryExpr):
        _walk(node.lhs, grouped, found)
        _walk(node.rhs, grouped, found)
    elif isinstance(node, promql_parser.Call):
        for argument in node.args:
            _walk(argument, grouped, found)
    elif isinstance(node, promql_parser.ParenExpr | promql_parser.UnaryExpr):
        _walk(node.expr, grouped, found)
    elif not isinstance(node, promql_parser.NumberLiteral | promql_parser.StringLiteral):
        raise TypeError(f"{type(node).__name__} is not looked into")


def alerts() -> list[dict[str, Any]]:
    """The alert rules."""
    groups = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    return [rule for group in groups for rule in group["rules"]]


def panels() -> Iterator[tuple[str, str, str]]:
    """Title, expression and legend of everything that the dashboard draws."""
    for panel in json.loads((MONITORING / "dashboard.json").read_text())["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"], target["legendFormat"]


def expressions() -> list[str]:
    """All of alerts and dashboard."""
    return [rule["expr"] for rule in alerts()] + [expression for _, expression, _ in panels()]
