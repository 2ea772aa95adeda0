"""Scores and reranking in the shapes that clients of vLLM, Jina and Cohere read; who may, who left, what is counted."""

import asyncio
import json
import logging
from typing import Any

import pytest
from tests.adversarial.test_slow_clients import SippingClient
from tests.doubles_http import Client, HandClock, HandTimers, Pause, Reply, make_app, run
from tests.doubles_inputs import InputsBackend
from tests.unit.server.test_keys import entry

from headrace.core.errors import Unavailable
from headrace.core.events import Embedding, Event, Finished, Started, Usage
from headrace.core.request import Request
from headrace.observe.logs import ACCESS_LOGGER
from headrace.server.app import App
from headrace.server.config import ServerConfig
from headrace.server.keys import KeyRing

EMBEDDINGS, RERANKING, SCORING = "/v1/embeddings", "/v1/rerank", "/v1/score"
RERANK = {"model": "judge", "query": "red big cat", "documents": ["blue dog", "big cat", "red dog", {"text": "cat"}]}
SCORE = {"model": "judge"}
EMBED = {"model": "mini", "input": ["a", "b c"]}


def ask(app: App, path: str, body: Any, headers: dict[str, str] | None = None) -> Reply:
    client = Client(app, "POST", path, json.dumps(body).encode(), headers)

    async def main() -> None:
        await client.run()

    run(main())
    return client.reply


def post(path: str, body: Any, backend: InputsBackend | None = None) -> Reply:
    return ask(make_app(backend or InputsBackend()), path, body)


@pytest.mark.parametrize("path", ["/v1/rerank", "/v2/rerank", "/rerank"])
def test_documents_come_back_best_first_and_equals_in_their_order(path: str) -> None:
    reply = post(path, RERANK)
    assert reply.status == 200
    answer = reply.json()
    assert answer["id"].startswith("rerank-")
    assert answer["model"] == "judge"
    assert answer["usage"] == {"prompt_tokens": 19, "total_tokens": 19}
    assert answer["results"] == [
        {"index": 1, "document": {"text": "big cat"}, "relevance_score": 1.0},
        {"index": 3, "document": {"text": "cat"}, "relevance_score": 1.0},
        {"index": 2, "document": {"text": "red dog"}, "relevance_score": 0.5},
        {"index": 0, "document": {"text": "blue dog"}, "relevance_score": 0.0},
    ]


def test_only_the_best_are_told_and_without_their_texts_if_asked() -> None:
    answer = post("/v1/rerank", RERANK | {"top_n": 2, "return_documents": False}).json()
    assert answer["results"] == [{"index": 1, "relevance_score": 1.0}, {"index": 3, "relevance_score": 1.0}]
    for top_n in (0, 9, None):
        assert len(post("/v1/rerank", RERANK | {"top_n": top_n}).json()["results"]) == 4


@pytest.mark.parametrize(
    ("text_1", "text_2", "scores"),
    [
        ("red cat", "red", [1.0]),
        ("red cat", ["red", "blue dog", "red dog"], [1.0, 0.0, 0.5]),
        (["red cat"], ["red", "blue"], [1.0, 0.0]),
        (["red", "blue"], ["blue", "blue"], [0.0, 1.0]),
    ],
)
def test_texts_are_paired_one_with_many_or_entry_by_entry(text_1: Any, text_2: Any, scores: list[float]) -> None:
    for path in ("/v1/score", "/score"):
        answer = post(path, SCORE | {"text_1": text_1, "text_2": text_2}).json()
        assert answer["id"].startswith("score-")
        assert (answer["object"], answer["model"], answer["created"]) == ("list", "judge", 1_700_000_100)
        assert answer["data"] == [
            {"index": index, "object": "score", "score": score} for index, score in enumerate(scores)
        ]
        assert answer["usage"]["prompt_tokens"] == answer["usage"]["total_tokens"] > 0


def test_a_model_that_generates_scores_continuations_and_tells_their_tokens_if_asked() -> None:
    backend = InputsBackend()
    body = {"model": "tiny", "text_1": "the sky is", "text_2": ["blue", "not green"]}
    plain, told = post("/v1/score", body).json(), post("/v1/score", body | {"logprobs": True}, backend).json()
    assert [entry["score"] for entry in plain["data"]] == [-4.0, -8.0]
    assert set(plain["data"][0]) == {"index", "object", "score"}
    assert [entry["is_greedy"] for entry in told["data"]] == [True, False]
    assert told["data"][1]["logprobs"] == [
        {"token": "not", "logprob": -3.0, "bytes": [110, 111, 116]},
        {"token": "green", "logprob": -5.0, "bytes": [103, 114, 101, 101, 110]},
    ]
    (request,) = backend.requests
    assert (request.logprobs, request.prompt_logprobs) == (0, None)


@pytest.mark.parametrize(
    ("path", "body", "code", "param", "says"),
    [
        ("/v1/rerank", RERANK | {"model": "mini"}, "unsupported_task", "model", "score pairs of texts: judge, tiny."),
        ("/v1/rerank", RERANK | {"model": "nobody"}, "model_not_found", "model", "nobody"),
        ("/v1/rerank", RERANK | {"query": ""}, "invalid_value", "query", "is empty"),
        ("/v1/rerank", RERANK | {"documents": []}, "invalid_value", "documents", "is empty"),
        ("/v1/rerank", RERANK | {"documents": ["a"] * 2049}, "invalid_value", "documents", "2049 given; at most 2048"),
        ("/v1/rerank", RERANK | {"documents": ["a", "b " * 99]}, "context_length_exceeded", "documents", "ts[1]: 102"),
        ("/v1/rerank", RERANK | {"documents": "a"}, "invalid_type", "documents", "a list is needed"),
        ("/v1/rerank", RERANK | {"documents": [{"txt": "a"}]}, "unknown_parameter", "documents[0].txt", "mean text?"),
        ("/v1/rerank", RERANK | {"documents": [{}]}, "missing_required_parameter", "documents[0].text", "is missing"),
        ("/v1/rerank", RERANK | {"documents": [["a"]]}, "invalid_type", "documents[0]", "an object"),
        ("/v1/rerank", RERANK | {"top_n": -1}, "invalid_value", "top_n", "-1 is below 0"),
        ("/v1/rerank", RERANK | {"top_n": 10**30}, "invalid_value", "top_n", "64 bits"),
        ("/v1/rerank", RERANK | {"rank_fields": ["a"]}, "unsupported_parameter", "rank_fields", "leave it out"),
        ("/v1/rerank", RERANK | {"max_tokens_per_doc": 9}, "unsupported_parameter", "max_tokens_per_doc", "9"),
        ("/v1/rerank", RERANK | {"querry": "a"}, "unknown_parameter", "querry", "did you mean query?"),
        ("/v1/score", SCORE | {"text_1": "a", "text_2": []}, "invalid_value", "text_2", "is empty"),
        ("/v1/score", SCORE | {"text_1": [], "text_2": "a"}, "invalid_value", "text_1", "is empty"),
        ("/v1/score", SCORE | {"text_1": "", "text_2": ""}, "invalid_value", "text_2", "text_2[0]: is empty"),
        ("/v1/score", SCORE | {"text_1": ["a", "b"], "text_2": "a"}, "invalid_value", "text_1", "2 texts given"),
        ("/v1/score", SCORE | {"text_1": [1], "text_2": "a"}, "invalid_type", "text_1[0]", "1 given"),
        ("/v1/score", SCORE | {"text_1": "a"}, "missing_required_parameter", "text_2", "required"),
        ("/v1/score", SCORE | {"model": "", "text_1": "a", "text_2": "a"}, "invalid_value", "model", "not be empty"),
    ],
)  # fmt: skip
def test_refusals_name_the_field_in_the_words_of_the_body(
    path: str, body: Any, code: str, param: str, says: str
) -> None:
    reply = post(path, body)
    error = reply.json()["error"]
    assert (error["code"], error["param"]) == (code, param)
    assert says in error["message"]
    assert reply.status == (404 if code == "model_not_found" else 400)


@pytest.mark.parametrize("param", ["input", "inputs"])
def test_whatever_a_backend_calls_them_refusals_speak_of_documents(param: str) -> None:
    backend = InputsBackend()
    backend.param = param
    error = post(RERANKING, RERANK | {"documents": ["a", "b " * 99]}, backend).error()
    assert (error["param"], error["message"]) == ("documents", "documents[1]: 102 tokens; at most 32 fit.")


def test_a_client_that_leaves_cancels_the_work() -> None:
    async def main() -> None:
        for path, body in ((EMBEDDINGS, EMBED), (RERANKING, RERANK)):
            pause = Pause()
            backend = InputsBackend(pause)
            client = Client(make_app(backend), "POST", path, json.dumps(body).encode())
            task = client.start()
            await pause.reached.wait()
            client.leave()
            reply = await task
            assert (backend.num_open, backend.num_closed, reply.status) == (0, 1, 0)

    run(main())


MANY = {"model": "mini", "input": [f"text {number}" for number in range(2048)]}


async def take(client: SippingClient, num_writes: int) -> None:
    """Let the client have the status and that many pieces."""
    for number in range(num_writes + 1):
        await client.waiting.wait()
        client.waiting.clear()
        client.sips.release()
        await client.until(lambda reply, n=number: len(reply.writes) == n and reply.status == 200)
    await client.waiting.wait()


def test_a_client_that_leaves_a_long_answer_gets_no_more_of_it() -> None:
    async def main() -> None:
        client = SippingClient(make_app(InputsBackend()), json.dumps(MANY).encode(), EMBEDDINGS)
        task = client.start()
        await take(client, 2)
        client.leave()
        for _ in range(100):
            client.sips.release()
        reply = await task
        assert not reply.is_complete
        assert len(reply.writes) < 5

    run(main())


def test_a_client_that_stops_in_the_middle_of_an_answer_is_let_go() -> None:
    async def main() -> None:
        clock, timers = HandClock(), HandTimers()
        app = make_app(InputsBackend(), ServerConfig(write_timeout_s=60), clock=clock, timers=timers)
        client = SippingClient(app, json.dumps(MANY).encode(), EMBEDDINGS)
        task = client.start()
        await take(client, 2)
        clock.now_s += 60
        timers.fire()
        reply = await task
        assert not reply.is_complete
        assert not app.lifecycle.running

    run(main())


def test_an_answer_that_is_short_says_its_length_and_a_long_one_comes_in_pieces() -> None:
    short = ask(make_app(InputsBackend()), EMBEDDINGS, EMBED)
    assert int(short.headers["content-length"]) == len(short.body)
    assert len(short.writes) == 1
    long = ask(make_app(InputsBackend()), EMBEDDINGS, {"model": "mini", "input": [f"t {n}" for n in range(2048)]})
    assert "content-length" not in long.headers
    assert all(len(piece) < 40_000 for piece in long.writes)
    assert [entry["index"] for entry in long.json()["data"]] == list(range(2048))


def test_others_get_their_turn_between_the_pieces_of_a_long_answer() -> None:
    async def main() -> None:
        client = Client(make_app(InputsBackend()), "POST", EMBEDDINGS, json.dumps(MANY).encode())
        task = client.start()
        seen = set()
        while not task.done():
            seen.add(len(client.reply.writes))
            await asyncio.sleep(0)
        assert seen >= set(range(len(client.reply.writes)))

    run(main())


def test_keys_need_the_scope_to_generate() -> None:
    ring = KeyRing(lambda: [entry("hr_user", "acme", "generate"), entry("hr_root", "ops", "admin", "metrics")])
    backend = InputsBackend()
    app = make_app(backend, keys=ring)
    for path, body in ((EMBEDDINGS, EMBED), (RERANKING, RERANK), (SCORING, {})):
        assert ask(app, path, body).status == 401
        assert ask(app, path, body, {"authorization": "Bearer hr_root"}).status == 403
    assert backend.requests == []
    hints = {"x-headrace-session": "s", "x-headrace-parent": "p", "x-headrace-timeout": "5"}
    body = EMBED | {"cache_salt": "salt", "priority": 3}
    assert ask(app, EMBEDDINGS, body, hints | {"authorization": "Bearer hr_user"}).status == 200
    (request,) = backend.requests
    assert (request.session, request.parent, request.limits.deadline_s) == ("s", "p", 5.0)
    assert (request.principal.tenant, request.principal.priority, request.cache.salt) == ("acme", -3, "salt")


def test_what_this_route_cannot_explain_is_refused() -> None:
    reply = ask(make_app(InputsBackend()), EMBEDDINGS, EMBED, {"x-headrace-explain": "cache"})
    assert (reply.status, reply.error()["param"]) == (400, "x-headrace-explain")


def test_an_exchange_is_logged_and_counted_under_its_route(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(InputsBackend())
    with caplog.at_level(logging.INFO, ACCESS_LOGGER):
        assert ask(app, EMBEDDINGS, EMBED | {"model": "mini-alias"}).status == 200
    (record,) = caplog.records
    fields = record.headrace_fields  # type: ignore[attr-defined]
    assert (fields["route"], fields["model"], fields["prompt_tokens"], fields["outcome"]) == (
        EMBEDDINGS,
        "mini",
        3,
        "ok",
    )
    assert fields["ttft_s"] == 0.0
    client = Client(app, "GET", "/metrics")

    async def main() -> None:
        await client.run()

    run(main())
    assert b'headrace:http_requests_total{method="POST",route="/v1/embeddings",status="200"} 1.0' in client.reply.body


def test_a_server_that_stops_takes_no_more_and_ends_what_runs_too_long() -> None:
    async def main() -> None:
        pause = Pause()
        backend = InputsBackend(pause)
        app = make_app(backend)
        client = Client(app, "POST", EMBEDDINGS, json.dumps(EMBED).encode())
        task = client.start()
        await pause.reached.wait()
        app.lifecycle.start_draining()
        late = await Client(app, "POST", EMBEDDINGS, json.dumps(EMBED).encode()).run()
        assert (late.status, late.error()["code"]) == (503, "unavailable")
        app.lifecycle.fail_running()
        reply = await task
        assert (reply.status, reply.error()["code"]) == (503, Unavailable.code)
        assert (backend.num_open, len(backend.requests)) == (0, 1)

    run(main())


BEGUN = Started("id", "mini", 3)
GOOD = [Embedding(0, bytes(8), 1), Embedding(1, bytes(8), 2)]
END = Finished(Usage(3, 0))


@pytest.mark.parametrize(
    "events",
    [
        [*GOOD, END],
        [BEGUN, BEGUN, *GOOD, END],
        [BEGUN, GOOD[0], END],
        [BEGUN, GOOD[0], GOOD[0], END],
        [BEGUN, GOOD[0], Embedding(2, bytes(8), 1), END],
        [BEGUN, GOOD[0], Embedding(-1, bytes(8), 1), END],
        [BEGUN, GOOD[0], Embedding(1, bytes(7), 1), END],
        [BEGUN, GOOD[0], Embedding(1, b"\0\0\xc0\x7f", 1), END],
        [BEGUN, *GOOD],
    ],
)
def test_a_backend_that_breaks_the_order_gets_an_error_and_no_half_answer(events: list[Event]) -> None:
    reply = ask(make_app(Broken(events)), EMBEDDINGS, EMBED)
    assert (reply.status, reply.error()["code"]) == (500, "engine_fault")


class Broken(InputsBackend):
    """Says what it was told to say."""

    def __init__(self, events: list[Event]) -> None:
        super().__init__()
        self._events = events

    def _answer(self, request: Request) -> list[Event]:
        return self._events
