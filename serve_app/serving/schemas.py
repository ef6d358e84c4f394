"""The JSON shapes of the HTTP contract; knows no transport and no model."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Name = Annotated[str, StringConstraints(min_length=1, max_length=200)]
RequestId = Annotated[str, StringConstraints(max_length=128)]
RoutingKey = Annotated[str, StringConstraints(max_length=512)]


class Body(BaseModel):
    """Base of request bodies: unknown fields and wrong types are refused, never converted."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class PairBody(Body):
    """One image and one text."""

    image: str = Field(
        description="Data URI or base64 of an image file; an https URL where fetching is on."
    )
    text: str


class Options(Body):
    """What `/v1/score` and `/v1/rank` both take."""

    model: Name | None = Field(
        default=None, description="Name of a model, alias or experiment, or name@revision."
    )
    metrics: list[Name] | None = Field(default=None, min_length=1, max_length=32)
    routing_key: RoutingKey | None = None
    on_truncate: Literal["warn", "error"] = "warn"


class ScoreBody(Options):
    """Body of `POST /v1/score`: either `pairs`, or `images` and `texts` (every combination)."""

    pairs: list[PairBody] | None = Field(default=None, min_length=1)
    images: list[str] | None = Field(default=None, min_length=1)
    texts: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_form(self) -> ScoreBody:
        grid = self.images is not None and self.texts is not None
        partial = (self.images is None) != (self.texts is None)
        if partial or grid == (self.pairs is not None):
            raise ValueError("give either `pairs`, or `images` and `texts`")
        return self


class RankBody(Options):
    """Body of `POST /v1/rank`: either `text` and `images`, or `image` and `texts`."""

    text: str | None = None
    images: list[str] | None = Field(default=None, min_length=1)
    image: str | None = None
    texts: list[str] | None = Field(default=None, min_length=1)

    @model_validator(mode="after")
    def _one_form(self) -> RankBody:
        given = {
            name for name in ("text", "images", "image", "texts") if getattr(self, name) is not None
        }
        if given not in ({"text", "images"}, {"image", "texts"}):
            raise ValueError("give either `text` and `images`, or `image` and `texts`")
        return self


class ImageInput(Body):
    """An image among the inputs of `/v1/embeddings`."""

    image: str = Field(
        description="Data URI or base64 of an image file; an https URL where fetching is on."
    )


class EmbeddingsBody(Body):
    """Body of `POST /v1/embeddings`, in OpenAI's shape; `user` is accepted and ignored."""

    input: str | ImageInput | Annotated[list[str | ImageInput], Field(min_length=1)]
    model: Name | None = None
    routing_key: RoutingKey | None = None
    encoding_format: Literal["float", "base64"] = "float"
    on_truncate: Literal["warn", "error"] = "warn"
    user: str | None = None


class Answer(BaseModel):
    """Base of answers."""

    model_config = ConfigDict(extra="forbid")


class WarningAnswer(Answer):
    """Something to know about a score; `tokens` and `limit` come with `text_truncated`."""

    code: str
    detail: str
    tokens: int | None = None
    limit: int | None = None


class ErrorAnswer(Answer):
    """Why an item has no result."""

    code: str
    detail: str


class ResultAnswer(Answer):
    """One pair's result: `score` and `scores`, or `error`."""

    image: int = Field(description="Index of the image; in a `pairs` request, of the pair.")
    text: int = Field(description="Index of the text; in a `pairs` request, of the pair.")
    score: float | None = Field(default=None, description="The one number to act on.")
    scores: dict[str, float] | None = Field(default=None, description="Every metric, unrounded.")
    warnings: list[WarningAnswer] | None = None
    error: ErrorAnswer | None = None
    rank: int | None = Field(default=None, description="1 is best; only in answers of /v1/rank.")


class ExperimentArmAnswer(Answer):
    """The experiment that chose the model, and the arm that it chose."""

    name: str
    arm: str


class ScoreAnswer(Answer):
    """Answer of `/v1/score` and `/v1/rank`."""

    id: str
    model: str = Field(description="name@revision that answered.")
    experiment: ExperimentArmAnswer | None = None
    results: list[ResultAnswer]
    timing_ms: dict[str, float]


class EmbeddingAnswer(Answer):
    """One embedding of unit length, or `error`."""

    object: Literal["embedding"] = "embedding"
    index: int
    tokens: int = Field(description="Tokens of a text; 0 for an image.")
    embedding: list[float] | str | None = None
    warnings: list[WarningAnswer] | None = None
    error: ErrorAnswer | None = None


class UsageAnswer(Answer):
    """Tokens read, as OpenAI reports them."""

    prompt_tokens: int
    total_tokens: int


class EmbeddingsAnswer(Answer):
    """Answer of `/v1/embeddings`."""

    object: Literal["list"] = "list"
    id: str
    model: str
    experiment: ExperimentArmAnswer | None = None
    data: list[EmbeddingAnswer]
    usage: UsageAnswer
    timing_ms: dict[str, float]


class CapabilitiesAnswer(Answer):
    """What a loaded model can do."""

    metrics: list[str]
    default_metrics: list[str]
    primary: str
    embeds: bool
    max_batch: int
    context_length: int | None
    embedding_dim: int | None


class PreprocessingAnswer(Answer):
    """How images are fitted to a model: what the service does, and a client need not."""

    size: tuple[int, int] = Field(description="Height and width in pixels.")
    resize_mode: str = Field(description="shortest, longest, squash, or patches")
    interpolation: str
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    fill_color: int = Field(description="Grey level of the padding, 0-255.")
    resized: tuple[int, int] | None = Field(description="Height and width before a centre crop.")
    crop_down: bool = Field(description="Whether an odd rest of a crop is cut at the end.")
    patch_size: int | None = Field(description="Side of a patch; in the mode patches.")
    max_patches: int | None = Field(description="Most patches of an image; in that mode.")


ModelStateName = Literal["declared", "loading", "ready", "active", "draining", "unloaded", "failed"]


class StatusAnswer(Answer):
    """Where a revision stands."""

    state: ModelStateName | None = None
    reason: str | None = Field(default=None, description="Why it failed.")
    note: str | None = Field(default=None, description="What else is worth knowing.")
    since: float | None = Field(default=None, description="Seconds since 1970.")


class RevisionAnswer(StatusAnswer):
    """A revision that is, was a short while ago, or is to be served."""

    id: str


class ReplicaAnswer(Answer):
    """How a model is on one replica of its pool."""

    id: str
    state: Literal["loading", "ready", "failed", "unloaded"]
    reason: str | None = Field(description="Why it failed.")
    note: str | None = Field(description="What else is worth knowing.")


class ModelAnswer(StatusAnswer):
    """A declared model. What only a loaded model can tell is null until a replica has told it."""

    id: str
    object: Literal["model"] = "model"
    name: str
    revision: str
    default: bool
    pool: str
    backend: str
    architecture: str | None
    pretrained: str | None
    device: str
    precision: str
    loaded: bool = Field(description="Whether this ingress replica has seen it loaded.")
    capabilities: CapabilitiesAnswer | None = None
    parameters: int | None = None
    bytes: int | None = None
    load_seconds: float | None = None
    expected_ms: float | None = None
    image_size: list[int] | None = None
    preprocessing: PreprocessingAnswer | None = None
    details: dict[str, str] | None = None
    replicas: list[ReplicaAnswer] | None = Field(
        default=None,
        description="Of GET /v1/models/{name} alone; null while the control plane is away.",
    )


class OverridesAnswer(Answer):
    """What an operator changed on top of what is declared."""

    snapshot: int | None = Field(description="Configuration snapshot in place of what is declared.")
    default: str | None
    weights: dict[str, dict[str, float]]
    pinned: list[str]
    keep: bool = Field(description="Whether they outlast a change of what is declared.")
    since: float | None


class FaultAnswer(Answer):
    """Something in the configuration: where it stands, and what there is to say about it."""

    key: str
    message: str


class ModelsAnswer(Answer):
    """Answer of `GET /v1/models`."""

    object: Literal["list"] = "list"
    version: str | None = Field(description="Another one with every change of what is served.")
    snapshot: int | None = Field(description="Number of the configuration snapshot in effect.")
    data: list[ModelAnswer]
    revisions: list[RevisionAnswer] = Field(description="All revisions that are known.")
    overrides: OverridesAnswer | None
    faults: list[FaultAnswer] = Field(
        description="Why the last change was refused, for as long as it stands; what was in force "
        "goes on."
    )
    notices: list[FaultAnswer] = Field(description="Worth knowing, and no fault.")


class ArmAnswer(Answer):
    """What has become of the requests of one arm; the times are null until one was answered."""

    weight: float = Field(description="Percent of the requests.")
    count: int
    errors: int = Field(description="Requests that the service failed.")
    p50_ms: float | None
    p95_ms: float | None


class ShadowAnswer(Answer):
    """What has become of the requests that a shadow should score too."""

    sent: int = Field(description="Scored by the shadow.")
    dropped: int = Field(description="Left out, because there was other work.")
    failed: int


class ExperimentAnswer(Answer):
    """An experiment, with the counts of all ingress replicas since each of them started."""

    name: str
    object: Literal["experiment"] = "experiment"
    state: Literal["running"] = "running"
    control: str = Field(description="The arm that the others are compared with.")
    sticky_by: str
    arms: dict[str, ArmAnswer]
    shadow: dict[str, ShadowAnswer]
    replicas: int = Field(description="Ingress replicas whose counts are in it.")


class ExperimentsAnswer(Answer):
    """Answer of `GET /v1/experiments`."""

    object: Literal["list"] = "list"
    data: list[ExperimentAnswer]


class StateAnswer(Answer):
    """Answer of `/healthz` and `/readyz`."""

    status: Literal["ok"] = "ok"


class ProblemAnswer(Answer):
    """An error of a request, RFC 9457; the last five only where every item failed."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    request_id: str
    model: str | None = None
    experiment: ExperimentArmAnswer | None = None
    results: list[ResultAnswer] | None = None
    data: list[EmbeddingAnswer] | None = None
    timing_ms: dict[str, float] | None = None
