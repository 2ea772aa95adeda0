"""Anthropic's Messages as a backend speaks it: the codec, put together.

    messages_body.py     requests out, neutral or as they came     messages_models.py   what models are known to do
    messages_answer.py   answers in, as events or as they came      messages_frames.py   the wire's types and counts
    messages_error.py    refusals

Source: platform.claude.com/docs, API reference of 2023-06-01. Knows nothing that these do not.
"""

from typing import Final

from headrace.api.outbound.codec import OutboundCodec
from headrace.api.outbound.messages_answer import MessagesReader, MessagesScanner, decode, usage_of
from headrace.api.outbound.messages_body import encode, reframe
from headrace.api.outbound.messages_error import read_error

MESSAGES: Final = OutboundCodec(
    name="messages",
    takes=frozenset({"messages"}),
    encode=encode,
    reader=MessagesReader,
    decode=decode,
    reframe=reframe,
    scanner=lambda raw: MessagesScanner(),
    usage_of=usage_of,
    read_error=read_error,
    secret_header=lambda secret: (b"x-api-key", secret.encode("latin-1")),
)
