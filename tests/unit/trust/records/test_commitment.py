"""Commitments: their keyed digest is the standard's, and what is drawn for them is drawn once."""

import hmac

import pytest
from hypothesis import given
from hypothesis import strategies as st

from headrace.cli.records import _Chance
from headrace.trust.records.commitment import keyed_digest


@given(st.binary(max_size=64), st.binary(max_size=300))
def test_a_keyed_digest_is_hmac(key: bytes, message: bytes) -> None:
    assert keyed_digest(key, message) == hmac.digest(key, message, "sha256")
    with pytest.raises(ValueError, match="at most 64"):
        keyed_digest(key.ljust(65), message)


def test_random_bytes_are_given_once() -> None:
    chance = _Chance()
    drawn = [chance(16) for _ in range(1000)]
    assert len(set(drawn)) == 1000
    assert {len(one) for one in drawn} == {16}
    assert len(chance(10_000)) == 10_000
