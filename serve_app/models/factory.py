"""From a backend's name to its class: built-in table, entry points, or an import string.

A backend is imported only when one of its models is created: importing torch takes seconds, and
most processes (ingress, control, command line) never need it.
"""

from __future__ import annotations

import importlib
import importlib.util
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from serve_app.config.checkpoints import weights_file
from serve_app.config.faults import suggestion
from serve_app.config.spec import ModelSpec
from serve_app.errors import ModelLoadError, ServeAppError
from serve_app.models.base import Placement, SimilarityModel
from serve_app.models.findings import Finding
from serve_app.weights.address import is_address, parse_address
from serve_app.weights.checksums import file_sha256

ENTRY_POINT_GROUP = "serve_app.models"
"""Packages offer backends by entry points of this group: name = "module:Class"."""

_IMPORT_STRING = re.compile(r"^[A-Za-z_][\w.]*:[A-Za-z_][\w.]*$")


@dataclass(frozen=True, slots=True)
class Backend:
    """Where a backend's parts are, as import strings.

    Attributes:
        model: A `SimilarityModel`; empty where `presets` has all there are.
        check: `(ModelSpec) -> Sequence[Finding]`, cheap to import; None: nothing to check.
        fingerprint: `(ModelSpec) -> Mapping`, cheap to import: JSON that identifies architecture
            and weights; None: the words of the spec, and the content of a local checkpoint.
        prefetch: `(ModelSpec) -> None`: downloads what a spec needs; None: nothing is downloaded.
        presets: By a spec's `architecture`, models of different classes.
    """

    model: str = ""
    check: str | None = None
    fingerprint: str | None = None
    prefetch: str | None = None
    presets: Mapping[str, str] = field(default_factory=dict)

    def class_for(self, architecture: str | None) -> str:
        """Import string of the class that a spec means; raises `ModelLoadError`."""
        if not self.presets:
            return self.model
        if architecture is None or architecture not in self.presets:
            near = suggestion(architecture or "", self.presets)
            known = ", ".join(self.presets)
            raise ModelLoadError(f"there is no preset {architecture!r}{near}; there are: {known}")
        return self.presets[architecture]


BUILT_IN: Mapping[str, Backend] = {
    "open_clip": Backend(
        model="serve_app.models.open_clip:OpenClipModel",
        check="serve_app.models.open_clip_spec:check",
        fingerprint="serve_app.models.open_clip_spec:fingerprint",
        prefetch="serve_app.models.open_clip_spec:prefetch",
    ),
    "torch_clip": Backend(
        model="serve_app.models.torch_clip:TorchClipModel",
        check="serve_app.models.torch_clip_spec:check",
        fingerprint="serve_app.models.torch_clip_spec:fingerprint",
    ),
    "itm": Backend(
        model="serve_app.models.itm:ItmModel",
        check="serve_app.models.itm_spec:check",
        fingerprint="serve_app.models.itm_spec:fingerprint",
        prefetch="serve_app.models.itm_spec:prefetch",
    ),
    "preference": Backend(
        presets={
            "pickscore": "serve_app.models.preference:PickScoreModel",
            "hpsv2": "serve_app.models.preference:HpsModel",
            "hpsv2.1": "serve_app.models.preference:HpsModel",
            "imagereward": "serve_app.models.image_reward:ImageRewardModel",
        },
        check="serve_app.models.preference_spec:check",
        fingerprint="serve_app.models.preference_spec:fingerprint",
        prefetch="serve_app.models.preference_spec:prefetch",
    ),
    "remote": Backend(
        presets={
            "service": "serve_app.models.remote_service:RemoteServiceModel",
            "embeddings": "serve_app.models.remote_embeddings:RemoteEmbeddingsModel",
        },
        check="serve_app.models.remote_spec:check",
        fingerprint="serve_app.models.remote_spec:fingerprint",
    ),
    "transformers": Backend(
        model="serve_app.models.transformers_dual:TransformersModel",
        check="serve_app.models.transformers_spec:check",
        fingerprint="serve_app.models.transformers_spec:fingerprint",
        prefetch="serve_app.models.transformers_spec:prefetch",
    ),
}
"""Backends that come with the package."""


class SimilarityModelFactory:
    """Makes models from specs.

    Args:
        backends: Instead of the built-in table. Its names go before those of entry points.
    """

    BUILT_IN = BUILT_IN

    def __init__(self, backends: Mapping[str, Backend] | None = None) -> None:
        self._table = dict(self.BUILT_IN if backends is None else backends)
        self._classes: dict[str, type[SimilarityModel]] = {}

    def names(self) -> tuple[str, ...]:
        """Names of all backends: built-in ones first, then those of entry points."""
        return tuple(dict.fromkeys((*self._table, *sorted(_entry_points()))))

    def resolve(self, backend: str, architecture: str | None = None) -> type[SimilarityModel]:
        """The class behind a backend's name or import string; imports it the first time.

        Args:
            backend: Name or import string.
            architecture: Names the preset, of backends that have some.

        Raises:
            ModelLoadError: There is no such backend, its module is not there or fails while it is
                imported, or what it names is no complete `SimilarityModel`.
        """
        text = self._backend(backend).class_for(architecture)
        if text not in self._classes:
            self._classes[text] = _model_class(text)
        return self._classes[text]

    def create(self, spec: ModelSpec, placement: Placement) -> SimilarityModel:
        """Makes a model; it is not loaded yet.

        Raises:
            ModelLoadError: As `resolve`.
        """
        return self.resolve(spec.backend, spec.architecture)(spec, placement)

    def check(self, spec: ModelSpec) -> tuple[Finding, ...]:
        """What can be said about a spec without loading anything or importing its backend."""
        try:
            backend = self._backend(spec.backend)
        except ModelLoadError as error:
            return (Finding("backend", error.detail),)
        if backend.check is not None:
            check: Callable[[ModelSpec], Sequence[Finding]] = import_from_string(backend.check)
            if not is_address(spec.pretrained):
                return tuple(check(spec))
            found = _check_address(spec)
            # A backend knows paths alone, and says of this one that it is not here.
            others = (f for f in check(spec) if f.field != "pretrained" or f.fault)
            return (*found, *others)
        module = backend.model.partition(":")[0]
        if not _is_there(module):
            return (
                Finding("backend", f"there is no module {module!r}; is its package installed?"),
            )
        return ()

    def fingerprint(self, spec: ModelSpec) -> Mapping[str, Any]:
        """JSON-compatible data that identifies a spec's architecture and weights.

        Raises:
            ModelLoadError: There is no such backend.
            OSError: A local file cannot be read.
        """
        backend = self._backend(spec.backend)
        if backend.fingerprint is None:
            return _words(spec)
        found: Mapping[str, Any] = import_from_string(backend.fingerprint)(spec)
        return found

    def prefetch(self, spec: ModelSpec) -> None:
        """Downloads what a spec needs and is not here, with progress on standard error.

        Raises:
            ModelLoadError: There is no such backend, or the download failed.
        """
        backend = self._backend(spec.backend)
        if backend.prefetch is not None:
            import_from_string(backend.prefetch)(spec)

    def _backend(self, name: str) -> Backend:
        if name in self._table:
            return self._table[name]
        offered = _entry_points()
        if name in offered:
            return Backend(offered[name])
        if _IMPORT_STRING.match(name):
            return Backend(name)
        known = self.names()
        raise ModelLoadError(
            f"unknown backend {name!r}{suggestion(name, known)}; known are {', '.join(known)}, "
            f"any entry point of the group {ENTRY_POINT_GROUP}, or an import string module:Class"
        )


def import_from_string(text: str) -> Any:
    """Imports `module:attribute`.

    Raises:
        ModelLoadError: The module or attribute is not there; or it is there, and its own import
            failed, which is a different thing to mend. Of its special kinds, `MissingExtraError`
            comes from modules that need more than is installed.
    """
    module_name, _, attributes = text.partition(":")
    if not _IMPORT_STRING.match(text):
        raise ModelLoadError(f"{text!r} is not an import string of the form module:Class")
    try:
        found: Any = importlib.import_module(module_name)
    except ServeAppError:
        raise  # a module that says by itself what it lacks
    except Exception as error:
        name = error.name if isinstance(error, ModuleNotFoundError) else None
        if name is not None and f"{module_name}.".startswith(f"{name}."):
            raise ModelLoadError(
                f"there is no module {module_name!r} ({text}); is its package installed?"
            ) from error
        raise ModelLoadError(
            f"the module {module_name!r} is there, but its own import failed: "
            f"{type(error).__name__}: {error}"
        ) from error
    for attribute in attributes.split("."):
        try:
            found = getattr(found, attribute)
        except AttributeError as error:
            raise ModelLoadError(
                f"the module {module_name!r} has no {attributes!r}"
                f"{suggestion(attribute, vars(found) if hasattr(found, '__dict__') else ())}"
            ) from error
    return found


def _model_class(text: str) -> type[SimilarityModel]:
    found = import_from_string(text)
    if not (isinstance(found, type) and issubclass(found, SimilarityModel)):
        raise ModelLoadError(f"{text} is not a subclass of serve_app.models.base.SimilarityModel")
    if inspect.isabstract(found):
        missing = ", ".join(sorted(found.__abstractmethods__))
        raise ModelLoadError(f"{text} does not implement {missing}")
    return found


def _entry_points() -> dict[str, str]:
    return {point.name: point.value for point in entry_points(group=ENTRY_POINT_GROUP)}


def _check_address(spec: ModelSpec) -> list[Finding]:
    try:
        address = parse_address(spec.pretrained or "")
    except ValueError as error:
        return [Finding("pretrained", str(error))]
    findings = []
    if spec.sha256 is None:
        message = (
            f"the revision stands for the address {address.text} and not for what is behind it; "
            "name its sha256, which `serve-app models pull` prints"
        )
        findings.append(Finding("sha256", message, fault=False))
    if address.missing_driver is not None:
        message = f"replicas need a package that is not on this machine: {address.missing_driver}"
        findings.append(Finding("pretrained", message, fault=False))
    return findings


def _is_there(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # a parent package is missing or has no spec
        return False


def _words(spec: ModelSpec) -> Mapping[str, Any]:
    """The fingerprint of a backend that has none of its own."""
    path = weights_file(spec.pretrained) if spec.pretrained else None
    here = path is not None and path.is_file()
    architecture = Path(spec.architecture).expanduser() if spec.architecture else None
    return {
        "architecture": file_sha256(architecture)
        if architecture is not None and architecture.is_file()
        else spec.architecture,
        "weights": file_sha256(path) if path is not None and here else spec.pretrained,
        "sha256": spec.sha256,
        "seed": spec.seed,
    }
