"""Requests that name an adapter: found by `model:adapter`, held while they run, apart from others in every cache."""

import asyncio
import gc
import threading
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles_http import Client, make_app
from tests.gguf_files import TinyLlama, tiny_tensors, write_tiny_llama
from tests.oracle.tiny_adapters import TinyAdapter, write_peft

from headrace.adapters.shelf import Lease, Shelf
from headrace.core.errors import InvalidRequest, NotFound
from headrace.core.events import Event, Finished, Started, TextDelta
from headrace.core.request import Limits, Principal, Request, Sampling, Task
from headrace.engine.config import EngineConfig
from headrace.engine.embedded import Engine
from headrace.engine.text import Setup, Source, TextEngine
from headrace.kernels.choice import kernels_in_use
from headrace.models.load import LoadedModel, load_model

BOUND_S = 20.0
PROMPT = "A mill stands where water falls, and the wheel turns as long as the river has something to give."
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj"} | {
    "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    return load_model(write_tiny_llama(tmp_path_factory.mktemp("model") / "tiny.gguf"), name="tiny")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Adapters that change what the model says, whose layers are named as in transformers."""
    for name, rank in (("red", 4), ("blue", 9)):
        rng = np.random.default_rng(rank)
        factors = {}
        for tensor, shape in tiny_tensors(TinyLlama()).items():
            _, layer, role, *_ = [*tensor.split("."), "", ""]
            if role in NAMES:
                a = rng.normal(0, 0.3, (rank, shape[1])).astype(np.float32)
                b = rng.normal(0, 0.3, (shape[0], rank)).astype(np.float32)
                factors[f"model.layers.{layer}.{NAMES[role]}.weight"] = (a, b)
        write_peft(TinyAdapter("", factors, rank, 8.0), tmp_path / name)
    return tmp_path


@asynccontextmanager
async def serving(model: LoadedModel, folder: Path | None, **options: int) -> AsyncIterator[TextEngine]:
    """A started engine; leaving sees that neither pages nor adapters are held any more."""
    config = EngineConfig(threads=2, kv_memory_bytes=2**22, kv_type="fp16", checks=True, adapters=folder, **options)
    engine = TextEngine([model], config, setups={"tiny": Setup(aliases=("mill",))})
    engine.start()
    try:
        async with asyncio.timeout(BOUND_S):
            yield engine
    finally:
        assert await engine.close(BOUND_S)
    snapshot = engine.snapshot("tiny")
    assert snapshot.free_pages + snapshot.idle_pages == snapshot.total_pages
    if engine._shelves is not None:
        shelf = engine._shelves._shelves["tiny"]
        for name in shelf.loaded():
            shelf.unload(name)
        assert shelf.used_bytes == 0


def ask(name: str, prompt: str = PROMPT, tenant: str = "local", task: Task = Task.GENERATE) -> Request:
    return Request(
        id="r",
        model=name,
        prompt=prompt,
        task=task,
        sampling=Sampling(temperature=0.0),
        limits=Limits(max_tokens=12, ignore_eos=True),
        principal=Principal(tenant=tenant),
    )


async def answer(engine: TextEngine, request: Request) -> tuple[Started, str, Finished]:
    events: list[Event] = [event async for event in engine.run(request)]
    started, finished = events[0], events[-1]
    assert isinstance(started, Started)
    assert isinstance(finished, Finished)
    return started, "".join(event.text for event in events if isinstance(event, TextDelta)), finished


def test_each_request_gets_its_own_adapters_answer_whatever_runs_beside_it(model: LoadedModel, folder: Path) -> None:
    names = ["tiny", "tiny:red", "mill:blue", "tiny:red", "tiny"]

    async def main() -> None:
        alone = {}
        for name in set(names):
            async with serving(model, folder) as engine:
                alone[name] = (await answer(engine, ask(name)))[1]
        assert len(set(alone.values())) == 3
        async with serving(model, folder) as engine:
            together = await asyncio.gather(*(answer(engine, ask(name)) for name in names))
            assert [text for _, text, _ in together] == [alone[name] for name in names]
        async with serving(model, None) as engine:
            assert (await answer(engine, ask("tiny")))[1] == alone["tiny"]

    asyncio.run(main())


def test_metrics_name_adapters_in_use_as_they_are_asked_for(model: LoadedModel, folder: Path) -> None:
    def told(engine: TextEngine, running: str) -> float | None:
        labels = {"max_lora": "64", "running_lora_adapters": running, "waiting_lora_adapters": ""}
        return engine.metrics.registry.get_sample_value("vllm:lora_requests_info", labels)

    async def main() -> None:
        async with serving(model, None) as engine:
            assert told(engine, "") is None  # where there are none, nothing is said of them
        async with serving(model, folder) as engine:
            async with aclosing(engine.run(ask("mill:red"))) as events:
                await anext(events)
                assert told(engine, "tiny:red") is not None
            assert told(engine, "") is not None

    asyncio.run(main())


def test_an_answer_says_which_adapter_it_runs_on_by_name_and_digest(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            started, _, _ = await answer(engine, ask("mill:red"))
            assert started.model == "tiny:red"
            assert started.digests["model"] == model.digest
            assert started.digests["adapter"].startswith("sha256:")
            assert started.digests["tokenizer"] == model.tokenizer.digest
            assert started.digests["keys_and_values"] in {"int8", "fp16"}
            assert started.digests["kernels"] == kernels_in_use()
            plain, _, _ = await answer(engine, ask("tiny"))
            assert plain.model == "tiny"
            assert "adapter" not in plain.digests
            counted = [event async for event in engine.run(ask("tiny:red", task=Task.COUNT))]
            assert isinstance(counted[0], Started)
            assert counted[0].digests == started.digests

    asyncio.run(main())


def test_keys_and_values_are_never_shared_between_adapters(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            for name in ("tiny", "tiny:red", "tiny:blue"):
                started, cold, _ = await answer(engine, ask(name))
                assert started.cached_tokens == 0
                assert (await engine.probe(ask(name))).warm_tokens > 0
                started, warm, _ = await answer(engine, ask(name))
                assert started.cached_tokens > 0
                assert warm == cold
            assert (await engine.probe(ask("tiny:red", tenant="other"))).warm_tokens == 0

    asyncio.run(main())


def test_adapters_are_listed_with_what_they_take_whether_they_are_in_memory_or_not(
    model: LoadedModel, folder: Path
) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            assert engine.adapters is not None
            names = [one.name for one in engine.adapters.adapters()]
            assert {"tiny:red", "tiny:blue"} <= set(names) and names == sorted(names)
            await engine.adapters.load_adapter("red")
            told = {one.name: one for one in engine.adapters.adapters()}
            assert told["tiny:red"].is_loaded and told["tiny:red"].num_bytes > 0
            assert not told["tiny:blue"].is_loaded and told["tiny:blue"].num_bytes == 0
            await engine.adapters.unload_adapter("red")
            assert not any(one.is_loaded for one in engine.adapters.adapters())

    asyncio.run(main())


def test_a_changed_file_under_the_same_name_finds_none_of_the_old_ones_keys(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            _, old, _ = await answer(engine, ask("tiny:red"))
            assert engine.adapters is not None
            await engine.adapters.unload_adapter("red")
            (folder / "red").rename(folder / "gone")
            (folder / "blue").rename(folder / "red")
            started, new, _ = await answer(engine, ask("tiny:red"))
            assert started.cached_tokens == 0
            assert new != old

    asyncio.run(main())


def test_names_that_are_not_there_are_refused_with_those_that_are(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            for name, message in (
                ("tiny:green", "'green' is not in the folder of adapters; there are: blue, red"),
                ("tiny:", "there are: blue, red"),
                ("other:red", "other:red is not served here; served: tiny"),
                ("other", "other is not served here"),
            ):
                with pytest.raises(NotFound, match=message) as refused:
                    await answer(engine, ask(name))
                assert refused.value.code == "model_not_found"
        async with serving(model, None) as engine:
            assert engine.adapters is None
            with pytest.raises(NotFound, match="tiny:red is not served here"):
                await answer(engine, ask("tiny:red"))

    asyncio.run(main())


def test_a_folder_that_is_not_there_is_refused_at_the_start(model: LoadedModel, folder: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"adapters: .*nowhere is no folder"):
        TextEngine([model], EngineConfig(threads=1, kv_memory_bytes=2**22, kv_type="fp16", adapters=folder / "nowhere"))


class SlowShelf(Shelf):
    """One that begins to read and then waits for the test."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.begun, self.may_go_on = threading.Event(), threading.Event()

    def load(self, name: str) -> Lease:
        self.begun.set()
        assert self.may_go_on.wait(BOUND_S)
        return super().load(name)


def test_what_is_cancelled_in_any_place_gives_its_adapter_back(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            events = engine.run(ask("tiny:red"))
            assert isinstance(await anext(events), Started)
            await events.aclose()
            assert engine._shelves is not None
            quick = engine._shelves._shelves["tiny"]
            slow = SlowShelf(folder, quick._program, "llama", quick.memory_bytes)
            engine._shelves._shelves["tiny"] = slow
            waiting = asyncio.ensure_future(answer(engine, ask("tiny:blue")))
            loop = asyncio.get_running_loop()
            assert await loop.run_in_executor(None, slow.begun.wait, BOUND_S)
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            slow.may_go_on.set()
            # What was being read for nobody is read to its end; `serving` then sees that nobody holds it.
            await loop.run_in_executor(engine._shelves._reader, lambda: None)
            assert slow.loaded().keys() == {"blue"}

    asyncio.run(main())


def test_adapters_follow_their_model_out_of_memory_and_back(model: LoadedModel, folder: Path, tmp_path: Path) -> None:
    path = write_tiny_llama(tmp_path / "tiny.gguf")
    source = Source.of(model, Setup(), lambda: load_model(path, name="tiny", cache_dir=tmp_path / "packed"))

    def mapped() -> str:
        lines = Path("/proc/self/maps").read_text("utf-8").splitlines()
        return "".join(line for line in lines if str(tmp_path / "packed") in line)

    config = EngineConfig(threads=1, kv_memory_bytes=2**22, kv_type="fp16", checks=True, adapters=folder)

    async def main() -> None:
        async with serving(model, folder) as engine:
            expected = (await answer(engine, ask("tiny:red")))[1]
        engine = TextEngine([], config, sources=[source])
        engine.start()
        try:
            async with asyncio.timeout(BOUND_S):
                assert [card.id for card in engine.models()] == ["tiny"]
                assert engine.adapters is not None
                await engine.adapters.load_adapter("red")  # brings its model with it
                assert [card.id for card in engine.models() if card.is_loaded] == ["tiny", "tiny:red"]
                assert (await answer(engine, ask("tiny:red")))[1] == expected
                assert ".pack" in mapped()
                await engine.unload_model("tiny")
                assert mapped() == ""
                assert [card.id for card in engine.models()] == ["tiny"]
                with pytest.raises(NotFound, match="nor is its model"):
                    await engine.adapters.unload_adapter("red")
                assert (await answer(engine, ask("tiny:red")))[1] == expected
                with pytest.raises(NotFound):
                    await answer(engine, ask("tiny:green"))
                assert engine.residences()[0].num_requests == 0
        finally:
            await engine.close()

    gc.disable()  # what leaves must not wait for the collector
    try:
        asyncio.run(main())
    finally:
        gc.enable()


def test_a_program_that_embeds_the_engine_names_an_adapter(model: LoadedModel, folder: Path, tmp_path: Path) -> None:
    config = EngineConfig(threads=1, kv_memory_bytes=2**22, kv_type="fp16", adapters=folder)
    path = write_tiny_llama(tmp_path / "tiny.gguf")

    async def main() -> None:
        async with Engine.open(path, home=tmp_path / "home", config=config) as engine:
            options = {"raw": True, "max_tokens": 12, "ignore_eos": True}
            texts = {}
            for name in (None, "red"):
                events = [event async for event in engine.generate(PROMPT, adapter=name, **options)]
                texts[name] = "".join(event.text for event in events if isinstance(event, TextDelta))
        async with serving(model, folder) as served:
            assert texts == {
                None: (await answer(served, ask("tiny")))[1],
                "red": (await answer(served, ask("tiny:red")))[1],
            }

    asyncio.run(main())


def test_adapters_are_listed_loaded_and_unloaded_over_http(model: LoadedModel, folder: Path) -> None:
    async def main() -> None:
        async with serving(model, folder) as engine:
            app = make_app(engine, adapters=engine.adapters)

            async def call(method: str, path: str, body: bytes = b"") -> tuple[int, object]:
                reply = await Client(app, method, path, body).run()
                return reply.status, reply.json()

            async def loaded() -> dict[str, bool]:
                _, listing = await call("GET", "/v1/models")
                return {entry["id"]: entry["loaded"] for entry in listing["data"]}

            assert await loaded() == {"tiny": True, "tiny:blue": False, "tiny:red": False}
            status, entry = await call("POST", "/v1/load_lora_adapter", b'{"lora_name": "red"}')
            assert status == 200
            assert (entry["id"], entry["parent"], entry["loaded"]) == ("tiny:red", "tiny", True)
            assert await call("GET", "/v1/models/tiny:red") == (200, entry)
            body = b'{"model": "tiny:blue", "prompt": "Hi", "max_tokens": 2, "temperature": 0}'
            status, completion = await call("POST", "/v1/completions", body)
            assert (status, completion["model"]) == (200, "tiny:blue")
            assert await loaded() == {"tiny": True, "tiny:blue": True, "tiny:red": True}
            status, _ = await call("POST", "/v1/unload_lora_adapter", b'{"lora_name": "mill:red"}')
            assert status == 200
            assert await loaded() == {"tiny": True, "tiny:blue": True, "tiny:red": False}
            for name in ("red", "green"):
                status, _ = await call("POST", "/v1/unload_lora_adapter", f'{{"lora_name": "{name}"}}'.encode())
                assert status == 404
            status, _ = await call("POST", "/v1/load_lora_adapter", b'{"lora_name": "other:red"}')
            assert status == 404

    asyncio.run(main())
