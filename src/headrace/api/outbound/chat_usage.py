"""The `usage` of OpenAI's older routes as backends tell it, with the names by which DeepSeek and xAI say the same.

Counts that contradict each other are mended upwards, so that nothing that was told is charged as less; counts below 0
are no counts. Knows no prices.
"""

from typing import Final

import msgspec

from headrace.core.errors import UpstreamFault
from headrace.core.events import Usage

WRITE_TTL_S: Final = 1800.0
"""How long OpenAI keeps what it counts as written."""


MAX_COUNT: Final = 2**40


class PromptDetails(msgspec.Struct):
    """What the input's tokens were. `disk_tokens` is another Headrace's."""

    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    disk_tokens: int | None = None


class CompletionDetails(msgspec.Struct):
    """What the output's tokens were."""

    reasoning_tokens: int | None = None


class ChatUsage(msgspec.Struct):
    """`usage`. The fields of hits and misses are DeepSeek's; misses follow from the rest."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    total_tokens: int | None = None
    prompt_tokens_details: PromptDetails | None = None
    completion_tokens_details: CompletionDetails | None = None
    prompt_cache_hit_tokens: int | None = None


def check_counts(*counts: int) -> None:
    """Raise UpstreamFault for counts that no answer can have."""
    if min(counts) < 0 or max(counts) > MAX_COUNT:
        raise UpstreamFault(f"the backend told token counts below 0 or above {MAX_COUNT}.")


def read_usage(told: ChatUsage) -> Usage:
    """The counts. Raises UpstreamFault for some that cannot be."""
    prompt_details = told.prompt_tokens_details or PromptDetails()
    details = told.completion_tokens_details or CompletionDetails()
    total = told.total_tokens or 0
    prompt, completion = told.prompt_tokens or 0, told.completion_tokens or 0
    if told.prompt_tokens is None and told.completion_tokens is None:
        prompt = total  # routes that only read, as Jina tells it
    cached = prompt_details.cached_tokens or told.prompt_cache_hit_tokens or 0
    written = prompt_details.cache_write_tokens or 0
    disk, reasoning = prompt_details.disk_tokens or 0, details.reasoning_tokens or 0
    check_counts(prompt, completion, total, cached, written, disk, reasoning)
    if reasoning and total == prompt + completion + reasoning:
        completion += reasoning  # xAI counts reasoning apart
    return Usage(
        max(prompt, cached + written),
        max(completion, reasoning),
        cached,
        min(disk, cached),
        ((WRITE_TTL_S, written),) if written else (),
        reasoning,
    )
