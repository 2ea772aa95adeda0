"""How an answer is drawn, as a body says it that passes unread: what its record tells of it. Knows no protocol."""

from typing import Any, Final

import msgspec

from headrace.core.gateway import RawBody

# Of a body that passes unread: numbers and switches that say how the answer is drawn, whatever the protocol.
_SCALARS: Final = frozenset(
    {
        "temperature",
        "top_p",
        "top_k",
        "min_p",
        "seed",
        "n",
        "max_tokens",
        "max_completion_tokens",
        "max_output_tokens",
        "presence_penalty",
        "frequency_penalty",
        "repetition_penalty",
        "logprobs",
        "top_logprobs",
        "stream",
        "dimensions",
    }
)
_MAX_SCALAR_BYTES: Final = 32


def body_parameters(raw: RawBody | None) -> dict[str, Any]:
    """Those of a body, under `body`; of none nothing."""
    if raw is None:
        return {}
    found = {}
    for name in _SCALARS & raw.fields.keys():
        value = raw.fields[name]
        if len(value) <= _MAX_SCALAR_BYTES:
            try:
                told = msgspec.json.decode(value)
            except msgspec.DecodeError:
                continue
            if isinstance(told, bool | int | float):
                found[name] = told
    return {"body": found}
