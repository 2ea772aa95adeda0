"""Random traffic over models that come and go, on real threads: whoever leaves whenever, nobody waits or is held."""

import asyncio
import random
from contextlib import suppress

import pytest
from tests.unit.engine.test_guests import BOUND_S, HELD, Shop, answer, expected, make

from headrace.core.errors import Conflict, DeadlineExceeded, ModelFileError
from headrace.engine.text import TextEngine

NAMES = ("a", "b", "c")


async def client(engine: TextEngine, shop: Shop, rng: random.Random) -> str:
    """One random deed; what came of it."""
    name = rng.choice(NAMES)
    deed = rng.random()
    if deed < 0.15:
        with suppress(Conflict):
            await engine.unload_model(name, waits=rng.random() < 0.5)
        return "unloaded"
    if deed < 0.17:
        shop.errors[name] = ModelFileError(f"{name}.gguf: is broken; download it again.")
        return "broken"
    count = rng.randrange(1, 60)
    limits = {"deadline_s": rng.choice([0.001, 60.0])} if deed < 0.4 else {}
    try:
        if deed < 0.25:
            await engine.load_model(name)
            return "loaded"
        assert await answer(engine, name, count, **limits) == expected(count)
    except (DeadlineExceeded, ModelFileError) as error:
        return type(error).__name__
    return "answered"


@pytest.mark.parametrize("seed", range(6))
def test_everybody_ends_and_nothing_is_held_whatever_happens(seed: int) -> None:
    rng = random.Random(seed)
    shop = Shop()
    engine = make(shop, fits=rng.choice([1.0, 2.0]), max_sequences=4, max_waiting=1000)
    bound = engine.memory_bytes
    assert bound is not None and bound >= HELD

    async def main() -> list[str | BaseException]:
        tasks = []
        for _ in range(120):
            tasks.append(asyncio.create_task(client(engine, shop, random.Random(rng.random()))))
            if rng.random() < 0.1:
                rng.choice(tasks).cancel()
            running = [task for task in tasks if not task.done()]
            if running and rng.random() < 0.5:
                await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for _ in range(rng.randrange(4)):
                await asyncio.sleep(0)
            assert sum(one.bytes_held for one in engine.residences()) <= bound
        return await asyncio.gather(*tasks, return_exceptions=True)

    async def body() -> None:
        engine.start()
        try:
            async with asyncio.timeout(6 * BOUND_S):
                ended = await main()
                assert {type(one) for one in ended} <= {str, asyncio.CancelledError}, ended
                assert ended.count("answered") > 10
                assert [one.num_requests for one in engine.residences()] == [0, 0, 0]
                shop.errors.clear()
                for name in NAMES:
                    assert await answer(engine, name, 5) == expected(5)
                    assert (await engine.unload_model(name)).state == "absent"
        finally:
            assert await engine.close(BOUND_S)

    asyncio.run(body())
    engine._engine.check()
