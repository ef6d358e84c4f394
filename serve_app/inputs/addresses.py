"""Which network addresses a caller may make the service connect to; opens no connection.

Everything that is not plainly public is refused, also where it stands inside another address.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

_NAT64 = ipaddress.IPv6Network("64:ff9b::/96")  # RFC 6052
_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "168.63.129.16/32",  # public by its number, and the platform's own host on Azure
            "192.0.0.0/24",  # RFC 6890; metadata on Oracle's cloud. Not private to older Pythons
            "192.88.99.0/24",  # RFC 7526: relays, obsolete
            "64:ff9b:1::/48",  # RFC 8215: whatever a network makes of it
            "::/96",  # IPv4-compatible, obsolete
            "fec0::/10",  # site-local, obsolete
            "3fff::/20",  # RFC 9637: documentation
            "5f00::/16",  # RFC 9602: segment routing
        ),
    )
)


def why_refused(address: Address, allowed: Sequence[Network] = ()) -> str | None:
    """Why the service does not connect to an address; None where it does.

    Args:
        address: Of the peer.
        allowed: Networks that are allowed although they are not public.
    """
    # An allowance is for the address that is connected to, not for one that stands inside it.
    if any(address in network for network in allowed):
        return None
    for found in _all_in(address):
        if not _is_public(found):
            inside = "" if found == address else f", which stands for {found},"
            return f"{address}{inside} is not a public address"
    return None


def _is_public(address: Address) -> bool:
    if any(address in network for network in _NEVER):
        return False
    return address.is_global and not (
        address.is_multicast
        or address.is_reserved
        or address.is_loopback
        or address.is_link_local
        or address.is_unspecified
    )


def _all_in(address: Address) -> Iterator[Address]:
    """The address, and those that it carries or is a tunnel to."""
    carried = []
    if isinstance(address, ipaddress.IPv6Address):
        if address.ipv4_mapped is not None:
            yield address.ipv4_mapped  # the same address by another name
            return
        carried = [address.sixtofour, *(address.teredo or ())]
        if address in _NAT64:
            yield ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
            return
    yield address
    yield from (inner for inner in carried if inner is not None)
