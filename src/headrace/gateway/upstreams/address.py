"""Where a backend is: a URL that an operator wrote, checked, and which machines may never be one.

Owns the rule against requests to where a cloud machine's own secrets lie (link-local and metadata addresses): it holds
for the URL as written and again for what its name resolves to, because a name may change its mind. Knows no sockets
and no settings; mistakes are ValueErrors whose sentence names the value and the remedy.
"""

import ipaddress
import re
from dataclasses import dataclass
from typing import Final
from urllib.parse import urlsplit

_PORTS: Final = {"http": 80, "https": 443}
_PATH: Final = re.compile(r"(?:/[!$-.0-;=@-Z\[\]_a-z~]*)*")  # RFC 3986, section 3.3, and brackets, which some use
_HOST: Final = re.compile(r"[A-Za-z0-9._:-]+")

_FORBIDDEN: Final = tuple(
    (ipaddress.ip_network(network), why)
    for network, why in (
        ("169.254.0.0/16", "is link-local: cloud machines' metadata lies there"),
        ("fe80::/10", "is link-local"),
        ("fd00:ec2::/32", "is where cloud machines' metadata lies"),
        ("100.100.100.200/32", "is where cloud machines' metadata lies"),
        ("0.0.0.0/8", "names no machine"),
        ("::/128", "names no machine"),
        ("224.0.0.0/4", "is multicast"),
        ("ff00::/8", "is multicast"),
        ("255.255.255.255/32", "is a broadcast"),
    )
)
_NAT64: Final = ipaddress.ip_network("64:ff9b::/96")  # RFC 6052: an IPv4 address in the last 32 bits


@dataclass(frozen=True, slots=True)
class Address:
    """A checked URL. `path` is what stands before a protocol's own path, without a slash at its end."""

    is_tls: bool
    host: str
    port: int
    path: str = ""

    @property
    def authority(self) -> str:
        """The `host` header (RFC 9110, section 7.2): the port only where it is not the scheme's own."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == _PORTS["https" if self.is_tls else "http"] else f"{host}:{self.port}"

    def __str__(self) -> str:
        return f"{'https' if self.is_tls else 'http'}://{self.authority}{self.path}"


def read_url(url: str) -> Address:
    """The address that a URL names. Raises ValueError for what no backend may have: another scheme, no host, user and
    password, a query or fragment, characters that do not belong, and machines that must not be asked. The sentence
    never repeats what stands before an `@`."""
    if not url.isascii():
        raise ValueError(f"{_shown(url)}: a URL is ASCII; write the host in its xn-- form and escape the path")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise ValueError(f"{_shown(url)}: is no URL ({error}); give one like https://host:port/v1") from None
    if parts.scheme not in _PORTS:
        raise ValueError(f"{_shown(url)}: begins with {parts.scheme or 'no scheme'!r}; use http:// or https://")
    if "@" in parts.netloc:
        raise ValueError(f"{_shown(url)}: has a user or password in it; name a secret instead")
    if parts.query or parts.fragment or url.endswith(("?", "#")):
        raise ValueError(f"{_shown(url)}: has a query or fragment; a backend's URL ends with its path")
    if not parts.hostname or not _HOST.fullmatch(parts.hostname):
        raise ValueError(f"{_shown(url)}: names no host; give one like https://host:port/v1")
    if port == 0:
        raise ValueError(f"{_shown(url)}: has port 0; give one from 1 to 65535")
    check_path(parts.path, shown=_shown(url))
    if any(ord(character) <= 0x20 or ord(character) == 0x7F for character in url):
        raise ValueError(f"{_shown(url)}: has spaces or control characters; take them out")
    check_machine(parts.hostname)
    return Address(parts.scheme == "https", parts.hostname, port or _PORTS[parts.scheme], parts.path.rstrip("/"))


def check_path(path: str, *, shown: str = "") -> None:
    """Raise ValueError for a path that a server could read in two ways: characters that do not belong in one, and
    segments that climb."""
    if not _PATH.fullmatch(path):
        raise ValueError(f"{shown or repr(path)}: the path has characters that must be escaped with %")
    segments = path.lower().replace("%2e", ".").split("/")
    if "." in segments or ".." in segments:
        raise ValueError(f"{shown or repr(path)}: the path climbs with . or ..; write it out")


def check_machine(host: str) -> None:
    """Raise ValueError for an IP address at which no backend can be. Names pass: what they resolve to is asked too."""
    for form in _forms(host):
        for network, why in _FORBIDDEN:
            if form in network:
                raise ValueError(f"{host}: {why}; a backend cannot be there")


def check_public(host: str) -> None:
    """Raise ValueError for an IP address that is not everybody's: this machine's, a private network's, a reserved one.
    Names pass, as in `check_machine`."""
    for form in _forms(host):
        if not form.is_global or form.is_multicast:
            raise ValueError(f"{host}: is no address on the public internet")


def _forms(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """An IP address, and those that are within it; nothing for a name."""
    try:
        machine = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:
        return []
    forms: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [machine]
    if isinstance(machine, ipaddress.IPv6Address):
        within = machine.ipv4_mapped or machine.sixtofour
        if within is not None:
            forms = [within] if machine.ipv4_mapped else [machine, within]
        if machine in _NAT64:
            forms = [ipaddress.IPv4Address(int(machine) & 0xFFFFFFFF)]
    return forms


def _shown(url: str) -> str:
    """A URL for a sentence, short and without credentials."""
    scheme, mark, rest = url.partition("://")
    if "@" in rest:
        rest = "…@" + rest.rpartition("@")[2]
    return repr(f"{scheme}{mark}{rest}"[:200])
