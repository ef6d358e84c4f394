"""Puts answers together: from a plan and its outcome to one result per item asked for; pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from serve_app.engine.planning import Distinct, EmbedPlan, Pairs, ScorePlan
from serve_app.engine.preparation import PreparedImage
from serve_app.engine.work import EmbedOutcome, ScoreOutcome
from serve_app.errors import TextTooLongError, UnexpectedError
from serve_app.models.base import Capabilities, Scores
from serve_app.types import EmbedResult, ItemFault, ItemWarning, OnTruncate, PairResult

Value = TypeVar("Value")


def results_of(
    pairs: Pairs,
    plan: ScorePlan,
    *,
    outcome: ScoreOutcome | None,
    images: Distinct[PreparedImage],
    capabilities: Capabilities,
    on_truncate: OnTruncate,
) -> tuple[PairResult, ...]:
    """One result per pair asked for, in order."""
    results: list[PairResult] = []
    for (image, text), slot in zip(pairs, plan.slots, strict=True):
        found: Scores | ItemFault
        length: tuple[ItemWarning, ...] | ItemFault = ()
        if isinstance(slot, ItemFault):
            found = slot
        else:
            work, done = _present(plan.work), _present(outcome)
            found = done.scores[slot]
            tokens = done.tokens[work.pairs[slot][1]]
            length = truncation(tokens, capabilities.context_length, on_truncate)
        if isinstance(found, ItemFault):
            results.append(PairResult(image, text, error=found))
        elif isinstance(length, ItemFault):
            results.append(PairResult(image, text, error=length))
        else:
            warnings = (*images.items[images.rows[image]].warnings, *length)
            score = found[capabilities.primary]
            results.append(PairResult(image, text, score, found, warnings))
    return tuple(results)


def embeddings_of(
    plan: EmbedPlan, outcome: EmbedOutcome | None, limit: int | None, on_truncate: OnTruncate
) -> tuple[EmbedResult, ...]:
    """One result per input, in order.

    Args:
        plan: What was planned.
        outcome: What the executor gave; None when there was nothing for it to do.
        limit: Tokens that the model reads.
        on_truncate: What to do with a longer text.
    """
    results: list[EmbedResult] = []
    for index, (slot, warnings) in enumerate(zip(plan.slots, plan.warnings, strict=True)):
        if isinstance(slot, ItemFault):
            results.append(EmbedResult(index, error=slot))
            continue
        done = _present(outcome)
        is_image, row = slot
        faults, rows = (
            (done.image_faults, done.images) if is_image else (done.text_faults, done.texts)
        )
        tokens = 0 if is_image else done.tokens[row]
        length = truncation(tokens, limit, on_truncate)
        if row in faults:
            results.append(EmbedResult(index, tokens=tokens, error=faults[row]))
        elif isinstance(length, ItemFault):
            results.append(EmbedResult(index, tokens=tokens, error=length))
        else:
            embedding = rows[row].astype("<f4").tobytes()
            results.append(EmbedResult(index, embedding, tokens, (*warnings, *length)))
    return tuple(results)


def _present(value: Value | None) -> Value:
    if value is None:
        raise UnexpectedError("A plan with work to do has no outcome.")
    return value


def truncation(
    tokens: int, limit: int | None, on_truncate: OnTruncate
) -> tuple[ItemWarning, ...] | ItemFault:
    """What there is to say about a text's length: nothing, a warning, or a fault."""
    if limit is None or tokens <= limit:
        return ()
    detail = f"The text has {tokens} tokens; the model reads {limit}."
    if on_truncate == "error":
        return ItemFault(TextTooLongError.code, f"{detail} Shorten it.")
    return (ItemWarning("text_truncated", f"{detail} The rest was ignored.", tokens, limit),)


def ranked(results: Sequence[PairResult]) -> tuple[PairResult, ...]:
    """Best first, equals in the order asked; failed ones last, without a rank."""
    scored = [result for result in results if result.score is not None]
    scored.sort(key=lambda result: result.score or 0.0, reverse=True)
    failed = [result for result in results if result.score is None]
    return (*(replace(result, rank=rank) for rank, result in enumerate(scored, 1)), *failed)
