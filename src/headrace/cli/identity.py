"""Joins who tells callers apart by tokens and signatures: settings -> key sets, memory of proofs, authenticators.

Imported only where the settings name somebody: what it imports takes a moment. Decides nothing.
"""

import secrets
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.identity import Authenticator
from headrace.gateway.key_sets import KeySetBook
from headrace.trust.identity.dpop import Proofs
from headrace.trust.identity.settings import IdentitySettings, SignerSettings
from headrace.trust.identity.signatures import Signatures, Signer, read_signer
from headrace.trust.identity.users import Users

_SECRET_BYTES: Final = 32


@asynccontextmanager
async def open_identity(settings: IdentitySettings) -> AsyncIterator[tuple[Authenticator, ...]]:
    """Authenticators, for as long as the block runs. Raises InvalidRequest for files and URLs that cannot be used."""
    found: list[Authenticator] = []
    signers = [_open_signer(one) for one in settings.signers.values()]
    book = KeySetBook(settings.issuers.values(), SystemClock())
    await book.open()
    try:
        if settings.issuers:
            # A secret of this process: who has a nonce of another asks again, once.
            proofs = Proofs(settings.proof_age_s, settings.max_proofs, secrets.token_bytes(_SECRET_BYTES))
            found.append(Users(settings.issuers.values(), book, proofs))
        if signers:
            found.append(Signatures(signers, settings.max_proofs))
        yield tuple(found)
    finally:
        await book.close()


def _open_signer(settings: SignerSettings) -> Signer:
    where = f"identity.signers.{settings.name}.key: {settings.key}"
    try:
        return read_signer(settings, settings.key.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{where} cannot be read ({error.strerror or error}); name a PEM file.") from error
    except ValueError as error:
        raise InvalidRequest(f"{where} {error}.") from error
