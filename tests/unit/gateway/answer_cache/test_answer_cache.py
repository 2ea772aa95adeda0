"""Answers that are given again: to whom, for what, and as a true answer in every client's protocol."""

import asyncio
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.doubles_gateway import HandClock

from headrace.api.anthropic import decode_messages
from headrace.api.anthropic_answers import StreamWriter as MessagesWriter
from headrace.api.ollama import decode_chat as decode_ollama
from headrace.api.ollama_answers import StreamWriter as OllamaWriter
from headrace.api.openai import Caller
from headrace.api.openai_answers import CHAT, AnswerHead, AnswerWriter
from headrace.api.openai_stream import StreamWriter
from headrace.api.responses import decode_create
from headrace.api.responses_events import ResponseWriter
from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.events import (
    ChoiceFinished,
    Embedding,
    Event,
    Finished,
    FinishReason,
    Raw,
    ReasoningDelta,
    Started,
    TextDelta,
    ToolCallDelta,
    Usage,
)
from headrace.core.gateway import Ask
from headrace.core.request import (
    CacheHints,
    FormatKind,
    Input,
    Limits,
    Message,
    Principal,
    Request,
    ResponseFormat,
    Role,
    Sampling,
    Task,
    TextPart,
    Tool,
)
from headrace.core.shape import Shape
from headrace.engine.embedded import Engine
from headrace.gateway.answer_cache.cache import GatewayAnswerCache
from headrace.gateway.answer_cache.semantic import EncoderLikeness
from headrace.gateway.answer_cache.store import AnswerStore
from headrace.gateway.contract import Bound, Candidate, Kept, Plan
from headrace.gateway.settings import Target

A, B = Target("a", "m"), Target("b", "m")
BOUND = Bound(0, 0)
PLAN = Plan(route="smart", candidates=(Candidate(target=A, bound=BOUND), Candidate(target=B, bound=BOUND)))
GREEDY = Sampling(temperature=0.0)


def says(*texts: str) -> tuple[Message, ...]:
    roles = (Role.USER, Role.ASSISTANT)
    return tuple(Message(roles[place % 2], (TextPart(text),)) for place, text in enumerate(texts))


ASKED = Request(id="one", model="smart", messages=says("Why is the sky blue?"), sampling=GREEDY)
ANSWER: tuple[Event, ...] = (
    Started("one", "m", 9, digests={"model": "sha256:abcdef0123456789"}),
    ReasoningDelta(0, "hm", 1),
    TextDelta(0, "Light ", 1),
    TextDelta(0, "scatters.", 2),
    ToolCallDelta(0, 0, "", 1, "call_1", "f"),
    ToolCallDelta(0, 0, "{}", 1),
    ChoiceFinished(0, FinishReason.TOOL_CALLS),
    Finished(Usage(9, 6, 3, 0, ((300.0, 4),), 1)),
)


def ask_of(request: Request, **about: Any) -> Ask:
    return Ask(shape=replace(Shape.of(request), **about), decode=lambda: request)


class Around:
    """A cache, and time that a test moves."""

    def __init__(self, max_bytes: int = 100_000, likeness: Any = None) -> None:
        self.clock = HandClock()
        self.store = AnswerStore(max_bytes=max_bytes, ttl_s=60.0)
        self.cache = GatewayAnswerCache(self.store, self.clock, likeness)

    def find(self, request: Request, plan: Plan = PLAN, **about: Any) -> Kept | None:
        return asyncio.run(self.cache.find(ask_of(request, **about), plan))

    def answer(
        self, request: Request, events: Sequence[Event] = ANSWER, plan: Plan = PLAN, target: Target = A, **about: Any
    ) -> bool:
        """Have a request answered as a gate does; whether the answer was already there."""
        asked = ask_of(request, **about)

        async def run() -> bool:
            if await self.cache.find(asked, plan) is not None:
                return True
            keeper = self.cache.keeper(asked, plan)
            if keeper is not None:
                keeper.begin(target)
                for event in events:
                    keeper.add(event)
            return False

        return asyncio.run(run())


def told(kept: Kept | None) -> list[Event]:
    assert kept is not None

    async def read() -> list[Event]:
        return [event async for event in kept.events]

    return asyncio.run(read())


def test_the_same_request_gets_the_same_answer_under_its_own_id() -> None:
    around = Around()
    assert not around.answer(ASKED)
    again = replace(
        ASKED,
        id="two",
        session="s",
        parent="p",
        tags=("x",),
        limits=Limits(deadline_s=5.0),
        principal=Principal(key="other", user="somebody", priority=3),
    )
    kept = around.find(again)
    assert kept is not None
    assert (kept.kind, kept.target) == ("exact", A)
    finished = Finished(Usage(9, 6, 3, 0, (), 1))  # nothing is written to a cache this time
    assert told(kept) == [replace(ANSWER[0], request_id="two"), *ANSWER[1:-1], finished]


OTHERS: list[tuple[str, dict[str, Any]]] = [
    ("words", {"messages": says("Why is the sky red?")}),
    ("an earlier turn", {"messages": says("x", "y", "Why is the sky blue?")}),
    ("temperature", {"sampling": Sampling(temperature=0.0, top_p=0.5)}),
    ("whose default it is", {"sampling": Sampling(temperature=0.0, defaults=frozenset({"top_k"}))}),
    ("seed", {"sampling": Sampling(temperature=0.0, seed=7)}),
    ("choices", {"sampling": Sampling(temperature=0.0, num_choices=2)}),
    ("length", {"limits": Limits(max_tokens=5)}),
    ("stop", {"limits": Limits(stop=("x",))}),
    ("tools", {"tools": (Tool("f"),)}),
    ("form", {"response_format": ResponseFormat(FormatKind.JSON_OBJECT)}),
    ("log-probabilities", {"logprobs": 1}),
    ("salt", {"cache": CacheHints(salt="s")}),
]


@pytest.mark.parametrize("changed", [changed for _, changed in OTHERS], ids=[name for name, _ in OTHERS])
def test_a_request_that_differs_in_what_decides_an_answer_is_another(changed: dict[str, Any]) -> None:
    around = Around()
    around.answer(ASKED)
    assert around.find(replace(ASKED, **changed)) is None
    assert around.find(ASKED) is not None


def test_nobody_elses_answer_is_given() -> None:
    around = Around()
    around.answer(ASKED)
    assert around.find(replace(ASKED, principal=Principal(tenant="other"))) is None
    assert around.find(ASKED, labels=frozenset({"restricted"})) is None
    assert around.find(ASKED, replace(PLAN, route="another")) is None
    around.answer(ASKED, labels=frozenset({"restricted"}))
    assert around.find(ASKED, labels=frozenset({"restricted", "secret"})) is None


def test_an_answer_goes_with_the_target_that_gave_it() -> None:
    around = Around()
    around.answer(ASKED, target=A)
    assert around.find(ASKED, replace(PLAN, candidates=PLAN.candidates[1:])) is None
    around.answer(ASKED, target=B, plan=replace(PLAN, candidates=PLAN.candidates[1:]))
    kept = around.find(ASKED)
    assert kept is not None
    assert kept.target == B


REFUSED: list[tuple[str, Request, dict[str, Any]]] = [
    ("drawn by chance", replace(ASKED, sampling=Sampling()), {}),
    ("a new answer is wanted", replace(ASKED, cache=CacheHints(fresh=True)), {}),
    ("the cache is to be explained", replace(ASKED, cache=CacheHints(explain=True)), {}),
    ("only read", replace(ASKED, limits=Limits(max_tokens=0)), {}),
    ("counted", replace(ASKED, task=Task.COUNT), {}),
    ("scored", replace(ASKED, task=Task.SCORE, messages=None, inputs=(Input("a", "b"),)), {}),
]


@pytest.mark.parametrize("request_", [one for _, one, _ in REFUSED], ids=[name for name, _, _ in REFUSED])
def test_what_may_not_be_given_again_is_not_kept(request_: Request) -> None:
    around = Around()
    assert not around.answer(request_)
    assert not around.answer(request_)
    assert len(around.store) == 0


def test_who_wants_a_new_answer_gets_none_of_those_that_are_kept() -> None:
    around = Around()
    around.answer(ASKED)
    assert around.find(replace(ASKED, cache=CacheHints(fresh=True))) is None


def test_a_request_that_cannot_be_decoded_is_no_error_of_the_cache() -> None:
    def decode() -> Request:
        raise InvalidRequest("x: is unknown.")

    around, asked = Around(), Ask(shape=Shape.of(ASKED), decode=decode)
    assert asyncio.run(around.cache.find(asked, PLAN)) is None
    assert around.cache.keeper(asked, PLAN) is None


@pytest.mark.parametrize(
    "events",
    [
        ANSWER[:-1],
        (ANSWER[0], TextDelta(0, "x", 1), ChoiceFinished(0, FinishReason.FILTERED), ANSWER[-1]),
        (ANSWER[0], Raw("chat", b"x"), ANSWER[-1]),
        (ANSWER[0], TextDelta(0, "x" * 100_000, 1), ANSWER[-1]),
    ],
    ids=["cut off", "withheld", "unread", "too large"],
)
def test_only_a_whole_answer_of_a_bearable_size_is_kept(events: Sequence[Event]) -> None:
    around = Around()
    around.answer(ASKED, events)
    assert len(around.store) == 0
    assert around.store.num_bytes == 0


def test_an_attempt_that_failed_leaves_nothing_in_the_answer_of_the_next() -> None:
    around = Around()
    asked = ask_of(ASKED)
    asyncio.run(around.cache.find(asked, PLAN))
    keeper = around.cache.keeper(asked, PLAN)
    assert keeper is not None
    keeper.begin(A)
    keeper.add(Started("one", "m", 9))
    keeper.add(TextDelta(0, "half", 1))
    keeper.begin(B)
    for event in ANSWER:
        keeper.add(event)
    kept = around.find(ASKED)
    assert kept is not None
    assert kept.target == B
    assert told(kept)[1:4] == list(ANSWER[1:4])


def test_two_callers_who_choose_one_id_keep_each_their_own() -> None:
    around = Around()
    mine = ask_of(ASKED)
    theirs = ask_of(replace(ASKED, principal=Principal(tenant="other")))
    for asked in (mine, theirs):
        asyncio.run(around.cache.find(asked, PLAN))
    keeper = around.cache.keeper(theirs, PLAN)
    assert keeper is not None
    keeper.begin(A)
    for event in ANSWER:
        keeper.add(event)
    assert around.find(ASKED) is None


def test_an_answer_ages_and_a_tenant_can_be_forgotten() -> None:
    around = Around()
    around.answer(ASKED)
    around.clock.now_s += 59.0
    assert around.find(ASKED) is not None
    around.clock.now_s += 1.0
    assert around.find(ASKED) is None
    assert len(around.store) == 0
    around.answer(ASKED)
    around.answer(replace(ASKED, principal=Principal(tenant="other")))
    assert around.cache.keep_only({"other", "another"}) == 1
    assert around.find(ASKED) is None
    assert len(around.store) == 1


def test_vectors_are_given_again_too() -> None:
    request = Request(id="one", model="smart", task=Task.EMBED, inputs=(Input("a"), Input("b")))
    events = (Started("one", "m", 4), Embedding(0, b"1234", 2), Embedding(1, b"5678", 2), Finished(Usage(4, 0)))
    around = Around()
    around.answer(request, events)
    assert told(around.find(request)) == list(events)
    assert around.find(replace(request, dimensions=2)) is None


CALLER = Caller(request_id="resp_1", principal=Principal())
BODY = b'{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"x"}]}'


def write_responses(events: Sequence[Event]) -> bytes:
    writer = ResponseWriter(
        decode_create(b'{"model":"m","input":"x","tools":[{"type":"function","name":"f"}]}', CALLER), 5
    )
    return b"\n".join(one.data for event in events for one in writer.take(event, 6))


def write_whole(events: Sequence[Event]) -> bytes:
    writer = AnswerWriter(AnswerHead(CHAT, "x", 5, 1))
    writer.add(events)
    return writer.encode()


def write_ollama(events: Sequence[Event]) -> bytes:
    call = decode_ollama(BODY.replace(b'"max_tokens":50,', b""), CALLER)
    assert not hasattr(call, "unloads")
    return OllamaWriter(call, HandClock()).encode(events)  # type: ignore[arg-type]


WRITERS: dict[str, Callable[[Sequence[Event]], bytes]] = {
    "chat": lambda events: StreamWriter(AnswerHead(CHAT, "x", 5, 1, include_usage=True)).encode(events),
    "chat, whole": write_whole,
    "responses": write_responses,
    "messages": lambda events: MessagesWriter(decode_messages(BODY, CALLER), lambda _: None).encode(events),
    "ollama": write_ollama,
}


@pytest.mark.parametrize("dialect", WRITERS)
def test_a_hit_is_the_same_stream_in_every_clients_protocol(dialect: str) -> None:
    first = (*ANSWER[:-1], Finished(Usage(9, 6, 3, reasoning_tokens=1)))
    around = Around()
    around.answer(ASKED, first)
    write = WRITERS[dialect]
    assert write(told(around.find(ASKED))) == write(first) != b""


class Words:
    """Questions mean the same if they have the same first word."""

    def __init__(self, *, knows: bool = True) -> None:
        self.knows = knows
        self.asked: list[str] = []

    async def meaning(self, question: str, shape: Shape) -> bytes | None:
        self.asked.append(question)
        return question.partition(" ")[0].encode() if self.knows else None

    def alike(self, meaning: bytes, others: Sequence[bytes]) -> list[int]:
        return [index for index, other in enumerate(others) if other == meaning]


def asks(*texts: str, **about: Any) -> Request:
    return replace(ASKED, messages=says(*texts), **about)


def test_a_question_in_other_words_gets_the_answer_of_the_first() -> None:
    around = Around(likeness=Words())
    around.answer(asks("Why is the sky blue?"))
    kept = around.find(asks("Why has the sky a blue colour?"))
    assert kept is not None
    assert kept.kind == "semantic"
    assert told(kept)[2:4] == list(ANSWER[2:4])
    same = around.find(asks("Why is the sky blue?"))
    assert same is not None
    assert same.kind == "exact"


@pytest.mark.parametrize(
    "request_",
    [
        asks("How is the sky blue?"),
        asks("Why is the sky not blue?"),
        asks("Why is the sky blue at 5?"),
        asks("x", "y", "Why is the sky so blue?"),
        asks("Why is the sky so blue?", tools=(Tool("f"),)),
        asks("Why is the sky so blue?", limits=Limits(max_tokens=5)),
        asks("Why is the sky so blue?", principal=Principal(tenant="other")),
        asks("Why is the sky so blue?", labels=frozenset({"restricted"})),
        asks("Why " + "is the sky so blue? " * 60),
    ],
)
def test_other_words_count_only_where_all_else_is_the_same(request_: Request) -> None:
    around = Around(likeness=Words())
    around.answer(asks("Why is the sky blue?"))
    assert around.find(request_) is None


def test_answers_of_targets_that_are_no_more_are_not_given_to_other_words_either() -> None:
    around = Around(likeness=Words())
    around.answer(asks("Why is the sky blue?"))
    assert around.find(asks("Why is the sky so blue?"), replace(PLAN, candidates=PLAN.candidates[1:])) is None


def test_a_meaning_is_asked_for_once_a_request_and_its_lack_is_no_error() -> None:
    words = Words()
    around = Around(likeness=words)
    around.answer(asks("Why is the sky blue?"))
    assert words.asked == ["Why is the sky blue?"]
    blind = Around(likeness=Words(knows=False))
    blind.answer(asks("Why is the sky blue?"))
    assert blind.find(asks("Why is the sky so blue?")) is None
    assert blind.find(asks("Why is the sky blue?")) is not None


class Encoder:
    """A backend that embeds, or fails."""

    def __init__(self, *events: Event, error: HeadraceError | None = None) -> None:
        self.events = events
        self.error = error
        self.requests: list[Request] = []

    async def run(self, request: Request) -> AsyncGenerator[Event, None]:
        self.requests.append(request)
        if self.error is not None:
            raise self.error
        for event in self.events:
            yield event


def test_an_encoder_is_asked_on_behalf_of_the_tenant_and_may_fail() -> None:
    shape = Shape.of(replace(ASKED, principal=Principal(tenant="t", key="k")))
    encoder = Encoder(Started("x", "e", 3), Embedding(0, b"1234", 3), Finished(Usage(3, 0)))
    likeness = EncoderLikeness(encoder, "all-minilm-l6-v2", 0.9)  # type: ignore[arg-type]
    assert asyncio.run(likeness.meaning("Why?", shape)) == b"1234"
    (request,) = encoder.requests
    request.check()
    assert (request.task, request.model, request.principal.tenant) == (Task.EMBED, "all-minilm-l6-v2", "t")
    assert not request.truncates
    failing = EncoderLikeness(Encoder(error=InvalidRequest("input: is too long.")), "e", 0.9)  # type: ignore[arg-type]
    assert asyncio.run(failing.meaning("Why?", shape)) is None


@pytest.mark.parametrize(("threshold", "alike"), [(0.5, [1, 0]), (0.9, [1]), (0.99999, [1]), (-1.0, [1, 0, 2])])
def test_the_cosine_decides(threshold: float, alike: list[int]) -> None:
    vectors = [np.asarray(one, "<f4").tobytes() for one in ([3.0, 2.0], [5.0, 0.0], [-1.0, 0.0], [1.0, 0.0, 0.0])]
    likeness = EncoderLikeness(Encoder(), "e", threshold)  # type: ignore[arg-type]
    assert likeness.alike(np.asarray([2.0, 0.0], "<f4").tobytes(), vectors) == alike


def test_a_real_encoder_puts_the_same_question_together_and_others_apart(minilm_path: Path, tmp_path: Path) -> None:
    texts = ["How do I reset my password?", "How can I reset my password?", "How do I bake bread?"]

    async def main() -> list[bool]:
        async with Engine.open(minilm_path, home=tmp_path) as engine:
            likeness = EncoderLikeness(engine.backend, engine.backend.models()[0].id, 0.9)
            meanings = [await likeness.meaning(text, Shape.of(ASKED)) or b"" for text in texts]
            return [likeness.alike(meanings[0], [one]) == [0] for one in meanings]

    assert asyncio.run(main()) == [True, True, False]
