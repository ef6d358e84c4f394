"""The engine's responses as JSON-ready dictionaries; the shapes are those of `schemas`."""

from __future__ import annotations

import base64
from dataclasses import asdict
from typing import Any

import numpy as np

from serve_app.config.routing_spec import ExperimentSpec
from serve_app.engine.experiment_counts import ExperimentCounts
from serve_app.types import (
    EmbedResponse,
    EmbedResult,
    ExperimentArm,
    ItemFault,
    ItemWarning,
    PairResult,
    ScoreResponse,
)


def score_answer(response: ScoreResponse) -> dict[str, Any]:
    """`ScoreAnswer`; fields that do not apply to a result are left out."""
    return {
        "id": response.id,
        "model": response.model,
        "experiment": experiment_arm_answer(response.experiment),
        "results": [result_answer(result) for result in response.results],
        "timing_ms": dict(response.timing_ms),
    }


def experiment_arm_answer(chosen: ExperimentArm | None) -> dict[str, str] | None:
    """`ExperimentArmAnswer`, or null where no experiment chose the model."""
    return None if chosen is None else {"name": chosen.name, "arm": chosen.arm}


def result_answer(result: PairResult) -> dict[str, Any]:
    """`ResultAnswer`."""
    answer: dict[str, Any] = {"image": result.image, "text": result.text}
    if result.error is None:
        answer["score"] = result.score
        answer["scores"] = dict(result.scores)
    else:
        answer["error"] = _fault(result.error)
    if result.warnings:
        answer["warnings"] = [_warning(warning) for warning in result.warnings]
    if result.rank is not None:
        answer["rank"] = result.rank
    return answer


def embeddings_answer(response: EmbedResponse, encoding_format: str) -> dict[str, Any]:
    """`EmbeddingsAnswer`."""
    tokens = sum(result.tokens for result in response.results)
    return {
        "object": "list",
        "id": response.id,
        "model": response.model,
        "experiment": experiment_arm_answer(response.experiment),
        "data": [_embedding(result, encoding_format) for result in response.results],
        "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        "timing_ms": dict(response.timing_ms),
    }


def _embedding(result: EmbedResult, encoding_format: str) -> dict[str, Any]:
    answer: dict[str, Any] = {
        "object": "embedding",
        "index": result.index,
        "tokens": result.tokens,
    }
    if result.embedding is None:
        answer["embedding"] = None
    elif encoding_format == "base64":
        answer["embedding"] = base64.b64encode(result.embedding).decode("ascii")
    else:
        answer["embedding"] = np.frombuffer(result.embedding, dtype="<f4").tolist()
    if result.warnings:
        answer["warnings"] = [_warning(warning) for warning in result.warnings]
    if result.error is not None:
        answer["error"] = _fault(result.error)
    return answer


def experiment_answer(
    name: str, spec: ExperimentSpec, counts: ExperimentCounts, replicas: int
) -> dict[str, Any]:
    """`ExperimentAnswer`.

    Args:
        name: The experiment.
        spec: As declared.
        counts: Of all ingress replicas.
        replicas: How many those are.
    """
    arms = {}
    for arm, weight in spec.arms.items():
        arm_counts = counts.arm(name, arm)
        arms[arm] = {
            "weight": weight,
            "count": arm_counts.count,
            "errors": arm_counts.errors,
            "p50_ms": _rounded(arm_counts.latency.quantile(0.5)),
            "p95_ms": _rounded(arm_counts.latency.quantile(0.95)),
        }
    shadows = {model: asdict(counts.shadow(name, model)) for model in spec.shadow}
    return {
        "name": name,
        "object": "experiment",
        "state": "running",
        "control": spec.control,
        "sticky_by": spec.sticky_by,
        "arms": arms,
        "shadow": shadows,
        "replicas": replicas,
    }


def _rounded(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else round(milliseconds, 3)


def _warning(warning: ItemWarning) -> dict[str, Any]:
    answer: dict[str, Any] = {"code": warning.code, "detail": warning.detail}
    if warning.tokens is not None:
        answer["tokens"] = warning.tokens
    if warning.limit is not None:
        answer["limit"] = warning.limit
    return answer


def _fault(fault: ItemFault) -> dict[str, str]:
    return {"code": fault.code, "detail": fault.detail}
