"""Another instance of this service, as a pair scorer.

It is asked for scores and not for embeddings: so all of its metrics, of whatever kind of model,
arrive as they are there. Images are fitted here, by the remote's own description, and sent without
loss: what crosses is small, and nothing is fitted twice.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelFailedError, ModelLoadError, ModelUnavailableError
from serve_app.inputs.preprocess import ImagePreprocess
from serve_app.models.base import Capabilities, Pixels, Placement, Scores
from serve_app.models.remote import (
    DEFAULT_MAX_BATCH,
    PROBE_TEXT,
    RemoteModel,
    data_uri,
    item_error,
    options_for,
)
from serve_app.models.remote_connection import RemoteConnection
from serve_app.models.remote_spec import ServiceOptions
from serve_app.scoring.metrics import METRICS

_MOST_REMEMBERED = 4096


class RemoteServiceModel(RemoteModel):
    """A model of another instance of this service, as a pair scorer.

    Args:
        spec: The declared configuration.
        placement: Not used: device and precision are the remote's.
    """

    def __init__(self, spec: ModelSpec, placement: Placement) -> None:
        super().__init__(spec, placement)
        self._tokens: dict[str, int] = {}

    def load(self) -> None:
        """Asks the remote about its model, and has it loaded there.

        Raises:
            ModelLoadError: It is not there, or tells too little; the message says what.
        """
        self.unload()
        options = options_for(self.spec, ServiceOptions)
        connection = RemoteConnection(options)
        try:
            name = options.model
            if name is None:
                name = str(_default(connection.get("/v1/models")))
            told = connection.get(f"/v1/models/{name}")
            if told.get("capabilities") is None:
                # Nobody has used it yet; the first request loads it.
                grey = data_uri(np.full((32, 32, 3), 127, dtype=np.uint8))
                asked = {"images": [grey], "texts": [PROBE_TEXT], "model": name}
                connection.post("/v1/score", asked)
                told = connection.get(f"/v1/models/{name}")
            self._state = _State(told, options.follow, self.spec)
        except (ModelUnavailableError, ModelFailedError) as error:
            connection.close()
            raise ModelLoadError(f"The remote model cannot be used: {error.detail}") from error
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            connection.close()
            raise ModelLoadError(
                f"{options.url} does not tell of its model as this service does "
                f"({type(error).__name__}: {error}); is it one, and of this version?"
            ) from error
        except BaseException:
            connection.close()
            raise
        self._connection = connection

    def compute_similarity(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        """Scores pairs there; see `SimilarityModel.compute_similarity`.

        Raises:
            ModelUnavailableError: It cannot be reached, or has another revision by now.
            ItemError: What it says of the one pair that was asked.
        """
        found: list[Scores] = []
        for start in range(0, len(pairs), self.max_batch):
            found += self._scored(pairs[start : start + self.max_batch])
        return found

    def count_tokens(self, texts: Sequence[str]) -> tuple[int, ...]:
        """Tokens of texts that are too long; 0 for others: the remote counts them for itself."""
        unknown = [text for text in dict.fromkeys(texts) if text not in self._tokens]
        if unknown:
            height, width = self.preprocess.size
            grey = np.full((height, width, 3), 127, dtype=np.uint8)
            self.compute_similarity([(grey, text) for text in unknown])
        return tuple(self._tokens.get(text, 0) for text in texts)

    @property
    def capabilities(self) -> Capabilities:
        """What the remote can do with pairs."""
        return self._loaded.capabilities

    @property
    def preprocess(self) -> ImagePreprocess:
        """How images must be fitted, so that the remote need not."""
        return self._loaded.preprocess

    @property
    def details(self) -> Mapping[str, str]:
        """Where it is and which revision it was when it was loaded."""
        return self._loaded.details

    @property
    def _loaded(self) -> _State:
        _ = self.remote
        return self._state

    def _scored(self, pairs: Sequence[tuple[Pixels, str]]) -> list[Scores]:
        remote, state = self.remote, self._loaded
        images = list({id(image): image for image, _ in pairs}.values())
        texts = list(dict.fromkeys(text for _, text in pairs))
        if len(self._tokens) + len(texts) > _MOST_REMEMBERED:
            self._tokens.clear()
        rows = {id(image): row for row, image in enumerate(images)}
        uris = [data_uri(image) for image in images]
        body: dict[str, Any] = {"model": state.asked, "metrics": list(state.capabilities.metrics)}
        if len(images) * len(texts) <= 2 * len(pairs):
            # Every combination, of which all or most are wanted: each image crosses once.
            body |= {"images": uris, "texts": texts}
            places = [rows[id(image)] * len(texts) + texts.index(text) for image, text in pairs]
        else:
            body["pairs"] = [
                {"image": uris[rows[id(image)]], "text": text} for image, text in pairs
            ]
            places = list(range(len(pairs)))
        answer = remote.post("/v1/score", body)
        try:
            if not state.follow and answer.get("model", state.id) != state.id:
                raise ModelUnavailableError(
                    f"{state.url} answers with {answer['model']} and not with {state.id}, which "
                    "was loaded; declare the other one, or set `options.follow`."
                )
            results = answer["results"]
            return [
                self._result(text, results[place], alone=len(pairs) == 1)
                for (_, text), place in zip(pairs, places, strict=True)
            ]
        except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
            raise ModelFailedError(
                f"{state.url} does not answer as this service does ({error})."
            ) from error

    def _result(self, text: str, result: Mapping[str, Any], *, alone: bool) -> Scores:
        fault = result.get("error")
        if fault is not None:
            if alone:
                raise item_error(fault)
            # It stands alone after the batch was split; its neighbours are not to blame.
            raise ModelFailedError(f"one pair failed there ({fault['code']})")
        self._tokens[text] = max(
            (int(warning.get("tokens") or 0) for warning in result.get("warnings") or ()),
            default=0,
        )
        return {name: float(result["scores"][name]) for name in self._loaded.capabilities.metrics}


class _State:
    """What the remote told of its model when it was loaded."""

    def __init__(self, told: Mapping[str, Any], follow: bool, spec: ModelSpec) -> None:
        can = told["capabilities"]
        metrics = tuple(
            name for name in can["metrics"] if name not in METRICS or not METRICS[name].text_prefix
        )
        primary = spec.primary or can["primary"]
        if primary not in metrics:
            raise ModelLoadError(
                f"`primary: {primary}` is not a metric of the remote model; it has "
                f"{', '.join(metrics)}."
            )
        usual = tuple(name for name in can["default_metrics"] if name in metrics)
        self.id = str(told["id"])
        self.follow = follow
        self.url = str(spec.options["url"])
        self.asked = str(told["name"]) if follow else self.id
        self.preprocess = fitted_here(_preprocess(told["preprocessing"]))
        self.capabilities = Capabilities(
            metrics=metrics,
            default_metrics=usual if primary in usual else (*usual, primary),
            primary=primary,
            embeds=False,
            max_batch=spec.performance.max_batch or DEFAULT_MAX_BATCH,
            context_length=can["context_length"],
        )
        self.details = {
            "source": self.url,
            "remote_model": self.id,
            "remote_device": f"{told.get('device')} {told.get('precision')}",
        }


def fitted_here(remote: ImagePreprocess) -> ImagePreprocess:
    """How to fit an image so that the remote's own fitting changes nothing any more.

    Args:
        remote: What the remote does to an image.

    Raises:
        ModelLoadError: There is no such way.
    """
    if not remote.fixed:
        raise ModelLoadError(
            "The remote model takes images of any size (NaFlex), which cannot be fitted here "
            "without being fitted there once more."
        )
    if remote.resized is None:
        return remote
    # It crops what it has resized: what is sent has the size before the crop.
    side = remote.resized if remote.resize_mode == "squash" else (min(remote.resized),) * 2
    odd = any((before - after) % 2 for before, after in zip(side, remote.size, strict=True))
    if remote.resize_mode != "squash" and odd:
        raise ModelLoadError(
            f"The remote model resizes to {side} and crops to {remote.size}: an odd rest, of which "
            "two crops would cut other pixels than one."
        )
    return dataclasses.replace(remote, size=side, resized=None)


def _preprocess(told: Mapping[str, Any]) -> ImagePreprocess:
    fields: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in told.items()
    }
    return ImagePreprocess(**fields)


def _default(models: Mapping[str, Any]) -> str:
    return next(str(model["name"]) for model in models["data"] if model["default"])
