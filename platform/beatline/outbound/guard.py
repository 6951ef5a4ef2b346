"""Which addresses a source may have: what is not public is refused, unless a setting allows it.

The address that is checked is the address that is connected to, so a name that changes its answer in between
(DNS rebinding) gains nothing.
"""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_address
from typing import Final

from beatline.errors import AddressRefusedError, TransientError

_METADATA: Final = frozenset({"169.254.169.254", "169.254.170.2", "100.100.100.200", "fd00:ec2::254"})
_NAT64: Final = IPv6Network("64:ff9b::/96")
_OWN: Final = (
    IPv6Network("fec0::/10"),  # site-local: given up as a kind of address, still routed where it was in use
    IPv6Network("64:ff9b:1::/48"),  # a network's own translation to IPv4, private addresses too
)
"""Which Python calls public, all of it or in some versions."""

Address = IPv4Address | IPv6Address


def refusal(address: str) -> str | None:
    """What is wrong with connecting to an address, in words; None if it is public."""
    ip = ip_address(address)
    inner = _inner(ip)
    if inner is not None:
        return refusal(str(inner))
    bare = address.partition("%")[0]
    if bare in _METADATA:
        return "the metadata service of a cloud"
    if ip.is_loopback:
        return "this machine (loopback)"
    if ip.is_unspecified:
        return "this machine (unspecified)"
    if ip.is_link_local:
        return "a link-local address"
    if ip.is_multicast:
        return "a multicast address"
    if not ip.is_global or any(ip in network for network in _OWN):
        return "a private or reserved address"
    return None


def resolve(host: str, port: int, *, allow_private: bool) -> list[str]:
    """The addresses of a host that may be connected to, in the resolver's order.

    Raises AddressRefusedError if any of them is not public, TransientError if the name cannot be resolved.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError) as exc:
        raise TransientError(f"The name {host!r} cannot be resolved: {exc}.") from exc
    addresses = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    if not allow_private:
        for address in addresses:
            if why := refusal(address):
                raise AddressRefusedError(host, address, why)
    return addresses


def _inner(ip: Address) -> IPv4Address | None:
    """The IPv4 address that an IPv6 address leads to."""
    if isinstance(ip, IPv4Address):
        return None
    if ip in _NAT64:
        return IPv4Address(int(ip) & 0xFFFFFFFF)
    teredo = ip.teredo
    return ip.ipv4_mapped or ip.sixtofour or (teredo[1] if teredo else None)
