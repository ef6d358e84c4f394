"""The environment variables that the service reads; the one place that looks at the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from serve_app.config.faults import suggestion
from serve_app.errors import Fault

PREFIX = "SIMILARITY_"
MODELS = "SIMILARITY_MODELS"
MODELS_FILE = "SIMILARITY_MODELS_FILE"
MODEL = "SIMILARITY_MODEL"
OVERRIDE_PREFIX = "SIMILARITY_MODELS__"
ROUTING = "SIMILARITY_ROUTING"
ROUTING_FILE = "SIMILARITY_ROUTING_FILE"


@dataclass(frozen=True, slots=True)
class Setting:
    """An environment variable, and in one line what it is for."""

    name: str
    description: str


SETTINGS: tuple[Setting, ...] = (
    Setting(MODELS, "Models to serve: a YAML or JSON mapping of name to spec."),
    Setting(MODELS_FILE, "Path of a file with the same mapping."),
    Setting(
        f"{OVERRIDE_PREFIX}<NAME>__<FIELD>",
        "Sets one field of one model; nested fields are joined by `__`.",
    ),
    Setting(
        MODEL,
        "One model to serve: `ARCHITECTURE/TAG` of open_clip, a folder, or a checkpoint file.",
    ),
    Setting(ROUTING, "Default, aliases and experiments: a YAML or JSON mapping."),
    Setting(ROUTING_FILE, "Path of a file with the mapping of SIMILARITY_ROUTING."),
)
"""Every variable that is read."""


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        models: Text of `SIMILARITY_MODELS`; None where it is not set.
        models_file: `SIMILARITY_MODELS_FILE`; None where it is not set.
        model: `SIMILARITY_MODEL`; None where it is not set.
        overrides: The `SIMILARITY_MODELS__…` variables, by full name.
        routing: Text of `SIMILARITY_ROUTING`; None where it is not set.
        routing_file: `SIMILARITY_ROUTING_FILE`; None where it is not set.
        faults: Unknown variables, and variables that exclude each other.
    """

    models: str | None = None
    models_file: str | None = None
    model: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    routing: str | None = None
    routing_file: str | None = None
    faults: tuple[Fault, ...] = ()

    @property
    def declares(self) -> bool:
        """Whether anything about models is set."""
        return self._documents > 0 or bool(self.overrides)

    @property
    def conflicting(self) -> bool:
        """Whether it is open which of several declarations is meant."""
        return self._documents > 1 or (self.model is not None and bool(self.overrides))

    @property
    def _documents(self) -> int:
        return sum(text is not None for text in (self.models, self.models_file, self.model))


def read_environment(environ: Mapping[str, str] | None = None) -> Settings:
    """Reads the settings.

    Args:
        environ: Instead of the process's environment.

    Returns:
        The settings with every fault in them: nothing is raised here, so that the faults of the
        documents can be named in the same breath.
    """
    source = os.environ if environ is None else environ
    ours = {name: source[name] for name in sorted(source) if name.startswith(PREFIX)}
    overrides = {name: text for name, text in ours.items() if name.startswith(OVERRIDE_PREFIX)}
    known = {MODELS, MODELS_FILE, MODEL, ROUTING, ROUTING_FILE}
    faults = [
        Fault(name, f"unknown variable{suggestion(name, known) or _known_variables()}")
        for name in ours
        if name not in known and name not in overrides
    ]
    if MODELS in ours and MODELS_FILE in ours:
        faults.append(Fault(MODELS_FILE, f"is set together with {MODELS}; set one of them"))
    others = [name for name in ours if name in (MODELS, MODELS_FILE) or name in overrides]
    if MODEL in ours and others:
        faults.append(
            Fault(
                MODEL,
                f"is set together with {', '.join(others)}; it declares the only model, so set "
                "either it or them",
            )
        )
    if ROUTING in ours and ROUTING_FILE in ours:
        faults.append(Fault(ROUTING_FILE, f"is set together with {ROUTING}; set one of them"))
    return Settings(
        models=ours.get(MODELS),
        models_file=ours.get(MODELS_FILE),
        model=ours.get(MODEL),
        overrides=overrides,
        routing=ours.get(ROUTING),
        routing_file=ours.get(ROUTING_FILE),
        faults=tuple(faults),
    )


def _known_variables() -> str:
    return f"; known are: {', '.join(setting.name for setting in SETTINGS)}"
