"""The answer to a reload: `POST /v1/gateway/reload`. Its body is of no meaning and not read. Knows no settings."""

from typing import Literal

import msgspec

from headrace.core.service import Reloaded


class ReloadAnswer(msgspec.Struct):
    """The settings were read again and hold; `waiting` are names of those that hold after a restart only."""

    object: Literal["gateway.reload"]
    warnings: tuple[str, ...]
    waiting: tuple[str, ...]


def encode_reloaded(reloaded: Reloaded) -> bytes:
    """The answer's body."""
    return msgspec.json.encode(ReloadAnswer("gateway.reload", reloaded.warnings, reloaded.waiting))
