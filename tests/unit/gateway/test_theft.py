"""What a caller without the scope `logprobs` is told of probabilities, through every protocol and a whole gate; and
that nothing is in the way of who has the scope, or asks for nothing of the kind."""

import json
import math
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from typing import Any

import pytest
from tests.doubles_gateway import ANSWER, USAGE, Bench, HandClock, ScriptedUpstream, Shelf, bench, in_loop, read

from headrace.api import ollama, rerank
from headrace.api.openai import Caller, decode_chat, decode_completion
from headrace.api.peek import CHAT, COMPLETIONS, RESPONSES, BodyKind, peek
from headrace.api.responses import decode_create
from headrace.core.errors import Forbidden, HeadraceError, NotFound, RateLimited, Unavailable
from headrace.core.events import (
    ChoiceFinished,
    Event,
    Finished,
    FinishReason,
    PromptLogprobs,
    Score,
    Started,
    TextDelta,
    TokenLogprob,
)
from headrace.core.gateway import Ask, RawStream
from headrace.core.provenance import LogItem
from headrace.core.request import SCOPES, Input, Principal, Request, Task
from headrace.core.shape import Shape
from headrace.core.trust import Verdict
from headrace.gateway.oversight.theft import TheftOverseer
from headrace.gateway.oversight.theft_watch import TheftWatch
from headrace.trust.monitors.theft.monitor import TheftMonitor
from headrace.trust.monitors.theft.settings import Mode, TheftSettings
from headrace.trust.records.commitment import read_entry

ENFORCED = TheftSettings(mode=Mode.ENFORCE, bias_vectors=8, prompt_bias_vectors=4, sampling_vectors=8)
PLAIN = Principal(tenant="t", key="k", subject="key:k")
FREE = replace(PLAIN, scopes=frozenset({"generate", "logprobs"}))
CHATTING = {"model": "smart", "messages": [{"role": "user", "content": "hi"}]}
COMPLETING = {"model": "smart", "prompt": "hi"}
RESPONDING = {"model": "smart", "input": "hi", "store": False}
LIKELY = [(f"t{index}", f"t{index}".encode(), -0.123456 - index) for index in range(8)]


def token(text: str, logprob: float, num: int = 5) -> TokenLogprob:
    return TokenLogprob(text, text.encode(), logprob, tuple(LIKELY[:num]))


TOLD: tuple[Event, ...] = (
    Started("r", "m", 100),
    TextDelta(0, "t1", 1, (token("t1", LIKELY[1][2]),)),
    TextDelta(0, "rare", 1, (token("rare", -17.654321),)),
    ChoiceFinished(0, FinishReason.STOP),
    Finished(USAGE),
)


class Ledger:
    """A notary that keeps what it was given, or is full."""

    def __init__(self, *, is_full: bool = False) -> None:
        self.items: list[LogItem] = []
        self.is_full = is_full

    def submit(self, item: LogItem) -> None:
        """As `Notary`."""
        if self.is_full:
            raise Unavailable("full")
        self.items.append(item)


class Scene:
    """A gate that is overseen."""

    def __init__(
        self,
        settings: TheftSettings = ENFORCED,
        *events: Event,
        generates: bool = False,
        watch: TheftWatch | None = None,
        cache: Shelf | None = None,
    ) -> None:
        self.verdicts: list[Verdict] = []
        self.ledger = Ledger()
        self.monitor = TheftMonitor(settings, b"secret")
        self.overseer = TheftOverseer(
            self.monitor,
            generates=lambda target: generates,
            notary=self.ledger,
            on_verdict=self.verdicts.append,
            watch=watch,
            clock=HandClock(),
        )
        upstream = ScriptedUpstream(events or TOLD, takes=frozenset({"chat", "completions", "responses"}))
        self.upstream = upstream
        self.at: Bench = bench({"a": upstream}, overseers=(self.overseer,), cache=cache)

    async def ask(self, ask: Ask) -> Any:
        """The whole answer of a request; the gate is quiet afterwards."""
        try:
            reply = await self.at.gate.ask(ask)
            return [piece async for piece in reply.chunks] if isinstance(reply, RawStream) else await read(reply)
        finally:
            assert self.at.is_quiet


Decode = Callable[[bytes, Caller], Request]
PEEKED: dict[str, tuple[BodyKind, dict[str, Any], Decode]] = {
    "chat": (CHAT, CHATTING, lambda data, caller: decode_chat(data, caller).request),
    "completions": (COMPLETIONS, COMPLETING, lambda data, caller: decode_completion(data, caller).request),
    "responses": (RESPONSES, RESPONDING, lambda data, caller: decode_create(data, caller).request),
}


def asking(dialect: str, principal: Principal = PLAIN, **more: Any) -> Ask:
    """A body as a server hands it on."""
    kind, body, decode = PEEKED[dialect]
    data = json.dumps(body | {"stream": True} | more).encode()
    caller = Caller(request_id="r", principal=principal)
    peeked = peek(kind, data, caller)
    return Ask(shape=peeked.shape, decode=lambda: decode(data, caller), raw=peeked.raw)


def neutral(request: Request) -> Ask:
    return Ask(shape=Shape.of(request), decode=lambda: request)


def ollama_chat(principal: Principal, **more: Any) -> Ask:
    data = json.dumps({"model": "smart", "messages": CHATTING["messages"]} | more).encode()
    call = ollama.decode_chat(data, Caller(request_id="r", principal=principal))
    assert isinstance(call, ollama.OllamaCall)
    return neutral(call.request)


BEYOND = [
    ("chat", {"logprobs": True, "logit_bias": {"5": 100}}, "logprobs"),
    ("chat", {"logprobs": True, "top_logprobs": 6}, "top_logprobs"),
    ("chat", {"prompt_logprobs": 0, "stream": False}, "prompt_logprobs"),
    ("chat", {"logprobs": True, "n": 5}, "n"),
    ("chat", {"logprobs": True, "allowed_token_ids": [7]}, "logprobs"),
    ("chat", {"n_probs": 50}, "n_probs"),
    ("chat", {"return_hidden_states": True}, "return_hidden_states"),
    ("completions", {"logprobs": 0, "logit_bias": {"5": 100}}, "logprobs"),
    ("completions", {"logprobs": 6}, "top_logprobs"),
    ("completions", {"logprobs": 1, "echo": True}, "prompt_logprobs"),
    ("completions", {"logprobs": 1, "n": 128, "temperature": 100}, "n"),
    ("completions", {"logprobs": 1, "best_of": 128, "stream": False}, "n"),
    ("responses", {"include": ["message.output_text.logprobs"], "top_logprobs": 20}, "top_logprobs"),
]


@pytest.mark.parametrize(("dialect", "more", "param"), BEYOND)
@in_loop
async def test_what_is_beyond_the_surface_is_refused_with_field_and_remedy_and_nobody_is_asked(
    dialect: str, more: dict[str, Any], param: str
) -> None:
    scene = Scene()
    with pytest.raises(Forbidden, match="scope 'logprobs'") as caught:
        await scene.ask(asking(dialect, **more))
    assert caught.value.param == param
    assert caught.value.message.startswith(param)
    assert not scene.upstream.requests
    assert not scene.upstream.relayed
    assert [(one.monitor, one.action, one.is_shadow) for one in scene.verdicts] == [("theft.surface", "refuse", False)]


@pytest.mark.parametrize(("dialect", "more", "param"), BEYOND)
@in_loop
async def test_who_has_the_scope_is_told_all_of_it_unread(dialect: str, more: dict[str, Any], param: str) -> None:
    scene = Scene()
    await scene.ask(asking(dialect, FREE, **more))
    assert len(scene.upstream.relayed) == 1
    assert not scene.verdicts


@pytest.mark.parametrize(("dialect", "more", "param"), BEYOND)
@in_loop
async def test_in_shadow_mode_it_is_told_too_and_the_verdict_says_what_would_have_been(
    dialect: str, more: dict[str, Any], param: str
) -> None:
    scene = Scene(TheftSettings())
    await scene.ask(asking(dialect, **more))
    assert len(scene.upstream.relayed) == 1
    assert [(one.action, one.is_shadow) for one in scene.verdicts] == [("refuse", True)]


@in_loop
async def test_the_key_of_a_server_without_keys_has_every_scope() -> None:
    scene = Scene()
    await scene.ask(asking("chat", Principal(scopes=frozenset(SCOPES)), logprobs=True, logit_bias={"5": 100}))
    assert len(scene.upstream.relayed) == 1


@pytest.mark.parametrize("asked", [0, 1, 5])
@pytest.mark.parametrize("dialect", ["chat", "completions", "ollama", "responses"])
@in_loop
async def test_log_probabilities_are_rounded_and_only_told_of_the_likeliest(dialect: str, asked: int) -> None:
    scene = Scene()
    fields: dict[str, dict[str, Any]] = {
        "chat": {"logprobs": True, "top_logprobs": asked},
        "completions": {"logprobs": asked},
        "responses": {"include": ["message.output_text.logprobs"], "top_logprobs": asked},
    }
    if dialect == "ollama":
        events = await scene.ask(ollama_chat(PLAIN, logprobs=True, top_logprobs=asked))
    else:
        events = await scene.ask(asking(dialect, **fields[dialect]))
    assert not scene.upstream.relayed
    assert scene.upstream.requests[0].logprobs == 5  # so that it is known whether a token is among them
    told = [one for event in events if isinstance(event, TextDelta) for one in event.logprobs]
    assert [one.logprob for one in told] == [-1.12, -math.inf]
    assert [len(one.alternatives) for one in told] == [asked, asked]
    assert [value for _, _, value in told[0].alternatives] == [-0.12, -1.12, -2.12, -3.12, -4.12][:asked]


@in_loop
async def test_what_asks_for_no_probabilities_passes_as_the_bytes_it_came_in() -> None:
    scene = Scene(ENFORCED, *ANSWER)
    nothing: dict[str, Any]
    for nothing in ({}, {"logprobs": False}, {"logit_bias": {}}, {"top_p": 0.9}, {"logit_bias": {"5": -100}}):
        await scene.ask(asking("chat", **nothing))
    assert len(scene.upstream.relayed) == 5
    assert not scene.upstream.requests
    assert not scene.verdicts


@in_loop
async def test_an_answer_that_was_kept_for_who_has_the_scope_is_narrowed_for_who_has_not() -> None:
    scene = Scene(ENFORCED, cache=Shelf(TOLD))
    events = await scene.ask(asking("chat", logprobs=True, top_logprobs=3))
    assert not scene.upstream.requests
    told = [one for event in events if isinstance(event, TextDelta) for one in event.logprobs]
    assert [(one.logprob, len(one.alternatives)) for one in told] == [(-1.12, 3), (-math.inf, 3)]


@in_loop
async def test_a_field_spelt_with_escapes_is_the_same_field() -> None:
    scene = Scene()
    body = b'{"model":"smart","messages":[{"role":"user","content":"hi"}],'
    data = body + b'"\\u006cogprobs":true,"logit_b\\u0069as":{"5":9}}'
    caller = Caller(request_id="r", principal=PLAIN)
    peeked = peek(CHAT, data, caller)
    with pytest.raises(Forbidden):
        await scene.ask(Ask(shape=peeked.shape, decode=lambda: decode_chat(data, caller).request, raw=peeked.raw))
    body = b'{"model":"smart","input":"hi","store":false,"top_logprobs":9,'
    data = body + b'"include":["message.output_text.logpro\\u0062s"]}'
    peeked = peek(RESPONSES, data, caller)
    with pytest.raises(Forbidden):
        await scene.ask(Ask(shape=peeked.shape, decode=lambda: decode_create(data, caller).request, raw=peeked.raw))


@in_loop
async def test_an_echo_of_token_ids_is_no_question_for_probabilities() -> None:
    prompt = PromptLogprobs((None, token("x", -3.21)), text="ax")
    scene = Scene(ENFORCED, Started("r", "m", 2), prompt, *ANSWER[1:])
    events = await scene.ask(replace(asking("completions", prompt=[1, 2], echo=True), raw=None))
    (echoed,) = (event for event in events if isinstance(event, PromptLogprobs))
    assert echoed.text == "ax"
    with pytest.raises(Forbidden):
        await scene.ask(replace(asking("completions", prompt=[1, 2], echo=True, logprobs=0), raw=None))


def scoring(principal: Principal, *, logprobs: bool = False, route: str = "score") -> Ask:
    body: dict[str, Any] = {"model": "smart", "text_1": "a", "text_2": ["b", "c"], "logprobs": logprobs}
    caller = Caller(request_id="r", principal=principal)
    if route == "score":
        return neutral(rerank.decode_score(json.dumps(body).encode(), caller).request)
    body = {"model": "smart", "query": "a", "documents": ["b", "c"]}
    return neutral(rerank.decode_rerank(json.dumps(body).encode(), caller).request)


PAIRS: tuple[Event, ...] = (Started("r", "m", 4), Score(0, 0.7, 2), Score(1, 0.1, 2), Finished(USAGE))
LIKELIHOODS: tuple[Event, ...] = (
    Started("r", "m", 4),
    Score(0, -3.2, 2, (token("b", -3.2),), is_greedy=False),
    Finished(USAGE),
)


@pytest.mark.parametrize("route", ["score", "rerank"])
@in_loop
async def test_a_model_that_judges_pairs_scores_for_everybody_and_one_that_generates_for_the_scope(route: str) -> None:
    assert await Scene(ENFORCED, *PAIRS).ask(scoring(PLAIN, route=route)) == list(PAIRS)
    generating = Scene(ENFORCED, *LIKELIHOODS, generates=True)
    with pytest.raises(Forbidden, match="likelihoods of given texts"):
        await generating.ask(scoring(PLAIN, route=route))
    assert not generating.upstream.requests
    assert await generating.ask(scoring(FREE, route=route)) == list(LIKELIHOODS)
    # What nobody knew of a backend shows in what it says.
    with pytest.raises(Forbidden, match="likelihoods of given texts"):
        await Scene(ENFORCED, *LIKELIHOODS).ask(scoring(PLAIN, route=route))


@in_loop
async def test_log_probabilities_of_scored_texts_need_the_scope() -> None:
    scene = Scene(ENFORCED, *LIKELIHOODS)
    with pytest.raises(Forbidden) as caught:
        await scene.ask(scoring(PLAIN, logprobs=True))
    assert caught.value.param == "logprobs"


@in_loop
async def test_hidden_states_of_a_model_that_generates_need_the_scope() -> None:
    def embedding(principal: Principal) -> Ask:
        return neutral(Request(id="r", model="smart", task=Task.EMBED, inputs=(Input("a"),), principal=principal))

    events = (Started("r", "m", 4), Finished(USAGE))
    scene = Scene(ENFORCED, *events, generates=True)
    with pytest.raises(Forbidden, match="hidden states") as caught:
        await scene.ask(embedding(PLAIN))
    assert caught.value.param == "model"
    assert await scene.ask(embedding(FREE)) == list(events)
    assert await Scene(ENFORCED, *events).ask(embedding(PLAIN)) == list(events)
    shadow = Scene(TheftSettings(), *events, generates=True)
    assert await shadow.ask(embedding(PLAIN)) == list(events)
    assert [one.is_shadow for one in shadow.verdicts] == [True]


@in_loop
async def test_a_body_that_only_its_backend_understands_passes_unless_it_is_told_probabilities() -> None:
    scene = Scene(ENFORCED, *ANSWER)
    strange = {"a_field_of_the_backend": 1}
    await scene.ask(asking("chat", **strange))
    await scene.ask(asking("chat", allowed_token_ids=[1], **strange))
    assert len(scene.upstream.relayed) == 2
    with pytest.raises(HeadraceError):
        await scene.ask(asking("chat", logprobs=True, **strange))
    assert len(scene.upstream.relayed) == 2


@in_loop
async def test_a_bias_that_is_swept_is_stopped_flagged_and_logged_and_earlier_ones_go_on() -> None:
    scene = Scene(replace(ENFORCED, prompt_bias_vectors=1000), *ANSWER)
    for index in range(8):
        await scene.ask(asking("chat", temperature=0, logit_bias={str(index): 50}))
    assert not scene.verdicts
    for _ in range(2):
        with pytest.raises(RateLimited) as caught:
            await scene.ask(asking("chat", temperature=0, logit_bias={"8": 50}))
    assert 0 < (caught.value.retry_after_s or 0) <= 86_400
    assert "8" not in caught.value.message  # no threshold is told
    await scene.ask(asking("chat", temperature=0, logit_bias={"3": 50}))
    await scene.ask(asking("chat"))
    (flag,) = scene.monitor.flags()
    assert (flag.account, flag.monitor, flag.action) == ("t/key:k", "theft.bias", "throttle")
    (item,) = scene.ledger.items
    assert (item.kind, item.id, item.tenant) == ("evidence", flag.evidence_id, "t")
    entry = read_entry(item.entry)
    assert (entry.kind, entry.digest) == ("evidence", sha256(item.envelope).digest())
    assert json.loads(item.envelope)["account"] == "t/key:k"


@in_loop
async def test_biases_that_were_refused_with_log_probabilities_count_as_tried() -> None:
    scene = Scene(replace(ENFORCED, prompt_bias_vectors=1000), *ANSWER)
    for index in range(20):
        with pytest.raises((Forbidden, RateLimited)):
            await scene.ask(asking("chat", logprobs=True, logit_bias={str(index): 50}))
    assert {flag.monitor for flag in scene.monitor.flags()} == {"theft.bias"}
    with pytest.raises(RateLimited):
        await scene.ask(asking("chat", logit_bias={"500": 50}))


@in_loop
async def test_the_same_bias_again_is_no_new_one_however_it_is_written() -> None:
    scene = Scene(ENFORCED, *ANSWER)
    for index in range(50):
        bias = {"5": 1, "6": -2.0} if index % 2 else {"6": -2, "5": 1.0}
        await scene.ask(asking("chat", logit_bias=bias))
    assert not scene.verdicts


@in_loop
async def test_who_has_the_scope_may_sweep_and_it_is_noted() -> None:
    scene = Scene(ENFORCED, *ANSWER)
    for index in range(40):
        await scene.ask(asking("chat", FREE, logprobs=True, logit_bias={str(index): 50}))
    assert {one.action for one in scene.verdicts} == {"note"}
    # and is no reason to stop another of its tenant
    await scene.ask(asking("chat", replace(PLAIN, key="other", subject="key:other"), logit_bias={"999": 50}))


@in_loop
async def test_many_accounts_together_get_no_more_biases_over_one_input_than_one() -> None:
    scene = Scene(ENFORCED, *ANSWER)
    num_answered = 0
    for index in range(50):
        one = Principal(tenant=f"t{index}", key="k", subject="key:k")
        # Blanks around it are no other input: templates drop them.
        messages = [{"role": "user", "content": "The number is" + " " * (index % 3)}]
        try:
            await scene.ask(asking("chat", one, temperature=0, logit_bias={str(index): 50}, messages=messages))
            num_answered += 1
        except RateLimited:
            pass
    assert num_answered == ENFORCED.prompt_bias_vectors
    assert len({flag.tenant for flag in scene.monitor.flags()}) == 50 - num_answered


@pytest.mark.parametrize("name", ["min_p", "typical_p", "top_p"])
@in_loop
async def test_bisecting_by_a_cut_is_counted_too(name: str) -> None:
    scene = Scene(ENFORCED, *ANSWER)
    with pytest.raises(RateLimited):
        for step in range(1, 100):
            await scene.ask(asking("chat", **{name: step / 100}))
    assert [flag.monitor for flag in scene.monitor.flags()] == ["theft.sampling"]


@in_loop
async def test_evidence_that_cannot_be_logged_is_told_to_the_operator_and_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    scene = Scene(ENFORCED, *ANSWER)
    scene.ledger.is_full = True
    for index in range(20):
        try:
            await scene.ask(asking("chat", logit_bias={str(index): 50}))
        except RateLimited:
            continue
    assert "could not be logged" in caplog.text
    assert scene.monitor.flags()[0].evidence_id == ""


@in_loop
async def test_a_cleared_account_begins_anew() -> None:
    scene = Scene(replace(ENFORCED, prompt_bias_vectors=1000), *ANSWER)
    with pytest.raises(RateLimited):
        for index in range(20):
            await scene.ask(asking("chat", logit_bias={str(index): 50}))
    (evidence,) = scene.ledger.items
    assert [flag.account for flag in scene.overseer.clear("t/key:k", "key:root")] == ["t/key:k"]
    assert scene.overseer.flags() == ()
    cleared = scene.ledger.items[-1]
    assert cleared.id != evidence.id
    assert b"cleared by key:root" in cleared.envelope
    with pytest.raises(NotFound, match="nothing is held against 't/key:k'"):
        scene.overseer.clear("t/key:k", "key:root")
    await scene.ask(asking("chat", logit_bias={"700": 50}))
