"""What of a request steers probabilities, as digests that can be counted: its bias, its cuts, and the input it asks
over. Values only.

Bisecting a logit needs no log-probability: a bias that just makes a token win at temperature 0, or a `min_p` that just
lets it in, tells its distance to the best (Carlini et al. 2024, section 5). Each step of it is another bias, or another
cut, over the same input, and that is what is counted. Digests are keyed with the process's own secret: they say
nothing of an input to whoever reads them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Final

from headrace.core.request import FormatKind, Request, Sampling
from headrace.trust.monitors.theft.surface import STEERS

_NEUTRAL: Final = Sampling()
_CUTS: Final = (
    "top_p",
    "top_k",
    "min_p",
    "typical_p",
    "repetition_penalty",
    "presence_penalty",
    "frequency_penalty",
)
_CUT_NAMES: Final = frozenset(_CUTS)
_READ: Final = ("messages", "prompt", "input")


@dataclass(frozen=True, slots=True, kw_only=True)
class Steering:
    """Digests of what steers: `bias` shifts which token comes over the input `prompt`, `cuts` rule tokens out. None:
    nothing does."""

    bias: bytes | None = None
    prompt: bytes = b""
    cuts: bytes | None = None


UNSTEERED: Final = Steering()


def steering_of(request: Request, secret: bytes) -> Steering:
    """Of a neutral request. With log-probabilities, a form that the answer is held to steers like a bias: it decides
    which token comes."""
    sampling, shifts = request.sampling, []
    if sampling.logit_bias:
        shifts.append(repr(sorted((token, float(bias)) for token, bias in sampling.logit_bias if bias)))
    form = request.response_format
    if form.kind is not FormatKind.TEXT and request.logprobs is not None:
        shifts.append(f"{form.kind} {json.dumps(form.schema, sort_keys=True)} {form.choices!r} {form.source!r}")
    cuts = [(name, getattr(sampling, name)) for name in _CUTS if _is_changed(sampling, name)]
    if not shifts and not cuts:
        return UNSTEERED
    return Steering(
        bias=_digest(shifts, secret) if shifts else None,
        prompt=_digest(_texts(request), secret) if shifts else b"",
        cuts=_digest([repr(cuts)], secret) if cuts else None,
    )


def steering_of_fields(fields: Mapping[str, bytes], secret: bytes) -> Steering:
    """Of a body that is not decoded, by its fields as they came."""
    shifts = [f"{name}={fields[name]!r}" for name in sorted(STEERS.intersection(fields))]
    cuts = [f"{name}={fields[name]!r}" for name in sorted(_CUT_NAMES.intersection(fields))]
    if not shifts and not cuts:
        return UNSTEERED
    read = [fields[name].decode("utf-8", "replace") for name in _READ if name in fields]
    return Steering(
        bias=_digest(shifts, secret) if shifts else None,
        prompt=_digest(read, secret) if shifts else b"",
        cuts=_digest(cuts, secret) if cuts else None,
    )


def _is_changed(sampling: Sampling, name: str) -> bool:
    return name not in sampling.defaults and getattr(sampling, name) != getattr(_NEUTRAL, name)


def _texts(request: Request) -> Iterable[str]:
    """What the model reads. Spaces at the ends are left out, because templates may do so, and roles, because several
    read alike: what is one input to the model must not count as two."""
    for message in request.messages or ():
        yield message.text.strip()
    if request.prompt is not None:
        yield request.prompt.strip()
    if request.tokens is not None:
        yield repr(request.tokens)
    yield request.answer_start.strip()


def _digest(texts: Iterable[str], secret: bytes) -> bytes:
    state = blake2b(digest_size=8, key=secret)
    for text in texts:
        data = text.encode("utf-8", "surrogatepass")
        state.update(len(data).to_bytes(8, "little") + data)
    return state.digest()
