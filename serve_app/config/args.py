"""The application's arguments: what `args` in `serve_config.yaml` may say."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator, model_validator

from serve_app.config.spec import Strict


class Autoscaling(Strict):
    """How many replicas a deployment may have; see Ray Serve's autoscaling configuration.

    Attributes:
        min_replicas: At least this many.
        max_replicas: At most this many.
        target_ongoing_requests: Requests in progress per replica that autoscaling aims at.
    """

    min_replicas: int = Field(default=1, ge=1)
    max_replicas: int = Field(default=2, ge=1)
    target_ongoing_requests: float = Field(default=8, gt=0)

    @model_validator(mode="after")
    def _ordered(self) -> Autoscaling:
        if self.max_replicas < self.min_replicas:
            raise ValueError("max_replicas must not be below min_replicas")
        return self


def _at_least_one(value: object) -> object:
    if isinstance(value, int) and value < 1:
        raise ValueError("must be at least 1")
    return value


class PoolArgs(Strict):
    """One replica pool: a deployment whose replicas hold several models at once.

    Attributes:
        name: What specs call it by.
        gpus: GPUs (or a fraction) per replica; `auto` is 1 where Ray has a GPU, else 0.
        cpus: CPUs that Ray reserves per replica.
        threads: Torch threads per replica; `auto` is the whole part of `cpus`, at least 1.
        replicas: A fixed number, or bounds for autoscaling.
        memory_bytes: Byte budget for loaded models per replica; None: no budget.
        idle_ttl_s: Seconds after which a model that nobody asked for is unloaded; None: never.
            What is routed, preloaded or pinned stays.
        max_ongoing_requests: Requests one replica works on or queues at a time.
    """

    name: str = Field(default="default", pattern=r"^[a-z0-9][a-z0-9-]{0,40}$")
    gpus: float | Literal["auto"] = "auto"
    cpus: float = Field(default=1, ge=0)
    threads: int | Literal["auto"] = "auto"
    replicas: int | Autoscaling = 1
    memory_bytes: int | None = Field(default=None, gt=0)
    idle_ttl_s: float | None = Field(default=None, gt=0)
    max_ongoing_requests: int = Field(default=64, ge=1)

    @field_validator("gpus")
    @classmethod
    def _whole_or_fraction(cls, value: float | str) -> float | str:
        if isinstance(value, (int, float)) and (value < 0 or (value > 1 and value != int(value))):
            raise ValueError("gpus must be 0, a fraction below 1, or a whole number")
        return value

    _at_least_one = field_validator("threads", "replicas")(_at_least_one)


class IngressArgs(Strict):
    """The ingress: CPU processes that parse, decode and plan.

    Attributes:
        cpus: CPUs that Ray reserves per replica.
        replicas: A fixed number, or bounds for autoscaling.
        decode_threads: Threads that decode images, per replica.
        max_ongoing_requests: Requests one replica works on at a time; more are turned away
            with `overloaded`.
    """

    cpus: float = Field(default=0.5, ge=0)
    replicas: int | Autoscaling = 1
    decode_threads: int = Field(default=2, ge=1, le=64)
    max_ongoing_requests: int = Field(default=256, ge=1)

    _at_least_one = field_validator("replicas")(_at_least_one)


class ControlArgs(Strict):
    """The control plane: what is declared is looked at anew, and rolled out.

    Attributes:
        poll_s: Seconds between two looks at mounted files.
        retire_after_s: Seconds for which a replaced revision may still be asked for by its id, and
            stays loaded where there is room, so that going back to it is immediate.
    """

    poll_s: float = Field(default=2.0, ge=0.1)
    retire_after_s: float = Field(default=600.0, ge=10.0)


class Limits(Strict):
    """Bounds on what one caller may ask.

    Attributes:
        max_pairs: Pairs (or embedding inputs) in one request.
        max_body_bytes: Bytes of a request's body.
        max_bodies_bytes: Bytes of all bodies that one ingress replica holds at a time.
        body_timeout_s: Seconds within which a body must have come.
        max_image_bytes: Bytes of one encoded image.
        max_pixels: Pixels (width x height) of one image, checked before decoding.
        max_text_characters: Characters of one text.
        max_decoded_bytes: Decoded image bytes in flight in one ingress replica.
        request_timeout_s: Seconds until `deadline_exceeded`.
    """

    max_pairs: int = Field(default=256, ge=1)
    max_body_bytes: int = Field(default=64 * 2**20, ge=1024)
    max_bodies_bytes: int = Field(default=512 * 2**20, ge=1024)
    body_timeout_s: float = Field(default=60, gt=0)
    max_image_bytes: int = Field(default=32 * 2**20, ge=1024)
    max_pixels: int = Field(default=50_000_000, ge=1)
    max_text_characters: int = Field(default=10_000, ge=1)
    max_decoded_bytes: int = Field(default=512 * 2**20, ge=2**20)
    request_timeout_s: float = Field(default=120, gt=0)


class AppArgs(Strict):
    """Arguments of `serve_app.app:build_app`; unknown keys are refused.

    Attributes:
        pools: Replica pools; the first one is where specs without a `pool` go only if it is
            named `default`.
        ingress: The ingress deployment.
        control: The control plane.
        limits: Bounds on what one caller may ask.
        log_level: Level of the application's log.
        log_format: `text`, or a JSON object a line.
        access_log: Share of the requests that the access log has; 0: none. With any, it has all
            that the service failed.
    """

    pools: tuple[PoolArgs, ...] = (PoolArgs(),)
    ingress: IngressArgs = IngressArgs()
    control: ControlArgs = ControlArgs()
    limits: Limits = Limits()
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    log_format: Literal["text", "json"] = "text"
    access_log: float = Field(default=0.0, ge=0, le=1)

    @field_validator("pools")
    @classmethod
    def _named_once(cls, pools: tuple[PoolArgs, ...]) -> tuple[PoolArgs, ...]:
        if not pools:
            raise ValueError("at least one pool is needed")
        names = [pool.name for pool in pools]
        doubles = sorted({name for name in names if names.count(name) > 1})
        if doubles:
            raise ValueError(f"pools are named twice: {', '.join(doubles)}")
        return pools
