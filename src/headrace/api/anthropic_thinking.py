"""Thinking: how much is asked for, and the signature under what was thought.

A signature is opaque to callers, who send it back with the thinking it belongs to. Ours is no secret and proves no
author: it is a digest, which finds thinking that was altered on the way, or, where thinking is not shown
(`display: omitted`), the thinking itself, so that the next turn has it. Another server's signature says nothing to us,
and the thinking above it is taken as it is. Knows nothing of blocks and messages.
"""

import base64
import binascii
import hashlib
import zlib
from typing import Final

from headrace.api.anthropic_fields import OutputConfig, Thinking
from headrace.api.openai_refusal import show
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Effort, Reasoning

MIN_BUDGET: Final = 1024
"""Anthropic's own bound for `budget_tokens`."""

MAX_THINKING_BYTES: Final = 4 * 1024 * 1024
"""What a signature may hold, unpacked."""

_DIGEST: Final = "hr1d_"
_HELD: Final = "hr1t_"
_DIGEST_BYTES: Final = 24

_TYPES = ("enabled", "adaptive", "disabled")
_DISPLAYS = ("summarized", "omitted")
_EFFORTS = {"low": Effort.LOW, "medium": Effort.MEDIUM, "high": Effort.HIGH, "xhigh": Effort.XHIGH, "max": Effort.XHIGH}


def reasoning(
    thinking: Thinking | None, config: OutputConfig | None, max_tokens: int | None, *, is_interleaved: bool
) -> Reasoning:
    """What is asked of a model that thinks. Without `thinking` it is asked not to, as in Anthropic's protocol.

    `max_tokens` None: unknown, as when tokens are only counted. With `is_interleaved` thinking the budget is that of
    all turns until the answer, and may exceed it. Raises InvalidRequest and UnsupportedField.
    """
    effort = None
    if config is not None and config.effort is not None:
        if config.effort not in _EFFORTS:
            raise InvalidRequest(
                f"output_config.effort: {show(config.effort)} is no effort; use {', '.join(_EFFORTS)}.",
                param="output_config.effort",
            )
        effort = _EFFORTS[config.effort]
    if thinking is None:
        return Reasoning(Effort.NONE, is_default=True)
    _check_type(thinking)
    if thinking.type == "disabled":
        return Reasoning(Effort.NONE)
    if thinking.type == "adaptive":
        return Reasoning(effort)
    budget = thinking.budget_tokens
    assert budget is not None
    if max_tokens is not None and budget >= max_tokens and not is_interleaved:
        raise InvalidRequest(
            f"thinking.budget_tokens: {show(budget)} is not below max_tokens, {show(max_tokens)}; thinking counts "
            "towards max_tokens, raise it.",
            param="thinking.budget_tokens",
        )
    return Reasoning(effort, budget)


def is_hidden(thinking: Thinking | None) -> bool:
    """Whether thinking is not shown, and only its signature is."""
    return thinking is not None and thinking.display == "omitted"


def _check_type(thinking: Thinking) -> None:
    if thinking.type not in _TYPES:
        raise UnsupportedField(
            f"thinking.type: {show(thinking.type)} is not supported; use {', '.join(_TYPES)}.", param="thinking.type"
        )
    if thinking.display is not None and (thinking.display not in _DISPLAYS or thinking.type == "disabled"):
        raise InvalidRequest(
            f"thinking.display: {show(thinking.display)} does not go with type {show(thinking.type)}; use "
            f"{' or '.join(_DISPLAYS)} with enabled or adaptive.",
            param="thinking.display",
        )
    budget, is_enabled = thinking.budget_tokens, thinking.type == "enabled"
    if (budget is not None) != is_enabled:
        given = "is missing; type 'enabled' needs it" if is_enabled else "only goes with type 'enabled'; leave it out"
        raise InvalidRequest(f"thinking.budget_tokens: {given}.", param="thinking.budget_tokens")
    if budget is not None and not MIN_BUDGET <= budget < 2**31:
        raise InvalidRequest(
            f"thinking.budget_tokens: {show(budget)} is not in [{MIN_BUDGET}, {2**31 - 1}]; give a number inside.",
            param="thinking.budget_tokens",
        )


def seal(text: str, *, is_hidden: bool) -> str:
    """The signature under a thinking block."""
    data = text.encode("utf-8", "replace")
    if is_hidden:
        return _HELD + base64.urlsafe_b64encode(zlib.compress(data)).decode()
    return _DIGEST + base64.urlsafe_b64encode(_digest(data)).decode()


def unseal(text: str, signature: str, path: str) -> str:
    """What was thought, from a block that came back. Raises InvalidRequest if it is not as it was sent."""
    if signature.startswith(_HELD):
        held = _unpack(signature.removeprefix(_HELD))
        if held is None or (text and text != held):
            raise _altered(path)
        return held
    if signature.startswith(_DIGEST) and signature != seal(text, is_hidden=False):
        raise _altered(path)
    return text


def _unpack(packed: str) -> str | None:
    try:
        unpacker = zlib.decompressobj()
        data = unpacker.decompress(base64.urlsafe_b64decode(packed), MAX_THINKING_BYTES)
        return data.decode() if unpacker.eof else None
    except (ValueError, binascii.Error, zlib.error):
        return None


def _digest(data: bytes) -> bytes:
    return hashlib.sha256(b"headrace thinking\0" + data).digest()[:_DIGEST_BYTES]


def _altered(path: str) -> InvalidRequest:
    return InvalidRequest(
        f"{path}.signature: does not belong to this thinking; send thinking back as it came, or leave it out.",
        param=f"{path}.signature",
    )
