"""Several prompts in one request, as the official client, evaluation harnesses and load tools send them."""

from collections.abc import Iterable
from typing import Any

import openai
import pytest
from tests.contract.test_openai_tools import connected, play
from tests.doubles_http import Client, make_app, run
from tests.scripted import Gate, Scripted, Turn, last_says

from headrace.core.errors import Overloaded
from headrace.core.request import Request

TURNS = [Turn(text="un deux", when=last_says("one")), Turn(text="trois", when=last_says("two")), Turn(text="x y z")]


def test_choices_are_ordered_by_prompt_and_usage_is_that_of_all() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        asked: dict[str, Any] = {"model": "scripted", "prompt": ["say one", "say two now", "more"], "n": 2}
        whole = await client.completions.create(**asked)
        assert [choice.index for choice in whole.choices] == list(range(6))
        wanted = ["un deux", "un deux", "trois", "trois", "x y z", "x y z"]
        assert [choice.text for choice in whole.choices] == wanted
        texts = [""] * 6
        ends: list[str | None] = [None] * 6
        usage = None
        stream = await client.completions.create(**asked, stream=True, stream_options={"include_usage": True})
        async for chunk in stream:
            usage = chunk.usage or usage
            for choice in chunk.choices:
                texts[choice.index] += choice.text
                ends[choice.index] = choice.finish_reason or ends[choice.index]
            assert chunk.id.startswith("cmpl-")
        assert (texts, ends) == (wanted, ["stop"] * 6)
        for told in (whole.usage, usage):
            assert told is not None
            assert (told.prompt_tokens, told.completion_tokens) == (2 + 3 + 1, 2 * (2 + 1 + 3))

    backend = play(TURNS, main)
    assert [request.prompt for request in backend.requests[:3]] == ["say one", "say two now", "more"]
    assert len({request.id for request in backend.requests}) == 6


def test_every_prompt_is_echoed_with_its_own_log_probabilities() -> None:
    async def main(client: openai.AsyncOpenAI) -> None:
        for stream in (False, True):
            texts, tokens = ["", ""], [[], []]  # type: ignore[var-annotated]
            asked: dict[str, Any] = {"model": "scripted", "prompt": [[1, 2, 3], [4, 5]], "echo": True, "logprobs": 1}
            answer = await client.completions.create(**asked, max_tokens=1, stream=stream)
            for chunk in [chunk async for chunk in answer] if stream else [answer]:
                for choice in chunk.choices:
                    texts[choice.index] += choice.text
                    if choice.logprobs is not None:
                        tokens[choice.index] += choice.logprobs.tokens or []
            assert texts == ["<1><2><3>x ", "<4><5>x "]
            assert tokens == [["<1>", "<2>", "<3>", "x "], ["<4>", "<5>", "x "]]

    play([Turn(text="x y")], main)


def together(gates: Iterable[Gate | None]) -> Scripted:
    """A backend that waits at each prompt's gate, which prompts are numbered by."""
    turns = [
        Turn(text=f"answer {index}", when=last_says(f"p{index}"), gates={} if gate is None else {0: gate})
        for index, gate in enumerate(gates)
    ]
    return Scripted(turns)


def test_prompts_run_side_by_side_and_none_waits_for_another() -> None:
    async def main() -> None:
        first, second = Gate(), Gate()
        backend = together([first, second])
        second.go.set()
        async with connected(backend) as client:
            stream = await client.completions.create(model="scripted", prompt=["p0", "p1"], stream=True)
            await first.reached.wait()
            chunk = await anext(stream)  # of the second prompt, while the first still waits
            assert (chunk.choices[0].index, chunk.choices[0].text) == (1, "answer ")
            first.go.set()
            assert "answer " in [chunk.choices[0].text async for chunk in stream if chunk.choices[0].index == 0]
        assert backend.num_open == 0

    run(main())


def test_one_failure_ends_all_of_them_and_nothing_stays_open() -> None:
    async def main() -> None:
        gate = Gate()
        turns = [
            Turn(text="x", when=last_says("waits"), gates={0: gate}),
            Turn(text="x", when=last_says("fails"), error=Overloaded("it is full."), error_after=0),
        ]
        backend = Scripted(turns)
        for prompts in (["waits", "fails"], ["fails", "waits"], ["waits", "nothing like that"]):
            async with connected(backend) as client:
                with pytest.raises(openai.APIStatusError) as caught:
                    await client.completions.create(model="scripted", prompt=prompts)
                assert caught.value.status_code in (400, 503)
            assert backend.num_open == 0

    run(main())


def test_a_client_that_leaves_ends_every_prompt() -> None:
    async def main() -> None:
        gates = [Gate(), Gate()]
        backend = together(gates)
        body = b'{"model":"scripted","prompt":["p0","p1"]}'
        client = Client(make_app(backend), "POST", "/v1/completions", body)
        task = client.start()
        for gate in gates:
            await gate.reached.wait()
        client.leave()
        await task
        assert backend.num_open == 0
        assert [stream.is_finished for stream in backend.streams] == [False, False]

    run(main())


class Broken:
    """A backend that meets a defect in its second prompt."""

    def __init__(self) -> None:
        self._inner = Scripted([Turn(text="x", gates={0: Gate()})])

    async def run(self, request: Request) -> Any:
        if request.prompt == "bad":
            raise ZeroDivisionError
        async for event in self._inner.run(request):
            yield event

    def models(self) -> Any:
        return self._inner.models()


def test_a_defect_in_one_prompt_is_an_answer_and_not_a_silence(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        body = b'{"model":"scripted","prompt":["good","bad"]}'
        reply = await Client(make_app(Broken()), "POST", "/v1/completions", body).run()
        assert (reply.status, reply.error()["code"]) == (500, "engine_fault")

    run(main())
    assert "ZeroDivisionError" in caplog.text
