"""Whom the claims of a token name: tenant, user, scopes, within what an operator lets an issuer say. Values only."""

import re
from collections.abc import Mapping
from typing import Any, Final

from headrace.core.request import Principal
from headrace.trust.identity.jose import WrongToken
from headrace.trust.identity.settings import IssuerSettings

MAX_VALUES: Final = 512
# Printable ASCII without spaces: it stands in logs, in the store and in policies.
_ID: Final = re.compile(r"[!-~]{1,255}")


def principal_of(claims: Mapping[str, Any], settings: IssuerSettings) -> Principal:
    """Who that is. Raises WrongToken for claims that name nobody, or somebody that the issuer may not name."""
    subject = _id(claims, "sub")
    user = subject if settings.user_claim == "sub" else _id(claims, settings.user_claim)
    tenant = settings.tenant
    if tenant is None:
        assert settings.tenant_claim is not None
        tenant = _id(claims, settings.tenant_claim)
        if tenant not in settings.tenants:
            raise WrongToken(f"names a tenant that its issuer may not name ({settings.tenant_claim})")
    return Principal(
        tenant=tenant,
        user=user,
        scopes=settings.scopes | _scopes(claims, settings),
        tags=settings.tags,
        labels=settings.labels,
        routes=settings.routes,
        subject=f"user:{settings.issuer}#{subject}",
    )


def _scopes(claims: Mapping[str, Any], settings: IssuerSettings) -> frozenset[str]:
    if settings.scope_claim is None:
        return frozenset()
    value = find_claim(claims, settings.scope_claim)
    # RFC 8693, section 4.2: a text with spaces; roles and groups are lists.
    named = value.split(" ", MAX_VALUES) if isinstance(value, str) else value
    if not isinstance(named, list):
        return frozenset()
    given = (settings.scope_map.get(one, frozenset()) for one in named[:MAX_VALUES] if isinstance(one, str))
    return frozenset[str]().union(*given)


def find_claim(claims: Mapping[str, Any], name: str) -> Any:
    """A claim by its name, or by a path with dots through objects; None where it is not."""
    if name in claims:
        return claims[name]
    found: Any = claims
    for part in name.split("."):
        if not isinstance(found, Mapping) or part not in found:
            return None
        found = found[part]
    return found


def _id(claims: Mapping[str, Any], name: str) -> str:
    value = find_claim(claims, name)
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise WrongToken(f"has no {name} of 1 to 255 printable characters")
    return value
