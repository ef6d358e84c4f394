"""Which URLs a caller may make the service fetch, by their characters alone; resolves nothing.

There is one parser: the request is made from the parts that were checked, not from the text. What
could be read in two ways is refused.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from urllib.parse import quote, urlsplit

import idna

from serve_app.errors import ImageUrlRefusedError
from serve_app.inputs.addresses import Network

LONGEST_URL = 4096

_ODD = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_LABEL = re.compile(r"(?!-)[a-z0-9_-]{1,63}(?<!-)")
_NUMERIC = re.compile(r"[0-9]+|0x[0-9a-f]*")
_PORTS = {"https": 443, "http": 80}
_SAFE = "%/?:@!$&'()*+,;=-._~[]"


@dataclass(frozen=True, slots=True)
class FetchRules:
    """What may be fetched.

    Attributes:
        hosts: Names that may be asked, `*.example.com` for all below one; empty: any.
        http: Whether `http` is allowed besides `https`.
        ports: Ports that may be asked; empty: 443, and 80 for `http`.
        networks: Networks that are allowed although they are not public.
        max_bytes: Most bytes of an answer.
        max_redirects: Most redirects of one fetch.
        timeout_s: Seconds for a fetch, redirects included.
    """

    hosts: tuple[str, ...] = ()
    http: bool = False
    ports: tuple[int, ...] = ()
    networks: tuple[Network, ...] = field(default=())
    max_bytes: int = 20_000_000
    max_redirects: int = 3
    timeout_s: float = 10.0


@dataclass(frozen=True, slots=True)
class CheckedUrl:
    """A URL that may be fetched, as far as its text tells.

    Attributes:
        scheme: `https` or `http`.
        host: Lower-case, ASCII; an IPv6 address without brackets.
        port: Where to connect.
        target: Path and query, in ASCII.
    """

    scheme: str
    host: str
    port: int
    target: str

    @property
    def origin(self) -> str:
        """Scheme, host and port: what there is to say of it to people."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        port = "" if self.port == _PORTS[self.scheme] else f":{self.port}"
        return f"{self.scheme}://{host}{port}"

    @property
    def text(self) -> str:
        """The whole URL, as it is asked for."""
        return self.origin + self.target


def check_url(text: str, rules: FetchRules) -> CheckedUrl:
    """Takes a URL apart and looks whether it may be fetched.

    Args:
        text: As the caller sent it.
        rules: What may be fetched.

    Raises:
        ImageUrlRefusedError: It may not; the message says why, and nothing of what is inside.
    """
    if len(text) > LONGEST_URL:
        raise _refused(f"it has {len(text):,} characters; {LONGEST_URL:,} are allowed")
    if _ODD.search(text):
        raise _refused("it has white space, a control character or a backslash")
    try:
        parts = urlsplit(text)
        port = parts.port
        host = parts.hostname or ""
    except ValueError as error:
        raise _refused("it cannot be read") from error
    scheme = parts.scheme.lower()
    if scheme not in _PORTS or (scheme == "http" and not rules.http):
        raise _refused(f"only {'http and https are' if rules.http else 'https is'} fetched")
    if not text[len(scheme) :].startswith("://") or text[len(scheme) + 3 :].startswith("/"):
        raise _refused("it must begin with the scheme, two slashes and a host")
    if "@" in parts.netloc:
        raise _refused("it has a user name or password")
    host = _checked_host(host, bracketed="[" in parts.netloc)
    port = _PORTS[scheme] if port is None else port
    if port not in (rules.ports or {_PORTS[scheme]}):
        raise _refused(f"port {port} is not asked")
    if rules.hosts and not any(_matches(host, pattern) for pattern in rules.hosts):
        raise _refused(f"{host} is not one of the hosts that may be asked")
    target = quote(parts.path or "/", safe=_SAFE)
    if parts.query:
        target += f"?{quote(parts.query, safe=_SAFE)}"
    return CheckedUrl(scheme, host, port, target)


def _checked_host(host: str, *, bracketed: bool) -> str:
    if not host:
        raise _refused("it names no host")
    if bracketed:
        try:
            return str(ipaddress.IPv6Address(host)) if "%" not in host else _no_zone()
        except ValueError:
            raise _refused("its host is no IPv6 address") from None
    try:
        host = idna.encode(host.rstrip("."), uts46=True).decode().lower()
    except (idna.IDNAError, UnicodeError):
        # Names with an underscore are not in the standard, and there are some.
        if not host.isascii():
            raise _refused("its host is no name") from None
        host = host.rstrip(".").lower()
    labels = host.split(".")
    if _NUMERIC.fullmatch(labels[-1]):
        # What resolvers make of 127.1, 0x7f.1, 017700000001 or 2130706433 is for them to say.
        try:
            return str(ipaddress.IPv4Address(host))
        except ValueError:
            raise _refused("its host is an address in an odd notation") from None
    if len(host) > 253 or not all(_LABEL.fullmatch(label) for label in labels):
        raise _refused("its host is no name")
    return host


def _no_zone() -> str:
    raise _refused("its host is an address with a zone")


def _matches(host: str, pattern: str) -> bool:
    pattern = pattern.lower()
    if pattern.startswith("*."):
        return host.endswith(pattern[1:])
    return host == pattern


def _refused(why: str) -> ImageUrlRefusedError:
    return ImageUrlRefusedError(f"The image's URL is not fetched: {why}.")
