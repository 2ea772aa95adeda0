"""What of workload identity does not go together with the rest of the settings. Knows no files and no keys."""

from typing import TYPE_CHECKING, Final
from urllib.parse import urlsplit

from headrace.cli.kinds import Spot
from headrace.gateway.settings import ENGINE, BackendSettings
from headrace.server.config import is_loopback

if TYPE_CHECKING:
    from headrace.cli.config import Settings

_OFF: Final = "is of workload identity, and there is none; [spiffe] gives it: trust_domain, or socket"
_NAMELESS: Final = 'shows this server\'s own identity, and it has none; [spiffe] id = "spiffe://TRUST-DOMAIN/gateway"'


def check_spiffe(settings: "Settings", spot: Spot) -> None:
    """Say everything at places below `spot`."""
    spiffe, tls = settings.trust.spiffe, settings.tls
    is_nameless = spiffe.is_on and spiffe.socket is None and spiffe.id is None
    if tls is not None and tls.identity is not None:
        if not spiffe.is_on:
            spot.at("tls", "identity").say(_OFF)
        elif is_nameless:
            spot.at("tls", "identity").say(_NAMELESS)
    for name, backend in settings.gateway.backends.items():
        at = spot.at("backends", name)
        for key, value in (("identity", backend.identity), ("audience", backend.audience)):
            if value and not spiffe.is_on:
                at.at(key).say(_OFF)
            elif value and is_nameless:
                at.at(key).say(_NAMELESS)
        if backend.spiffe_id is not None and not spiffe.is_on:
            at.at("spiffe_id").say(_OFF)
    if spiffe.is_required:
        _check_listener(settings, spot)
        for name, backend in settings.gateway.backends.items():
            if name != ENGINE:
                _check_hop(backend, spot.at("backends", name))


def _check_listener(settings: "Settings", spot: Spot) -> None:
    """Who calls from another machine shows an SVID: of the connection, or as a token in TLS."""
    if is_loopback(settings.host):
        return
    if settings.tls is None:
        spot.at("spiffe", "required").say(
            f'other machines can reach {settings.host} without TLS; write [tls] identity = "spiffe", or listen on '
            "127.0.0.1"
        )
    elif not settings.trust.spiffe.workloads:
        spot.at("spiffe", "required").say(
            "no caller's SVID means anything without [spiffe.workloads]; name the workloads that may call"
        )


def _check_hop(backend: BackendSettings, spot: Spot) -> None:
    """A backend on another machine is shown an SVID, in TLS."""
    host = urlsplit(backend.url).hostname or ""
    if is_loopback(host):
        return
    if not backend.url.startswith("https:"):
        spot.at("url").say(f"{backend.url} goes to another machine without TLS, and spiffe.required is set; use https")
    elif not backend.identity and not backend.audience:
        spot.say(
            'is on another machine and is shown no SVID, and spiffe.required is set; write identity = "spiffe" with '
            "spiffe_id, or audience for a JWT-SVID"
        )
