"""Which codec speaks a protocol: one row each, by the name that settings give it. Knows no backends."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.api.outbound.chat import CHAT
from headrace.api.outbound.codec import OutboundCodec
from headrace.api.outbound.gemini import GEMINI
from headrace.api.outbound.messages import MESSAGES
from headrace.api.outbound.responses import RESPONSES

CODECS: Final[Mapping[str, OutboundCodec]] = MappingProxyType(
    {codec.name: codec for codec in (CHAT, RESPONSES, MESSAGES, GEMINI)}
)
