"""The environment variables that the service reads; the one place that looks at the environment."""

from __future__ import annotations

import os
import re
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
STATE_URL = "SIMILARITY_STATE_URL"
STATE_SCHEME = "sqlite:///"
FETCH_URLS = "SIMILARITY_FETCH_URLS"
FETCH_HOSTS = "SIMILARITY_FETCH_HOSTS"
CACHE_DIR = "SIMILARITY_CACHE_DIR"
CACHE_BYTES = "SIMILARITY_CACHE_BYTES"
API_KEYS = "SIMILARITY_API_KEYS"
API_KEYS_FILE = "SIMILARITY_API_KEYS_FILE"
OPEN = "SIMILARITY_OPEN"
ADMIN_TOKEN = "SIMILARITY_ADMIN_TOKEN"  # noqa: S105 - a name, not the token

_SHORTEST_TOKEN = 16
_HOST = re.compile(r"(\*\.)?[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_NO_FILES = ("", ":memory:")


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
    Setting(API_KEYS, "Keys that callers must show: a YAML or JSON mapping of name to its hash."),
    Setting(API_KEYS_FILE, "Path of a file with the same mapping, which is followed."),
    Setting(OPEN, "`true`: answers anybody without a key, also where others can reach it."),
    Setting(
        ADMIN_TOKEN,
        "Turns the admin routes on, and is what they ask for: 16 characters or more.",
    ),
    Setting(
        STATE_URL,
        "Where overrides and history are kept: `sqlite:////absolute/path` or `sqlite:///path`.",
    ),
    Setting(FETCH_URLS, "`true`: images may be `https` URLs, which the service fetches."),
    Setting(
        FETCH_HOSTS, "The only hosts that it fetches from: names, or `*.example.com`, by commas."
    ),
    Setting(CACHE_DIR, "Where weights from https, s3 and gs are kept on each node."),
    Setting(CACHE_BYTES, "Most bytes of weights that are kept there; what is used least goes."),
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
        api_keys: Text of `SIMILARITY_API_KEYS`; None where it is not set.
        api_keys_file: `SIMILARITY_API_KEYS_FILE`; None where it is not set.
        open: Whether `SIMILARITY_OPEN` is `true`.
        admin_token: `SIMILARITY_ADMIN_TOKEN`; None where it is not set.
        state_url: `SIMILARITY_STATE_URL`; None where it is not set.
        fetch_urls: Whether `SIMILARITY_FETCH_URLS` is `true`.
        fetch_hosts: Those of `SIMILARITY_FETCH_HOSTS`; empty: any.
        cache_dir: `SIMILARITY_CACHE_DIR`; None where it is not set.
        cache_bytes: `SIMILARITY_CACHE_BYTES`; None where it is not set, or no number.
        faults: Unknown variables, and variables that exclude each other.
    """

    models: str | None = None
    models_file: str | None = None
    model: str | None = None
    overrides: Mapping[str, str] = field(default_factory=dict)
    routing: str | None = None
    routing_file: str | None = None
    api_keys: str | None = field(default=None, repr=False)
    api_keys_file: str | None = None
    open: bool = False
    admin_token: str | None = field(default=None, repr=False)
    state_url: str | None = None
    fetch_urls: bool = False
    fetch_hosts: tuple[str, ...] = ()
    cache_dir: str | None = None
    cache_bytes: int | None = None
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
    known = {setting.name for setting in SETTINGS if "<" not in setting.name}
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
    faults.extend(_access_faults(ours))
    faults.extend(_operating_faults(ours.get(ADMIN_TOKEN), ours.get(STATE_URL)))
    cache_bytes = _bytes(ours.get(CACHE_BYTES))
    if CACHE_BYTES in ours and cache_bytes is None:
        message = f"must be a number of bytes above 0, not {ours[CACHE_BYTES]!r}"
        faults.append(Fault(CACHE_BYTES, message))
    faults.extend(_fetching_faults(ours.get(FETCH_URLS), ours.get(FETCH_HOSTS)))
    return Settings(
        models=ours.get(MODELS),
        models_file=ours.get(MODELS_FILE),
        model=ours.get(MODEL),
        overrides=overrides,
        routing=ours.get(ROUTING),
        routing_file=ours.get(ROUTING_FILE),
        api_keys=ours.get(API_KEYS),
        api_keys_file=ours.get(API_KEYS_FILE),
        open=ours.get(OPEN) == "true",
        admin_token=ours.get(ADMIN_TOKEN),
        state_url=ours.get(STATE_URL),
        fetch_urls=ours.get(FETCH_URLS) == "true",
        fetch_hosts=_hosts(ours.get(FETCH_HOSTS, "")),
        cache_dir=ours.get(CACHE_DIR) or None,
        cache_bytes=cache_bytes,
        faults=tuple(faults),
    )


def _hosts(text: str) -> tuple[str, ...]:
    return tuple(host.strip() for host in text.split(",") if host.strip())


def _fetching_faults(urls: str | None, hosts: str | None) -> list[Fault]:
    faults = []
    if urls not in (None, "true", "false"):
        faults.append(Fault(FETCH_URLS, f"must be true or false, not {urls!r}"))
    wrong = [host for host in _hosts(hosts or "") if not _HOST.fullmatch(host)]
    if wrong:
        message = f"has what is no name of a host: {', '.join(map(repr, wrong))}"
        faults.append(Fault(FETCH_HOSTS, message))
    if hosts is not None and urls != "true":
        faults.append(Fault(FETCH_HOSTS, f"has no effect without {FETCH_URLS}=true"))
    return faults


def _access_faults(ours: Mapping[str, str]) -> list[Fault]:
    faults = []
    if API_KEYS in ours and API_KEYS_FILE in ours:
        faults.append(Fault(API_KEYS_FILE, f"is set together with {API_KEYS}; set one of them"))
    if API_KEYS_FILE in ours and not ours[API_KEYS_FILE].strip():
        faults.append(Fault(API_KEYS_FILE, "is empty; give the path of a file, or unset it"))
    if ours.get(OPEN) not in (None, "true", "false"):
        faults.append(Fault(OPEN, f"must be true or false, not {ours[OPEN]!r}"))
    if ours.get(OPEN) == "true" and (API_KEYS in ours or API_KEYS_FILE in ours):
        keys = API_KEYS if API_KEYS in ours else API_KEYS_FILE
        faults.append(Fault(OPEN, f"says that no key is asked for, and {keys} is set; unset one"))
    return faults


def _bytes(text: str | None) -> int | None:
    return int(text) if text is not None and text.isdecimal() and int(text) > 0 else None


def _operating_faults(token: str | None, state_url: str | None) -> list[Fault]:
    """What is wrong with the settings of operators; never with the token in it."""
    faults = []
    if token is not None and len(token) < _SHORTEST_TOKEN:
        message = f"has {len(token)} characters; a token has at least {_SHORTEST_TOKEN}"
        faults.append(Fault(ADMIN_TOKEN, message))
    if token is not None and state_url is None:
        message = f"needs {STATE_URL}: what operators change must outlive the process"
        faults.append(Fault(ADMIN_TOKEN, message))
    if state_url is not None and state_url.removeprefix(STATE_SCHEME).strip("/ ") in _NO_FILES:
        faults.append(Fault(STATE_URL, f"must be {STATE_SCHEME}PATH, and names no file"))
    elif state_url is not None and not state_url.startswith(STATE_SCHEME):
        message = f"must be {STATE_SCHEME}PATH, not {state_url!r}; no other store is known"
        faults.append(Fault(STATE_URL, message))
    return faults


def _known_variables() -> str:
    return f"; known are: {', '.join(setting.name for setting in SETTINGS)}"
