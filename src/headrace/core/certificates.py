"""The certificates that the other end of a TLS connection sent, as bytes. Believes none of them."""

import ssl
from typing import Any, Final

_DER: Final = 2  # _ssl.ENCODING_DER, which has no public name


def peer_chain(connection: ssl.SSLObject | ssl.SSLSocket) -> tuple[bytes, ...]:
    """What the peer sent (DER, leaf first), in the order in which it did; empty if it sent none."""
    # Public from Python 3.13 on; before, the same call of the object underneath.
    whole: Any = connection if hasattr(connection, "get_unverified_chain") else getattr(connection, "_sslobj", None)
    chain = None if whole is None else whole.get_unverified_chain()
    # A server whose client sent none is given a list with nothing in it, in both senses.
    given = [one for one in chain or () if one is not None]
    return tuple(one if isinstance(one, bytes) else bytes(one.public_bytes(_DER)) for one in given)
