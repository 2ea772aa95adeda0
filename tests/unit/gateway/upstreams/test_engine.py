"""The engine of this process among the backends of a gateway."""

import asyncio

import pytest
from tests.backends import TARGET, raw_body, request
from tests.doubles_http import MODEL, ScriptedBackend, answer

from headrace.core.errors import EngineFault
from headrace.core.events import Finished
from headrace.gateway.upstreams.engine import Engine


def test_an_engine_answers_in_events_and_is_never_asked_in_bytes() -> None:
    async def body() -> None:
        engine = Engine(ScriptedBackend(answer("word")))
        events = [event async for event in engine.run(request(model=MODEL.id))]
        assert isinstance(events[-1], Finished)
        assert engine.dialects == frozenset()
        with pytest.raises(EngineFault, match="back/m-1"):
            await engine.relay(raw_body("chat", is_stream=False), TARGET, max_tokens=None)
        await engine.check()
        await engine.close()

    asyncio.run(body())
