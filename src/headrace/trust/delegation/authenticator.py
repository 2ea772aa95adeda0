"""Tells who shows a delegation: `Authorization: Biscuit TOKEN`, or `x-headrace-delegation: TOKEN` beside the credential
of whom it was made out to (that both agree is for whoever joins them: `server/credentials.py`). Knows no tokens.
"""

from typing import Final

from headrace.core.errors import Unauthenticated
from headrace.core.identity import Identity, Shown
from headrace.trust.delegation.desk import DelegationDesk
from headrace.trust.delegation.token import VoidToken

SCHEME: Final = "biscuit"
HEADER: Final = b"x-headrace-delegation"
CHALLENGE: Final = 'Biscuit realm="headrace"'


class DelegationAuthenticator:
    """Implements `core.identity.Authenticator` and `Challenger`."""

    challenges = (CHALLENGE,)

    def __init__(self, desk: DelegationDesk) -> None:
        self._desk = desk

    def authenticate(self, shown: Shown) -> Identity | None:
        """See `core.identity.Authenticator`."""
        header = shown.headers.get(HEADER)
        is_token = shown.scheme == SCHEME
        if header is None and not is_token:
            return None
        if header is not None and is_token:
            raise Unauthenticated(
                "x-headrace-delegation: there is a delegation in authorization, too; send one.",
                param=HEADER.decode(),
                challenges=self.challenges,
            )
        text = shown.token if header is None else header.decode("latin-1").strip()
        try:
            principal = self._desk.principal(text or "", shown.came_unix_s)
        except VoidToken as error:
            raise Unauthenticated(f"{error}.", param="authorization", challenges=self.challenges) from error
        assert principal.delegation is not None and principal.delegation.expires_s is not None
        return Identity(principal, principal.key, principal.delegation.expires_s, is_token=is_token)
