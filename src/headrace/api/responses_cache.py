"""What a Responses body says about the prompt cache. OpenAI marks parts; a mark becomes that of its whole message."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from headrace.api.openai_refusal import refuse_inert, show
from headrace.api.responses_fields import INERT_CACHE_OPTIONS, ResponseCacheOptions
from headrace.core.errors import UnsupportedField
from headrace.core.request import MAX_BREAKPOINTS, Breakpoint

# prompt_cache_options.ttl -> seconds; OpenAI's default first.
TTLS_S: Final = {"30m": 1800.0, "12h": 43_200.0}
_RETENTIONS_S: Final = {"in_memory": None, "24h": 86_400.0}


@dataclass(frozen=True, slots=True)
class CacheWish:
    """What is wished of the cache: `mode` None means that nothing was said; `kept_s` is the older field's time."""

    mode: str | None = None
    ttl_s: float = TTLS_S["30m"]
    kept_s: float | None = None


def cache_wish(options: ResponseCacheOptions | None, retention: str | None) -> CacheWish:
    """The two fields of a body. Raises UnsupportedField."""
    kept_s = _look_up(retention or "in_memory", _RETENTIONS_S, "prompt_cache_retention")
    if options is None:
        return CacheWish(kept_s=kept_s)
    refuse_inert(options, INERT_CACHE_OPTIONS, "prompt_cache_options.")
    mode = options.mode or "implicit"
    _look_up(mode, {"implicit": True, "explicit": True}, "prompt_cache_options.mode")
    return CacheWish(mode, ttl_s(options.ttl, "prompt_cache_options.ttl"), kept_s)


def ttl_s(given: str | None, path: str) -> float:
    """A time to live in seconds. Raises UnsupportedField."""
    return float(_look_up(given or "30m", TTLS_S, path))


def breakpoints(wish: CacheWish, marks: Sequence[tuple[int, str | None]]) -> tuple[Breakpoint, ...]:
    """As OpenAI does it: the whole input counts as one unless the mode is explicit, and the latest marks win.

    `marks` are messages, each with the time that its own mark asks for.
    """
    whole_s = max(wish.ttl_s, wish.kept_s or 0.0)
    points = [Breakpoint(index, max(whole_s, TTLS_S.get(ttl or "", 0.0))) for index, ttl in marks]
    if wish.mode is None and not marks:
        return () if wish.kept_s is None else (Breakpoint(ttl_s=wish.kept_s),)
    if wish.mode == "explicit":
        if not marks:
            raise UnsupportedField(
                "prompt_cache_options.mode: 'explicit' without a prompt_cache_breakpoint would turn the cache off, "
                "which is not supported; mark a part, or send 'implicit'.",
                param="prompt_cache_options.mode",
            )
        return tuple(points[-MAX_BREAKPOINTS:])
    return (*points[1 - MAX_BREAKPOINTS :], Breakpoint(None, whole_s))


def _look_up(given: str, table: dict[str, Any], path: str) -> Any:
    if given not in table:
        raise UnsupportedField(f"{path}: {show(given)} is not supported; send {' or '.join(table)}.", param=path)
    return table[given]
