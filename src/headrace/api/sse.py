"""Server-sent events as bytes (WHATWG HTML, 9.2): what every streaming protocol here shares.

Knows no protocol: it frames what a codec has encoded. JSON carries no raw line break, so one `data:` line is enough.
"""

CONTENT_TYPE = b"text/event-stream; charset=utf-8"

# A comment line: every parser ignores it, every proxy counts it as traffic.
KEEP_ALIVE = b": keep-alive\n\n"


def encode_frame(data: bytes) -> bytes:
    """Frame one line of data."""
    return b"data: " + data + b"\n\n"
