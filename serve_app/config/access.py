"""Who may use the service: API keys, kept as hashes; knows no request.

A key is a long random string, so a plain SHA-256 of it is as good as the key is: there is nothing
to guess, and a slow hash would only cost every request time.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator

from serve_app.config.faults import Origin, located_messages
from serve_app.config.settings import (
    API_KEYS,
    STATE_URL,
    Settings,
    read_environment,
)
from serve_app.config.spec import Strict
from serve_app.config.text import parse_mapping, read_text
from serve_app.errors import ConfigError, Fault

Role = Literal["score", "admin"]
"""What a key may: score and look, or change what is served as well."""

ADMIN_TOKEN_NAME = "admin-token"  # noqa: S105 - a name, not the token
"""What the key of SIMILARITY_ADMIN_TOKEN is called."""

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_DIGITS = frozenset("0123456789abcdef")
_NOT_HASHED = (
    "must be the SHA-256 of the key, 64 hexadecimal digits in lower case "
    "(`serve-app new-key NAME` makes a key and this line)"
)


class KeySpec(Strict):
    """What is written of one key.

    Attributes:
        sha256: Of the key, hexadecimal.
        role: What it may.
        requests_per_minute: Most requests in any minute, over all ingress replicas; None: any.
        max_in_progress: Most requests at a time, over all ingress replicas; None: any.
    """

    sha256: str
    role: Role = "score"
    requests_per_minute: int | None = Field(default=None, ge=1)
    max_in_progress: int | None = Field(default=None, ge=1)

    @field_validator("sha256", mode="plain")
    @classmethod
    def _hashed(cls, value: object) -> str:
        if not isinstance(value, str) or len(value) != 64 or not set(value) <= _DIGITS:
            raise ValueError(_NOT_HASHED)
        return value


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key; the attributes are those of `KeySpec`, and its name."""

    name: str
    sha256: str
    role: Role = "score"
    requests_per_minute: int | None = None
    max_in_progress: int | None = None


@dataclass(frozen=True, slots=True)
class Access:
    """Who may use the service.

    Attributes:
        keys: Known keys.
        required: Whether everything but health asks for one. What changes the service always does.
    """

    keys: tuple[ApiKey, ...] = ()
    required: bool = False


def key_digest(key: str) -> str:
    """SHA-256 of a key, hexadecimal: what is kept of it, and travels."""
    return hashlib.sha256(key.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class AccessSource:
    """Where keys come from; holds hashes alone.

    Attributes:
        text: The text of SIMILARITY_API_KEYS; None where it is not set.
        path: The file of SIMILARITY_API_KEYS_FILE, which is read anew each time; else None.
        admin: Hash of SIMILARITY_ADMIN_TOKEN; None where it is not set.
        operable: Whether what operators change has somewhere to be kept.
    """

    text: str | None = None
    path: Path | None = None
    admin: str | None = None
    operable: bool = False

    @property
    def required(self) -> bool:
        """Whether everything but health asks for a key."""
        return self.text is not None or self.path is not None

    @property
    def operated(self) -> bool:
        """Whether there may be operators."""
        return self.operable and (self.required or self.admin is not None)

    def read(self) -> Access:
        """The keys as they are now.

        Raises:
            ConfigError: They cannot be read or have faults, none of which shows a value.
        """
        keys: list[ApiKey] = []
        if self.text is not None:
            keys += parse_keys(self.text, Origin(API_KEYS), operable=self.operable)
        elif self.path is not None:
            origin = Origin(self.path.name, ":")
            text = read_text(self.path, origin.key())
            keys += parse_keys(text, origin, operable=self.operable)
        if self.admin is not None:
            keys.append(ApiKey(ADMIN_TOKEN_NAME, self.admin, "admin"))
        return Access(tuple(keys), self.required)


def access_from_environment(environ: Mapping[str, str] | None = None) -> AccessSource:
    """Where the environment says that keys come from.

    Args:
        environ: Instead of the process's environment.
    """
    return access_source(read_environment(environ))


def access_source(settings: Settings) -> AccessSource:
    """Where settings say that keys come from."""
    return AccessSource(
        settings.api_keys,
        # Not resolved: a mounted Secret is exchanged by a link. The reader may be elsewhere.
        None if settings.api_keys_file is None else Path(settings.api_keys_file).absolute(),
        None if settings.admin_token is None else key_digest(settings.admin_token),
        settings.state_url is not None,
    )


def parse_keys(text: str, origin: Origin, *, operable: bool) -> list[ApiKey]:
    """Reads a mapping of names to `KeySpec`s.

    Args:
        text: YAML or JSON.
        origin: Where it was read.
        operable: Whether keys of operators make sense.

    Raises:
        ConfigError: Every fault; none shows a value.
    """
    parsed = parse_mapping(text, origin)
    faults = [Fault(origin.key(path), message) for path, message in parsed.messages]
    keys: list[ApiKey] = []
    for name, raw in parsed.value.items():
        here = origin.key((name,))
        if not _named(name):
            # Not shown: whoever wrote `KEY: {...}` wrote the key there.
            message = "a name has lower-case letters, digits, `.`, `_` and `-`, at most 63"
            faults.append(Fault(origin.key(), message))
            continue
        if not isinstance(raw, dict):
            faults.append(Fault(here, "must be a mapping with `sha256`"))
            continue
        try:
            spec = KeySpec.model_validate(raw)
        except ValidationError as error:
            faults.extend(_without_values(error, origin, name))
            continue
        keys.append(ApiKey(name, **spec.model_dump()))
        if spec.role == "admin" and not operable:
            message = f"admin needs {STATE_URL}: what operators change must outlive the process"
            faults.append(Fault(origin.key((name, "role")), message))
    faults.extend(_doubles(keys, origin))
    if faults:
        raise ConfigError(tuple(faults))
    return keys


def _named(name: str) -> bool:
    return _NAME.fullmatch(name) is not None and name != ADMIN_TOKEN_NAME


def _without_values(error: ValidationError, origin: Origin, name: str) -> list[Fault]:
    faults = []
    for where, message in located_messages(error, KeySpec):
        # What was written there is perhaps the key itself: the message never shows it.
        safe = _NOT_HASHED if where == ("sha256",) else message
        faults.append(Fault(origin.key((name, *where)), safe))
    return faults


def _doubles(keys: list[ApiKey], origin: Origin) -> list[Fault]:
    first: dict[str, str] = {}
    faults = []
    for key in keys:
        other = first.setdefault(key.sha256, key.name)
        if other != key.name:
            faults.append(Fault(origin.key((key.name, "sha256")), f"is that of {other} too"))
    return faults
