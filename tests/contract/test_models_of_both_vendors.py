"""One path lists the models in two shapes: each official client reads its own."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime

import anthropic
import openai
import pytest
from tests.doubles_http import make_app, run
from tests.loopback import listening
from tests.scripted import CARD, Scripted

from headrace.server.config import ServerConfig

CARDS = [replace(CARD, id=f"m{index}", aliases=(f"alias{index}",)) for index in range(5)]
CARDS.append(replace(CARD, id="m0:formal", parent="m0"))
IDS = [card.id for card in CARDS]


@contextlib.asynccontextmanager
async def connected() -> AsyncIterator[tuple[openai.AsyncOpenAI, anthropic.AsyncAnthropic]]:
    app = make_app(Scripted([], cards=CARDS), ServerConfig(port=0))
    async with listening(app) as (_, port):
        url = f"http://127.0.0.1:{port}"
        async with (
            openai.AsyncOpenAI(base_url=url + "/v1", api_key="x", max_retries=0, timeout=4) as ours,
            anthropic.AsyncAnthropic(base_url=url, api_key="x", max_retries=0, timeout=4) as theirs,
        ):
            yield ours, theirs


def test_openais_client_lists_and_finds_models() -> None:
    async def main() -> None:
        async with connected() as (client, _):
            assert [model.id async for model in await client.models.list()] == IDS
            found = await client.models.retrieve("alias3")
            assert (found.id, found.object, found.created) == ("m3", "model", CARD.created)
            with pytest.raises(openai.NotFoundError):
                await client.models.retrieve("m9")

    run(main())


def test_anthropics_client_lists_and_finds_models() -> None:
    async def main() -> None:
        async with connected() as (_, client):
            assert [model.id async for model in await client.models.list()] == IDS
            page = await client.models.list(limit=2)
            assert (page.has_more, page.first_id, page.last_id) == (True, "m0", "m1")
            assert [model.id async for model in page] == IDS  # the client turns the pages
            found = await client.models.retrieve("alias3")
            assert (found.id, found.type, found.display_name, found.lifecycle) == ("m3", "model", "m3", "active")
            assert found.created_at == datetime.fromtimestamp(CARD.created, UTC)
            assert found.max_input_tokens == CARD.context_length
            assert [model.id async for model in await client.beta.models.list(limit=4)] == IDS
            with pytest.raises(anthropic.NotFoundError) as caught:
                await client.models.retrieve("m9")
            assert caught.value.body["error"]["type"] == "not_found_error"  # type: ignore[index,call-overload]

    run(main())


def test_pages_go_both_ways() -> None:
    async def main() -> None:
        async with connected() as (_, client):
            before = await client.models.list(before_id="m4", limit=2)
            assert ([model.id for model in before.data], before.has_more) == (["m2", "m3"], True)
            assert [model.id for model in (await client.models.list(before_id="m1")).data] == ["m0"]
            last = await client.models.list(after_id="m4")
            assert ([model.id for model in last.data], last.has_more) == (["m0:formal"], False)
            none = await client.models.list(after_id="m0:formal")
            assert (none.data, none.first_id, none.last_id) == ([], None, None)
            assert not (await client.models.list(lifecycle=["retired"])).data
            assert len((await client.models.list(lifecycle=["retired", "active"])).data) == len(IDS)

    run(main())


@pytest.mark.parametrize(
    ("query", "kind"),
    [
        ({"limit": 0}, anthropic.BadRequestError),
        ({"limit": 1001}, anthropic.BadRequestError),
        ({"limit": "x"}, anthropic.BadRequestError),
        ({"after_id": "m1", "before_id": "m2"}, anthropic.BadRequestError),
        ({"sort": "name"}, anthropic.BadRequestError),
        ({"after_id": "m9"}, anthropic.NotFoundError),
    ],
)
def test_a_query_that_makes_no_sense_is_refused(query: dict[str, object], kind: type[anthropic.APIStatusError]) -> None:
    async def main() -> None:
        async with connected() as (_, client):
            with pytest.raises(kind):
                await client.models.list(extra_query=query)

    run(main())
