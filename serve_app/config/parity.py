"""Golden scores: what a model must give for known pairs before it may answer; computes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from serve_app.config.faults import Origin, located_messages
from serve_app.config.text import parse_mapping, read_text
from serve_app.errors import ConfigError, Fault

DEFAULT_TOLERANCE = 0.01

_File = TypeVar("_File", bound=BaseModel)


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class GoldenPair(_Strict):
    """A pair and the scores that were recorded for it.

    Attributes:
        image: A data URI, base64, or the path of an image file.
        text: The text.
        scores: By metric, what was recorded.
    """

    image: str = Field(min_length=1)
    text: str = Field(min_length=1)
    scores: dict[str, float] = Field(min_length=1)


class Parity(_Strict):
    """What a model is compared with when it is loaded; refused where it drifts.

    Attributes:
        pairs: Golden pairs, written here.
        file: Path of a YAML or JSON file with `pairs` and perhaps `tolerance`; paths of images in
            it are relative to it.
        tolerance: How far a score may be from the recorded one, absolute; None: as the file says,
            else 0.01.
    """

    pairs: tuple[GoldenPair, ...] = ()
    file: str | None = None
    tolerance: float | None = Field(default=None, ge=0)

    @model_validator(mode="after")
    def _something(self) -> Parity:
        if not self.pairs and self.file is None:
            raise ValueError("give `pairs`, or a `file` with them")
        return self


class _ParityFile(_Strict):
    pairs: tuple[GoldenPair, ...] = Field(min_length=1)
    tolerance: float | None = Field(default=None, ge=0)


class AskedPair(_Strict):
    """A pair whose scores are to be recorded.

    Attributes:
        image: As in a golden pair.
        text: The text.
        scores: As in a golden pair, so that one can be recorded anew; only the names matter, and
            with none it is for others to say which.
    """

    image: str = Field(min_length=1)
    text: str = Field(min_length=1)
    scores: dict[str, float] = Field(default_factory=dict)


class AskedPairs(_Strict):
    """A file with pairs whose scores are to be recorded.

    Attributes:
        pairs: In the order of the file.
        tolerance: Is handed on.
    """

    pairs: tuple[AskedPair, ...] = Field(min_length=1)
    tolerance: float | None = Field(default=None, ge=0)


class GoldenScores(_Strict):
    """Parity with its file read.

    Attributes:
        pairs: All golden pairs.
        tolerance: How far a score may be from the recorded one.
    """

    pairs: tuple[GoldenPair, ...]
    tolerance: float


def read_parity(parity: Parity) -> GoldenScores:
    """Reads the file, if there is one.

    Raises:
        ConfigError: Every fault in it.
    """
    pairs, tolerance = parity.pairs, parity.tolerance
    if parity.file is not None:
        path = Path(parity.file).expanduser()
        found = _read(path, _ParityFile)
        pairs += tuple(
            pair.model_copy(update={"image": beside(path, pair.image)}) for pair in found.pairs
        )
        tolerance = found.tolerance if tolerance is None else tolerance
    return GoldenScores(
        pairs=pairs, tolerance=DEFAULT_TOLERANCE if tolerance is None else tolerance
    )


def read_asked_pairs(path: Path) -> AskedPairs:
    """Reads pairs whose scores are to be recorded; a file of golden pairs will do.

    Raises:
        ConfigError: Every fault in it.
    """
    return _read(path, AskedPairs)


def is_path(image: str) -> bool:
    """Whether a golden image is named, and not written out: base64 has no dot, paths do."""
    return image[:5].lower() != "data:" and "." in image


def beside(file: Path, image: str) -> str:
    """The image, its path made relative to the file that names it, if it is a relative path."""
    if is_path(image) and not Path(image).expanduser().is_absolute():
        return f"{file.parent}/{image}"  # joined as paths, ./image would lose its dot
    return image


def _read(path: Path, kind: type[_File]) -> _File:
    origin = Origin(str(path), ":")
    parsed = parse_mapping(read_text(path, origin.key()), origin)
    messages = list(parsed.messages)
    try:
        found = kind.model_validate(parsed.value)
    except ValidationError as error:
        messages += located_messages(error, kind)
    if messages:
        raise ConfigError(tuple(Fault(origin.key(where), message) for where, message in messages))
    return found
