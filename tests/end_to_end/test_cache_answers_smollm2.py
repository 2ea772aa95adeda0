"""What the cache says for itself over a real socket: reuse, misses and their reasons, things kept under breakpoints."""

from pathlib import Path
from typing import Any

import openai
import pytest
from tests.doubles_http import run
from tests.end_to_end.test_server_smollm2 import LIMIT_S, MODEL, connected

from headrace.models.load import LoadedModel, load_model

EXPLAIN = {"x-headrace-explain": "cache"}
LONG = "water and stone " * 60


@pytest.fixture(scope="module")
def model(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(smollm2_path, name=MODEL, cache_dir=tmp_path_factory.mktemp("packed"))


def play(model: LoadedModel, main: Any) -> None:
    async def whole() -> None:
        async with connected(model) as client:
            await main(client)

    run(whole(), LIMIT_S)


async def ask(client: openai.AsyncOpenAI, prompt: str, **extra: Any) -> tuple[int, Any]:
    """Tokens found in the cache, and why not more."""
    reply = await client.completions.create(
        model=MODEL, prompt=prompt, temperature=0, max_tokens=2, extra_headers=EXPLAIN, extra_body=extra
    )
    assert reply.usage is not None
    assert reply.usage.prompt_tokens_details is not None
    return reply.usage.prompt_tokens_details.cached_tokens or 0, (reply.model_extra or {})["headrace"]["cache_miss"]


def test_a_miss_says_which_part_changed(model: LoadedModel) -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        cached, miss = await ask(client, LONG)
        assert (cached, miss["reason"], miss["token"]) == (0, "cold", 0)
        cached, miss = await ask(client, LONG)
        assert cached >= 128
        assert miss["reason"] in ("none", "extended")
        assert miss["token"] == cached
        salted, miss = await ask(client, LONG, cache_salt="other")
        assert (salted, miss["reason"]) == (0, "salt_changed")
        again, _ = await ask(client, LONG, cache_salt="other")
        assert again == cached
        cached, miss = await ask(client, LONG[: len(LONG) // 2] + "and something else " * 30)
        assert cached > 0
        assert (miss["reason"], miss["token"]) == ("messages_changed", cached)
        _, miss = await ask(client, "short")
        assert miss["reason"] == "too_short"

    play(model, main)


def test_what_is_kept_under_a_breakpoint_is_counted_once(model: LoadedModel) -> None:
    part = {"type": "text", "text": LONG, "prompt_cache_breakpoint": {"mode": "explicit"}}
    talk: list[Any] = [{"role": "system", "content": [part]}, {"role": "user", "content": "Which stone?"}]

    async def main(client: openai.AsyncOpenAI) -> None:
        written = []
        for mode in ("explicit", "explicit", "implicit"):
            reply = await client.chat.completions.create(
                model=MODEL,
                messages=talk,
                temperature=0,
                max_tokens=2,
                extra_body={"prompt_cache_options": {"mode": mode, "ttl": "30m"}},
            )
            assert reply.usage is not None
            assert reply.usage.prompt_tokens_details is not None
            written.append(reply.usage.prompt_tokens_details.cache_write_tokens or 0)
        assert written[0] >= 128
        assert written[1] == 0

    play(model, main)
