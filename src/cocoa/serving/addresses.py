"""Which URLs may be fetched and which addresses of the network are public: the one place that decides both."""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

_URL = re.compile(
    r"(?P<scheme>https?)://"
    r"(?P<host>\[[0-9a-f:.]{2,45}\]|[a-z0-9_-]+(?:\.[a-z0-9_-]+)*)"
    r"(?::(?P<port>[0-9]{1,5}))?"
    r"(?P<target>[/?][^#]*)?"
    r"(?:#.*)?",
    re.IGNORECASE,
)
# What a URL is written in: printable ASCII, without the signs that readers of URLs disagree about.
_PLAIN = re.compile(r"[!-~]+")
_ODD_SIGNS = frozenset('\\"<>^`{|}')
_LONGEST = 2048
_LOOKS_LIKE_A_NUMBER = re.compile(r"(?:[0-9]+|0x[0-9a-f]*)", re.IGNORECASE)
_PORTS = {"http": 80, "https": 443}


@dataclass(frozen=True, slots=True)
class Address:
    """A URL, taken apart: `host` is a lower-case name or an IP address without brackets, `target` path and query."""

    scheme: str
    host: str
    port: int
    target: str

    @property
    def authority(self) -> str:
        """What the Host header says."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS[self.scheme] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{self.scheme}://{self.authority}{self.target}"


def parse_address(url: str) -> Address | None:
    """Returns a plain http or https URL, taken apart; None for anything that two readers could take differently.

    No user name, no letters beyond ASCII, no numbers as hosts but complete addresses, no dot at the end of a host.
    """
    if len(url) > _LONGEST or not _PLAIN.fullmatch(url) or _ODD_SIGNS & set(url):
        return None
    match = _URL.fullmatch(url)
    if match is None:
        return None
    scheme, host, target = match["scheme"].lower(), match["host"].lower(), match["target"] or "/"
    port = int(match["port"]) if match["port"] else _PORTS[scheme]
    if not 0 < port < 65536:
        return None
    try:
        if host.startswith("["):
            host = str(ipaddress.IPv6Address(host[1:-1]))
        elif _LOOKS_LIKE_A_NUMBER.fullmatch(host.rpartition(".")[2]):
            host = str(ipaddress.IPv4Address(host))
    except ValueError:
        return None
    return Address(scheme, host, port, target if target.startswith("/") else f"/{target}")


def _networks(*names: str) -> tuple[ipaddress.IPv4Network | ipaddress.IPv6Network, ...]:
    return tuple(ipaddress.ip_network(name) for name in names)


_NOT_PUBLIC = _networks(
    "0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24",
    "192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24",
    "224.0.0.0/4", "240.0.0.0/4",
    "168.63.129.16/32",  # A cloud's own services, at an address that looks public.
    "2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20",  # Tunnels that carry IPv4 inside, and examples.
)  # fmt: skip
_PUBLIC_6 = ipaddress.IPv6Network("2000::/3")
_TRANSLATED = ipaddress.IPv6Network("64:ff9b::/96")


def is_public(address: str) -> bool:
    """Returns whether an IP address belongs to the open internet, and not to this machine or a network around it.

    IPv6 addresses that carry an IPv4 one are not, but for those of a public translator (NAT64), judged by what is
    inside.
    """
    try:
        parsed = ipaddress.ip_address(address.partition("%")[0])
    except ValueError:
        return False
    if isinstance(parsed, ipaddress.IPv6Address):
        if parsed in _TRANSLATED:
            return is_public(str(ipaddress.IPv4Address(int(parsed) & 0xFFFFFFFF)))
        if parsed not in _PUBLIC_6:
            return False
    return not any(parsed in network for network in _NOT_PUBLIC if network.version == parsed.version)
