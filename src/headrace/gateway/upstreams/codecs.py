"""Which codec speaks which dialect: one row each."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from headrace.api.outbound.codec import OutboundCodec
from headrace.api.outbound.messages import MESSAGES
from headrace.gateway.settings import Dialect

CODECS: Final[Mapping[Dialect, OutboundCodec]] = MappingProxyType({Dialect.MESSAGES: MESSAGES})
