"""Joins who tells callers apart by tokens and signatures: settings -> key sets, memory of proofs, authenticators.

Imported only where the settings name somebody: what it imports takes a moment. Decides nothing.
"""

import secrets
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Final

from headrace.cli.config import Settings
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.identity import Authenticator
from headrace.gateway.key_sets import KeySetBook
from headrace.trust.identity.answers import AnswerSigner, read_answer_key
from headrace.trust.identity.dpop import Proofs
from headrace.trust.identity.settings import AnswerSettings, IdentitySettings, IssuerSettings, SignerSettings
from headrace.trust.identity.signatures import Signatures, Signer, read_signer
from headrace.trust.identity.users import Users

_SECRET_BYTES: Final = 32


class OpenIdentity:
    """Who tells callers apart, and how other settings are put in force."""

    def __init__(self, settings: IdentitySettings, book: KeySetBook, signers: list[Signer]) -> None:
        self._book = book
        now_s = SystemClock().unix_s()
        # A secret of this process: who has a nonce of another asks again, once.
        secret = secrets.token_bytes(_SECRET_BYTES)
        self._proofs = Proofs(settings.proof_age_s, settings.max_proofs, secret, now_s)
        self._users = Users(settings.issuers.values(), book, self._proofs)
        self._signatures = Signatures(signers, settings.max_proofs, now_s)
        self.authenticators: tuple[Authenticator, ...] = (self._users, self._signatures)

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read everything anew; what is returned puts it in force and cannot fail. Raises InvalidRequest, and then
        nothing has changed."""
        identity = settings.trust.identity
        signers = [open_signer(one) for one in identity.signers.values()]
        prepared = self._book.prepare(identity.issuers.values())

        def put_in_force() -> None:
            self._book.replace(prepared)
            self._proofs.resize(identity.proof_age_s, identity.max_proofs)
            self._users.replace(identity.issuers.values())
            self._signatures.replace(signers, identity.max_proofs)

        return put_in_force


@asynccontextmanager
async def open_identity(settings: IdentitySettings) -> AsyncIterator[OpenIdentity]:
    """All of it, for as long as the block runs. Raises InvalidRequest for files and URLs that cannot be used."""
    signers = [open_signer(one) for one in settings.signers.values()]
    book = KeySetBook(SystemClock())
    try:
        await book.open(settings.issuers.values())
        yield OpenIdentity(settings, book, signers)
    finally:
        await book.close()


def open_answer_signer(settings: AnswerSettings) -> AnswerSigner:
    """Who signs whole answers. Raises InvalidRequest for a key that cannot be used."""
    where = f"answer_signatures.key: {settings.key}"
    try:
        return AnswerSigner(read_answer_key(settings.key.read_bytes()), settings.keyid)
    except OSError as error:
        raise InvalidRequest(f"{where} cannot be read ({error.strerror or error}); name a PEM file.") from error
    except ValueError as error:
        raise InvalidRequest(f"{where} {error}.") from error


def read_issuer(settings: IssuerSettings) -> None:
    """Look at what an issuer's keys are to come from, and begin nothing. Raises InvalidRequest."""
    KeySetBook(SystemClock()).prepare([settings])


def open_signer(settings: SignerSettings) -> Signer:
    """Whose requests a public key verifies. Raises InvalidRequest for a key that cannot be used."""
    where = f"identity.signers.{settings.name}.key: {settings.key}"
    try:
        return read_signer(settings, settings.key.read_bytes())
    except OSError as error:
        raise InvalidRequest(f"{where} cannot be read ({error.strerror or error}); name a PEM file.") from error
    except ValueError as error:
        raise InvalidRequest(f"{where} {error}.") from error
