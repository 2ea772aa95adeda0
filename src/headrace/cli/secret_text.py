"""Secrets as text, read from their places and never shown: no repr, str, format or pickle has the text.

Knows the environment and files by what it is given; `reveal` is called where a header is made, and nowhere else.
"""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, NoReturn

from headrace.cli.kinds import Spot
from headrace.gateway.settings import Secret

MAX_BYTES: Final = 64 * 1024


class SecretText:
    """A secret and where it was found."""

    __slots__ = ("_text", "place")

    def __init__(self, text: str, place: str) -> None:
        self._text = text
        self.place = place

    def reveal(self) -> str:
        """The text itself."""
        return self._text

    def sha256(self) -> str:
        """What is kept of a key."""
        return hashlib.sha256(self._text.encode()).hexdigest()

    def __repr__(self) -> str:
        return f"SecretText({self.place})"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, SecretText) and other._text == self._text

    def __hash__(self) -> int:
        return hash(self.place)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is not copied or written")


def read_secret(secret: Secret, environ: Mapping[str, str]) -> SecretText:
    """The text that is found at a secret's place. Raises ValueError, which goes on from the place."""
    kind, _, place = secret.place.partition(":")
    if kind == "env":
        if not environ.get(place, "").strip():
            raise ValueError(f"is not set; export {place} before the server starts")
        text = environ[place].strip()
    else:
        try:
            with Path(place).expanduser().open("rb") as file:
                found = file.read(MAX_BYTES + 1)
        except OSError as error:
            raise ValueError(
                f"cannot be read ({error.strerror or error}); make the file, readable by the server"
            ) from None
        if len(found) > MAX_BYTES:
            raise ValueError(f"is longer than {MAX_BYTES} bytes, so it is no key; name another file")
        try:
            text = found.decode("ascii").strip()
        except UnicodeDecodeError:
            raise ValueError("is not ASCII text, so it is no key; name another file") from None
        if not text:
            raise ValueError("is empty; write the key into it")
    if not text.isascii() or any(ord(one) < 0x21 or ord(one) == 0x7F for one in text):
        raise ValueError("has spaces, line breaks or other characters that no key has; correct it")
    return SecretText(text, secret.place)


def read_secrets(
    places: Mapping[tuple[str | int, ...], Secret], environ: Mapping[str, str], spot: Spot
) -> dict[Secret, SecretText]:
    """Every secret by its place; what is missing is said where it is named."""
    found: dict[Secret, SecretText] = {}
    for path, secret in places.items():
        try:
            found[secret] = read_secret(secret, environ)
        except ValueError as error:
            spot.at(*path).say(f"{secret.place} {error}")
    return found


def secret_places(settings: Any) -> dict[tuple[str | int, ...], Secret]:
    """Where the settings name secrets."""
    found: dict[tuple[str | int, ...], Secret] = {
        ("backends", name, "secret"): backend.secret
        for name, backend in settings.gateway.backends.items()
        if backend.secret is not None
    }
    found |= {
        ("keys", index, "secret"): key.secret for index, key in enumerate(settings.issued) if key.secret is not None
    }
    if settings.traces.secret is not None:
        found["traces", "secret"] = settings.traces.secret
    return found
