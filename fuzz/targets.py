"""Every fuzz target that is a codec; `exchanges.py` makes one of each route around them."""

from fuzz import (
    anthropic_codec,
    batch_codec,
    log_codec,
    native_backends,
    ollama_codec,
    openai_codec,
    outbound_codec,
    record_readers,
    responses_codec,
    tokens_codec,
)

CODECS = [
    *openai_codec.TARGETS,
    *tokens_codec.TARGETS,
    *responses_codec.TARGETS,
    *anthropic_codec.TARGETS,
    *ollama_codec.TARGETS,
    *batch_codec.TARGETS,
    *log_codec.TARGETS,
    *outbound_codec.TARGETS,
    *native_backends.TARGETS,
    *record_readers.TARGETS,
]
