"""Addresses of weights on other machines; opens no connection.

A `pretrained` that is none is a local path, or a name that its backend knows (a tag, an id of the
hub).
"""

from __future__ import annotations

import importlib.util
import ipaddress
import re
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

_ADDRESS = re.compile(r"[a-z][a-z0-9+.-]*://", re.IGNORECASE)
_DRIVERS = {"https": "aiohttp", "http": "aiohttp", "s3": "s3fs", "gs": "gcsfs"}
SCHEMES = ("https", "s3", "gs")


@dataclass(frozen=True, slots=True)
class Address:
    """Where weights are.

    Attributes:
        text: As declared.
        scheme: `https`, `s3` or `gs`; `http` on this machine alone.
        name: Of the file, or of the folder.
        folder: Whether it is a folder: it ends with a slash.
    """

    text: str
    scheme: str
    name: str
    folder: bool

    @property
    def missing_driver(self) -> str | None:
        """The command that installs what this scheme needs and is not here; None: all is here."""
        if importlib.util.find_spec(_DRIVERS[self.scheme]) is not None:
            return None
        return f"pip install 'serve-app[{self.scheme}]'"


def is_address(pretrained: str | None) -> bool:
    """Whether a `pretrained` is an address, a good one or not."""
    return pretrained is not None and _ADDRESS.match(pretrained) is not None


def parse_address(text: str) -> Address:
    """Takes an address apart.

    Raises:
        ValueError: It is none that weights can be had from; the message says why.
    """
    try:
        parts = urlsplit(text)
        host = parts.hostname or ""
    except ValueError as error:
        raise ValueError(f"{text!r} cannot be read: {error}") from None
    scheme = parts.scheme.lower()
    if scheme == "http" and not _is_here(host):
        raise ValueError("http is not safe for weights; use https")
    if scheme not in _DRIVERS:
        raise ValueError(f"there is no way to {scheme}://; there is to {', '.join(SCHEMES)}")
    if "@" in parts.netloc:
        raise ValueError(
            "an address holds no user name or password: it is shown in logs and answers; give "
            "them as the driver of its scheme expects them (AWS_…, GOOGLE_…)"
        )
    path = parts.path
    if not host or not path.strip("/"):
        raise ValueError(f"{text!r} names no file")
    folder = path.endswith("/")
    if folder and scheme in ("http", "https"):
        raise ValueError("a server says no list of a folder's files; name one file")
    name = unquote(path.rstrip("/").rpartition("/")[2])
    if name in ("", ".", "..") or "/" in name or "\0" in name:
        raise ValueError(f"{text!r} names no file")
    return Address(text, scheme, name, folder)


def _is_here(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
