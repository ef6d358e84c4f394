"""The HTTP contract of docs/http-api.md, on a real Ray Serve with the demo models."""

from __future__ import annotations

import base64
import hashlib
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.integration.support import SWAPPED, TRUE, UNRELATED, Deploy, Running, drawing, uri


def test_a_drawing_of_ones_own_scores_its_caption_above_an_unrelated_one(demo: Running) -> None:
    body = {"images": [uri(drawing())], "texts": [TRUE, UNRELATED]}
    response = demo.http.post("/v1/score", json=body)
    assert response.status_code == 200, response.text
    answer = response.json()
    true, other = (result["score"] for result in answer["results"])
    assert true > other + 0.2
    assert answer["model"] == demo.snapshot.resolve("demo").id
    assert answer["experiment"] is None
    assert set(answer["results"][0]["scores"]) == {"cosine", "logit"}
    assert set(answer["timing_ms"]) == {"decode", "queue", "model", "total"}


def test_a_drawing_of_ones_own_scores_its_caption_above_the_swapped_one(demo: Running) -> None:
    body = {"images": [uri(drawing())], "texts": [TRUE, SWAPPED]}
    true, swapped = demo.http.post("/v1/score", json=body).json()["results"]
    assert true["score"] > swapped["score"] + 0.05


def test_json_pairs_json_grid_and_multipart_agree(demo: Running) -> None:
    image = drawing()
    pairs = {"pairs": [{"image": uri(image), "text": text} for text in (TRUE, SWAPPED)]}
    grid = {"images": [base64.b64encode(image).decode()], "texts": [TRUE, SWAPPED]}
    files = [("image", ("drawing.png", image, "image/png"))]
    answers = [
        demo.http.post("/v1/score", json=pairs),
        demo.http.post("/v1/score", json=grid),
        demo.http.post("/v1/score", files=files, data={"text": [TRUE, SWAPPED]}),
    ]
    scores = [[item["score"] for item in answer.json()["results"]] for answer in answers]
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert scores[0] == pytest.approx(scores[2], abs=1e-6)
    assert [item["image"] for item in answers[0].json()["results"]] == [0, 1]
    assert [item["image"] for item in answers[1].json()["results"]] == [0, 0]


def test_a_grid_is_row_major_by_image(demo: Running) -> None:
    body = {"images": [uri(drawing()), uri(drawing("BMP"))], "texts": [TRUE, SWAPPED]}
    results = demo.http.post("/v1/score", json=body).json()["results"]
    assert [(item["image"], item["text"]) for item in results] == [(0, 0), (0, 1), (1, 0), (1, 1)]


def test_options_travel_in_every_body(demo: Running) -> None:
    options = {"model": "demo-lite", "metrics": ["clipscore"], "routing_key": "user-42"}
    files = [("image", ("drawing.png", drawing(), "image/png"))]
    for answer in (
        demo.http.post("/v1/score", json={"images": [uri(drawing())], "texts": [TRUE], **options}),
        demo.http.post("/v1/score", files=files, data={"text": TRUE, **options}),
    ):
        assert answer.status_code == 200, answer.text
        assert answer.json()["model"].startswith("demo-lite@")
        scores = answer.json()["results"][0]["scores"]
        assert set(scores) == {"cosine", "clipscore"}
        assert 0 <= scores["clipscore"] <= 2.5


def test_a_revision_can_be_asked_for(demo: Running) -> None:
    model = demo.snapshot.resolve("demo-lite").id
    body = {"images": [uri(drawing())], "texts": [TRUE], "model": model}
    assert demo.http.post("/v1/score", json=body).json()["model"] == model
    body["model"] = "demo-lite@00000000"
    answer = demo.http.post("/v1/score", json=body)
    assert answer.status_code == 404
    assert model in answer.json()["detail"]


def test_rank_is_best_first(demo: Running) -> None:
    texts = [UNRELATED, TRUE, "a yellow triangle"]
    answer = demo.http.post("/v1/rank", json={"image": uri(drawing()), "texts": texts})
    results = answer.json()["results"]
    assert results[0]["text"] == 1
    assert [item["rank"] for item in results] == [1, 2, 3]
    scores = [item["score"] for item in results]
    assert scores == sorted(scores, reverse=True)


def test_rank_puts_failed_items_last_without_rank(demo: Running) -> None:
    body = {"text": TRUE, "images": ["bm90IGFuIGltYWdl", uri(drawing())]}
    results = demo.http.post("/v1/rank", json=body).json()["results"]
    assert results[0]["image"] == 1 and results[0]["rank"] == 1
    assert results[1]["error"]["code"] == "image_format_unsupported"
    assert "rank" not in results[1]


def test_embeddings_have_openais_shape(demo: Running) -> None:
    body = {"input": [TRUE, {"image": uri(drawing())}, TRUE], "model": "demo"}
    plain = demo.http.post("/v1/embeddings", json=body).json()
    coded = demo.http.post("/v1/embeddings", json={**body, "encoding_format": "base64"}).json()
    assert plain["object"] == "list"
    assert [item["index"] for item in plain["data"]] == [0, 1, 2]
    vectors = [np.array(item["embedding"], dtype=np.float32) for item in plain["data"]]
    decoded = [
        np.frombuffer(base64.b64decode(item["embedding"]), dtype="<f4") for item in coded["data"]
    ]
    for left, right in zip(vectors, decoded, strict=True):
        np.testing.assert_allclose(left, right, atol=1e-5)
        assert np.linalg.norm(left) == pytest.approx(1, abs=1e-5)
    score = demo.http.post("/v1/score", json={"images": [uri(drawing())], "texts": [TRUE]}).json()
    cosine = score["results"][0]["scores"]["cosine"]
    assert float(vectors[0] @ vectors[1]) == pytest.approx(cosine, abs=1e-5)
    assert plain["usage"]["prompt_tokens"] > 0


def test_a_single_string_can_be_embedded(demo: Running) -> None:
    answer = demo.http.post("/v1/embeddings", json={"input": TRUE})
    assert len(answer.json()["data"]) == 1


def test_models_are_listed_and_told_about(demo: Running) -> None:
    demo.http.post("/v1/score", json={"images": [uri(drawing())], "texts": [TRUE]})
    listing = demo.http.get("/v1/models").json()
    assert [item["name"] for item in listing["data"]] == ["demo", "demo-lite"]
    assert [item["default"] for item in listing["data"]] == [True, False]
    one = demo.http.get("/v1/models/demo").json()
    assert one["loaded"] is True
    assert one["capabilities"]["primary"] == "cosine"
    assert one["preprocessing"]["size"] == one["image_size"] == [64, 64]
    details = one["details"]
    towers = int(details["image_parameters"]) + int(details["text_parameters"])
    assert one["parameters"] == towers > 0
    assert one["bytes"] > 2 * towers
    assert one["load_seconds"] > 0
    weights = Path(demo.snapshot.models["demo"].spec.pretrained or "")
    assert details["weights_sha256"] == hashlib.sha256(weights.read_bytes()).hexdigest()
    assert details["source"] == str(weights)
    assert int(details["context_length"]) == one["capabilities"]["context_length"]
    assert [replica["state"] for replica in one["replicas"]] == ["ready"]
    assert demo.http.get("/v1/models/nosuch").status_code == 404


def test_asking_for_a_model_does_not_load_it(deploy: Deploy) -> None:
    fake = {"backend": "serve_app.testing:FakeDualEncoder"}
    http = deploy(models={"first": fake, "second": {**fake, "options": {"version": 2}}}).http

    def told(state: str) -> dict[str, Any]:
        """What is told of the second model, once its replica is in this state."""
        deadline = time.monotonic() + 20  # replicas tell the control plane by their next report
        while True:
            answer: dict[str, Any] = http.get("/v1/models/second").json()
            if [replica["state"] for replica in answer["replicas"]] == [state]:
                return answer
            assert time.monotonic() < deadline, answer

    assert told("unloaded")["loaded"] is False
    assert "capabilities" not in told("unloaded")
    body = {"images": [uri(drawing())], "texts": [TRUE], "model": "second"}
    assert http.post("/v1/score", json=body).status_code == 200
    assert told("ready")["capabilities"]["embedding_dim"] == 16


def test_probes_and_documentation(demo: Running) -> None:
    assert demo.http.get("/healthz").json() == {"status": "ok"}
    assert demo.http.get("/readyz").json() == {"status": "ok"}
    assert demo.http.get("/docs").status_code == 200
    assert "/v1/score" in demo.http.get("/openapi.json").json()["paths"]


def test_the_request_id_is_the_callers(demo: Running) -> None:
    body = {"images": [uri(drawing())], "texts": [TRUE]}
    answer = demo.http.post("/v1/score", json=body, headers={"x-request-id": "abc-1"})
    assert answer.headers["x-request-id"] == "abc-1"
    assert answer.json()["id"] == "abc-1"
    made = demo.http.post("/v1/score", json=body)
    assert made.headers["x-request-id"] == made.json()["id"] != ""


def test_unknown_routes_and_methods_are_problems(demo: Running) -> None:
    for answer, code in (
        (demo.http.get("/v1/nothing"), "not_found"),
        (demo.http.get("/v1/score"), "method_not_allowed"),
    ):
        assert answer.headers["content-type"] == "application/problem+json"
        problem = json.loads(answer.text)
        assert problem["code"] == code
        assert problem["status"] == answer.status_code
        assert set(problem) == {"type", "title", "status", "detail", "code", "request_id"}
