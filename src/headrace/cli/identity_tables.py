"""The tables of a settings file that say who may call with a token or a signature. Reads values; the files that they
name are looked at by who opens them."""

from typing import Any, Final

from headrace.cli.gateway_tables import LABEL, LABELS, NAMES, SUBJECT_NAME
from headrace.cli.kinds import (
    TEXT,
    TRUTH,
    Kind,
    WrongKey,
    integer,
    leaf,
    named,
    one_of,
    seconds,
    several,
    table,
    word,
)
from headrace.cli.server_tables import PATH
from headrace.core.request import SCOPES
from headrace.trust.identity.settings import (
    ALGS,
    DPOP,
    NONCE,
    AnswerSettings,
    IdentitySettings,
    IssuerSettings,
    SignerSettings,
)

_SCOPES: Final = several(one_of(SCOPES, str, "scope"), frozenset)
_GRANT: Final[dict[str, Kind]] = {
    "tenant": SUBJECT_NAME,
    "scopes": _SCOPES,
    "tags": several(LABEL),
    "labels": LABELS,
    "routes": NAMES,
}
_CLAIM: Final = word(r"\S(?:.{0,198}\S)?", str, "is no name of a claim; give 1 to 200 characters")


def _component(value: Any) -> str:
    """RFC 9421, section 2: a field in lower case, or a component that is derived."""
    if not isinstance(value, str) or not value or not set(value) <= set("abcdefghijklmnopqrstuvwxyz0123456789-@"):
        raise ValueError('is no component; write a header in lower case, or one such as "@query"')
    return value


def _named(value: Any, build: Any) -> Any:
    try:
        return build(**value)
    except ValueError as error:
        key, _, sentence = str(error).partition(": ")
        if sentence and key in value:
            raise WrongKey(key, sentence) from error
        raise


ISSUER: Final = table(
    lambda **given: _named(given, IssuerSettings),
    {
        **_GRANT,
        "issuer": word(r"[!-~]{1,2000}", str, "is no issuer; write the iss of its tokens to the letter"),
        "audience": several(TEXT, frozenset, or_one=True),
        "jwks": TEXT,
        "algs": several(one_of(ALGS, str, "algorithm"), frozenset),
        "tenant_claim": _CLAIM,
        "tenants": several(SUBJECT_NAME, frozenset),
        "user_claim": _CLAIM,
        "scope_claim": _CLAIM,
        "scope_map": named(_SCOPES),
        "max_age_s": seconds(1, 366 * 86_400.0),
        "skew_s": seconds(0, 600),
        "dpop": one_of(DPOP),
        "nonce": one_of(NONCE),
        "refresh_s": seconds(10, 7 * 86_400.0),
        "stale_s": seconds(60, 366 * 86_400.0),
        "is_private": TRUTH,
        "ca": PATH,
    },
    needs=("issuer", "audience"),
    is_named=True,
)
SIGNER: Final = table(
    lambda **given: _named(given, SignerSettings),
    {
        **_GRANT,
        "key": PATH,
        "components": several(leaf(_component, {"type": "string", "pattern": "^[a-z0-9@-]+$"})),
        "tag": TEXT,
        "with_key": SUBJECT_NAME,
        "max_age_s": seconds(1, 3600),
        "nonce": one_of(NONCE),
    },
    needs=("key", "tenant"),
    is_named=True,
)
ANSWERS: Final = table(AnswerSettings, {"key": PATH, "keyid": SUBJECT_NAME}, needs=("key",))
IDENTITY: Final = table(
    IdentitySettings,
    {
        "issuers": named(ISSUER),
        "signers": named(SIGNER),
        "proof_age_s": seconds(5, 600),
        "max_proofs": integer(16, 10_000_000),
    },
)
