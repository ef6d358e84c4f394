"""What a person writes about routing: default, aliases, experiments; knows no declared model."""

from __future__ import annotations

import math
import re
from typing import Annotated

from pydantic import Field, field_validator

from serve_app.config.faults import show
from serve_app.config.spec import ModelName, Strict

ROUTING_KEY = "routing_key"
TEXT = "text"
IMAGE = "image"
RANDOM = "random"
HEADER_PREFIX = "header:"

SUM_TOLERANCE = 1e-6
"""How far from 100 the percentages of an experiment may sum to."""

_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")  # a token of RFC 9110

Number = Annotated[float, Field(strict=True)]
"""A number that was written as one: neither `"90"` nor `true`."""


class GuardrailSpec(Strict):
    """When an arm is too bad to go on; what is left out is not watched.

    Attributes:
        max_error_rate: Largest share of items that may fail, 0 to 1.
        max_p95_ratio: Largest 95th percentile of an arm's latency, as a multiple of the control's.
        max_psi: Largest population stability index between an arm's scores and the control's.
        min_count: Answers that an arm must have before it is judged.
    """

    max_error_rate: Number | None = Field(default=None, ge=0, le=1)
    max_p95_ratio: Number | None = Field(default=None, gt=0)
    max_psi: Number | None = Field(default=None, gt=0)
    min_count: int = Field(default=200, ge=1)


class ExperimentSpec(Strict):
    """Requests split between models.

    Attributes:
        arms: Model to percent of the requests, summing to 100; the first is the control.
        sticky_by: What keeps a caller on its arm: `routing_key`, `header:NAME`, `text`, `image`,
            or `random` for none.
        shadow: Models that also score every request, after the answer was sent.
        threshold: The score that the caller acts on.
        guardrails: When an arm is too bad to go on.
    """

    arms: dict[ModelName, Annotated[Number, Field(ge=0)]]
    sticky_by: str = ROUTING_KEY
    shadow: tuple[ModelName, ...] = ()
    threshold: Number | None = None
    guardrails: GuardrailSpec = GuardrailSpec()

    @property
    def control(self) -> str:
        """The arm that the others are compared with."""
        return next(iter(self.arms))

    @property
    def header(self) -> str | None:
        """Lower-case name of the header that the experiment is sticky by; None for others."""
        if not self.sticky_by.startswith(HEADER_PREFIX):
            return None
        return self.sticky_by.removeprefix(HEADER_PREFIX).lower()

    @field_validator("arms")
    @classmethod
    def _sum_to_100(cls, arms: dict[str, float]) -> dict[str, float]:
        if not arms:
            raise ValueError("names no arm; at least one is needed, and the first is the control")
        total = math.fsum(arms.values())
        if abs(total - 100) > SUM_TOLERANCE:
            raise ValueError(f"must sum to 100 percent, not to {total:g}")
        return arms

    @field_validator("sticky_by")
    @classmethod
    def _known_key(cls, sticky_by: str) -> str:
        if sticky_by in (ROUTING_KEY, TEXT, IMAGE, RANDOM):
            return sticky_by
        header = sticky_by.removeprefix(HEADER_PREFIX)
        if header != sticky_by and _HEADER_NAME.fullmatch(header):
            return sticky_by
        raise ValueError("must be routing_key, header:NAME, text, image or random")

    @field_validator("shadow")
    @classmethod
    def _no_shadow_twice(cls, shadow: tuple[str, ...]) -> tuple[str, ...]:
        twice = [name for position, name in enumerate(shadow) if name in shadow[:position]]
        if twice:
            raise ValueError(f"names {show(twice[0])} twice")
        return shadow


class RoutingSpec(Strict):
    """Which model answers which request.

    Attributes:
        default: What answers a request that names nothing: a model, alias or experiment; None for
            the default of the declared models.
        aliases: Further names of models, aliases and experiments.
        experiments: By name, in order of declaration.
    """

    default: ModelName | None = None
    aliases: dict[ModelName, ModelName] = Field(default_factory=dict)
    experiments: dict[ModelName, ExperimentSpec] = Field(default_factory=dict)
