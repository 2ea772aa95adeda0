"""The `usage` of OpenAI's generation routes, with the fields by which DeepSeek and vLLM say the same.

`cost` is there if the server's settings have prices for the model; OpenRouter's clients read it under that name.
"""

from typing import Any

from headrace.core.events import Usage
from headrace.core.ledger import Ledger, PriceList


def encode_usage(usage: Usage, model: str, prices: PriceList, *, names_content: bool = False) -> dict[str, Any]:
    """What an answer of a model used. `names_content`: what was cached is told by Gemini's name, too.

    Raises EngineFault for counts that contradict each other.
    """
    ledger = Ledger.of(usage)
    prompt_details = {"cached_tokens": ledger.cached_tokens, "audio_tokens": 0}
    if ledger.disk_tokens:
        prompt_details["disk_tokens"] = ledger.disk_tokens
    prompt_details["cache_write_tokens"] = ledger.written_tokens
    told = {
        "prompt_tokens": ledger.prompt_tokens,
        "completion_tokens": ledger.completion_tokens,
        "total_tokens": ledger.total_tokens,
        "prompt_cache_hit_tokens": ledger.cached_tokens,
        "prompt_cache_miss_tokens": ledger.missed_tokens,
        "prompt_tokens_details": prompt_details,
        "completion_tokens_details": {
            "reasoning_tokens": ledger.reasoning_tokens,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    }
    if names_content:
        told["cached_content_token_count"] = ledger.cached_tokens
    return told | cost_field(ledger, model, prices)


def cost_field(ledger: Ledger, model: str, prices: PriceList) -> dict[str, float]:
    """The `cost` of a usage object in any protocol; nothing if the model has no price."""
    cost = prices.cost(model, ledger)
    return {} if cost is None else {"cost": cost}
