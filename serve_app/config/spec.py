"""What a person writes about one model; knows no library and resolves nothing."""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from serve_app.config.parity import Parity

NAME_PATTERN = re.compile(r"^[a-z0-9][a-z0-9._-]{0,62}$")

Precision = Literal["auto", "fp32", "bf16", "fp16"]
Device = Literal["auto", "cpu", "cuda"]
ModelName = Annotated[str, StringConstraints(pattern=NAME_PATTERN.pattern)]


class Strict(BaseModel):
    """Base of everything that a person writes: unknown keys are faults, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Performance(Strict):
    """What is known about a model's cost; what is left out is measured at warm-up.

    Attributes:
        bytes: Memory the loaded model takes, in bytes; drives the pool's byte budget.
        max_batch: Most images (or pairs, for models that score pairs) in one batch.
        expected_ms: Milliseconds for one pair on an idle replica.
    """

    bytes: int | None = Field(default=None, gt=0)
    max_batch: int | None = Field(default=None, ge=1, le=4096)
    expected_ms: float | None = Field(default=None, gt=0)


class PreprocessOverride(Strict):
    """Image preprocessing that replaces parts of what the model was trained with.

    Attributes:
        size: Height and width in pixels, or one number for both.
        resize_mode: `shortest` (then centre crop), `longest` (then pad) or `squash`.
        interpolation: `bicubic` or `bilinear`.
        mean: Per-channel mean on the 0-1 scale.
        std: Per-channel standard deviation on the 0-1 scale.
        fill_color: Grey level, 0-255, of the padding.
    """

    size: int | tuple[int, int] | None = None
    resize_mode: Literal["shortest", "longest", "squash"] | None = None
    interpolation: Literal["bicubic", "bilinear"] | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    fill_color: int | None = Field(default=None, ge=0, le=255)


class ModelSpec(Strict):
    """One model configuration, as declared under its name.

    Attributes:
        backend: A built-in backend, an entry point's name, or `module:Class`.
        architecture: An architecture that the backend knows, or a path to its configuration file.
        pretrained: A pretrained tag, a path to a checkpoint (file or folder), or `random`.
        allow_random_weights: Must be true for `pretrained: random`: scores then mean nothing.
        seed: Seed of random weights.
        precision: `auto` takes bf16 where the device computes it fast, else fp32.
        device: `auto` takes the pool's device.
        pool: The replica pool that holds the model.
        performance: Known costs.
        preprocessing: Changes to the model's own image preprocessing.
        primary: The metric that becomes `score`; default: the model's own choice.
        sha256: Expected SHA-256 of the weights file, hexadecimal.
        preload: Whether every replica of the pool loads the model before it is ready.
        rollout: How a new revision replaces this one in a replica: loaded `beside` it, or, where
            both do not fit, after it was unloaded (`recreate`); requests wait meanwhile.
        load_timeout_s: Seconds until a load counts as failed; None: ten minutes.
        parity: Golden scores; where the loaded model drifts from them, it is refused.
        options: Further arguments of the backend.
    """

    backend: str = "open_clip"
    architecture: str | None = None
    pretrained: str | None = None
    allow_random_weights: bool = False
    seed: int = Field(default=0, ge=0)
    precision: Precision = "auto"
    device: Device = "auto"
    pool: str = "default"
    performance: Performance = Performance()
    preprocessing: PreprocessOverride = PreprocessOverride()
    primary: str | None = None
    sha256: Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")] | None = None
    preload: bool = False
    rollout: Literal["beside", "recreate"] = "beside"
    load_timeout_s: float | None = Field(default=None, gt=0)
    parity: Parity | None = None
    options: dict[str, Any] = Field(default_factory=dict)
