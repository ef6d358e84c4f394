"""Requests made from the committed OpenAPI document, right and wrong ones, over real HTTP.

No answer is a 5xx, and each is one that the document tells of.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from serve_app.config.access import Access, ApiKey, key_digest
from serve_app.config.args import Limits
from serve_app.serving.gate import Gate
from tests.http_service import serving
from tests.unit.serving.operated import operated

KEY = "sk-" + "k" * 43
ACCESS = Access((ApiKey("fuzz", key_digest(KEY), "admin"),), required=True)
DOCUMENT = json.loads((Path(__file__).parents[3] / "docs" / "openapi.json").read_text())
CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
# Operations wait for their effect, so fewer of these.
CASES = {"POST /v1/score": 900, "POST /v1/rank": 600, "POST /v1/embeddings": 500}
OTHERS = 60
ADMIN = 15


def operations(*, admin: bool) -> list[str]:
    found = [
        f"{method.upper()} {path}" for path, item in DOCUMENT["paths"].items() for method in item
    ]
    return [label for label in found if ("/v1/admin/" in label) is admin]


def fuzz(url: str, label: str, cases: int) -> Counter[int]:
    """Sends cases, and checks every answer; gives how many had which status."""
    schema = schemathesis.openapi.from_dict(DOCUMENT)
    method, path = label.split(" ")
    operation = schema[path][method]
    statuses: Counter[int] = Counter()

    def run(mode: GenerationMode, count: int) -> None:
        @settings(
            max_examples=count,
            deadline=None,
            derandomize=True,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(operation.as_strategy(generation_mode=mode))
        def send(case: Any) -> None:
            response = case.call(
                base_url=url, headers={"Authorization": f"Bearer {KEY}"}, timeout=60
            )
            statuses[response.status_code] += 1
            case.validate_response(response, checks=CHECKS)

        send()

    run(GenerationMode.POSITIVE, cases // 2)
    if method == "POST":  # elsewhere there is nothing that could be wrong
        run(GenerationMode.NEGATIVE, cases - cases // 2)

    return statuses


@pytest.fixture(scope="module")
def scoring() -> Iterator[str]:
    with serving(Limits(max_pairs=12, max_body_bytes=200_000), Gate(ACCESS)) as url:
        yield url


@pytest.mark.slow
@pytest.mark.parametrize("label", operations(admin=False))
def test_scoring_routes_keep_their_contract(scoring: str, label: str) -> None:
    wanted = CASES.get(label, OTHERS)
    statuses = fuzz(scoring, label, wanted)
    assert statuses
    if label in CASES:
        assert sum(statuses.values()) >= wanted
        assert {200, 422} <= set(statuses), "right ones and wrong ones were sent"


@pytest.mark.slow
@pytest.mark.parametrize("label", operations(admin=True))
def test_admin_routes_keep_their_contract(tmp_path: Path, label: str) -> None:
    with operated(tmp_path / "state.db", access=ACCESS) as made:
        assert fuzz(made.url, label, ADMIN)
