"""Routes, methods, hosts, ids and the shapes of whole answers."""

import asyncio
import logging

import pytest
from tests.doubles_http import Client, Pause, Reply, ScriptedBackend, answer, chat, make_app, run, started

from headrace.core.errors import DeadlineExceeded, Overloaded
from headrace.core.ledger import PriceList, Prices
from headrace.observe.logs import ACCESS_LOGGER
from headrace.observe.metrics import Metrics
from headrace.server.app import build_app
from headrace.server.config import ServerConfig

CHAT = "/v1/chat/completions"


def ask(
    app: object, method: str, path: str, body: bytes | list[bytes] = b"", headers: dict[str, str] | None = None
) -> Reply:
    client = Client(app, method, path, body, headers)
    run(_finish(client))
    return client.reply


async def _finish(client: Client) -> None:
    await client.run()


def test_a_chat_answer_has_openais_shape() -> None:
    reply = ask(make_app(ScriptedBackend(answer("Par", "is"))), "POST", CHAT, chat())
    assert reply.status == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "id": "chatcmpl-0001",
        "object": "chat.completion",
        "created": 1_700_000_100,
        "model": "tiny",
        "system_fingerprint": "fp_0123456789ab",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": "Paris", "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": {
            "prompt_tokens": 7,
            "completion_tokens": 2,
            "total_tokens": 9,
            "prompt_cache_hit_tokens": 4,
            "prompt_cache_miss_tokens": 3,
            "prompt_tokens_details": {"cached_tokens": 4, "audio_tokens": 0, "cache_write_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0,
                "audio_tokens": 0,
                "accepted_prediction_tokens": 0,
                "rejected_prediction_tokens": 0,
            },
        },
    }


def test_an_answer_tells_its_cost_if_its_model_has_a_price() -> None:
    config = ServerConfig(prices=PriceList({"tiny": Prices(input=1, output=2, cache_read=0.5)}))
    for model in ("tiny", "tiny-alias"):
        reply = ask(make_app(ScriptedBackend(answer("Par", "is")), config), "POST", CHAT, chat(model=model))
        assert reply.json()["usage"]["cost"] == pytest.approx((3 * 1 + 4 * 0.5 + 2 * 2) / 1e6)


def test_events_that_come_together_are_written_together() -> None:
    reply = ask(make_app(ScriptedBackend(answer("a", "b", "c"))), "POST", CHAT, chat(stream=True))
    assert len(reply.writes) == 1
    assert reply.headers["content-type"] == "text/event-stream; charset=utf-8"
    assert [frame["choices"][0]["delta"].get("content") for frame in reply.frames()[:-1]] == ["", "a", "b", "c", None]
    assert reply.frames()[-1] == "[DONE]"


def test_the_request_that_reaches_the_backend_carries_tenant_deadline_and_the_answers_id() -> None:
    backend = ScriptedBackend(answer("x"))
    reply = ask(make_app(backend, ServerConfig(request_timeout_s=12.5)), "POST", CHAT, chat(user="u1"))
    (request,) = backend.requests
    assert request.id == reply.json()["id"]
    assert (request.principal.tenant, request.principal.user) == ("local", "u1")
    assert request.limits.deadline_s == 12.5


@pytest.mark.parametrize(
    ("method", "path", "status", "code"),
    [
        ("GET", "/nowhere", 404, "not_found"),
        ("GET", "/v1/models/other", 404, "model_not_found"),
        ("GET", "/v1/models/", 404, "not_found"),
        ("GET", CHAT, 405, "method_not_allowed"),
        ("POST", "/health", 405, "method_not_allowed"),
        ("POST", "/v1/audio/speech", 404, "not_found"),
    ],
)
def test_what_is_no_route_is_refused_in_openais_shape(method: str, path: str, status: int, code: str) -> None:
    reply = ask(make_app(ScriptedBackend(answer())), method, path)
    assert reply.status == status
    assert reply.error()["code"] == code
    assert set(reply.error()) == {"message", "type", "param", "code"}


def test_a_wrong_method_is_told_the_right_one() -> None:
    assert ask(make_app(ScriptedBackend(answer())), "GET", CHAT).headers["allow"] == "POST"
    assert ask(make_app(ScriptedBackend(answer())), "DELETE", "/ready").headers["allow"] == "GET, HEAD"


@pytest.mark.parametrize("path", ["/health", "/ready", "/version", "/metrics", "/v1/models", "/v1/models/tiny-alias"])
def test_every_plain_route_answers(path: str) -> None:
    app = make_app(ScriptedBackend(answer()))
    assert ask(app, "GET", path).status == 200
    assert ask(app, "HEAD", path).status == 200


def test_models_are_listed_and_found_by_alias() -> None:
    app = make_app(ScriptedBackend(answer()))
    (entry,) = ask(app, "GET", "/v1/models").json()["data"]
    assert (entry["id"], entry["object"], entry["owned_by"]) == ("tiny", "model", "tests")
    assert ask(app, "GET", "/v1/models/tiny-alias").json() == entry


def test_ready_says_no_before_the_start_and_while_draining_and_health_says_yes_always() -> None:
    app = make_app(ScriptedBackend(answer()))
    app.lifecycle.start_draining()
    for method, path, body in [("GET", "/ready", b""), ("POST", CHAT, chat())]:
        reply = ask(app, method, path, body)
        assert (reply.status, reply.error()["code"]) == (503, "unavailable")
        assert reply.headers["connection"] == "close"
        assert reply.headers["retry-after"] == "1"
    assert ask(app, "GET", "/health").status == 200


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"host": "localhost"}, 200),
        ({"host": "127.0.0.1:8000"}, 200),
        ({"host": "[::1]:8000"}, 200),
        ({"host": "app.localhost:1"}, 200),
        ({"host": "box.lan"}, 200),
        ({"host": "evil.example"}, 403),
        ({"host": "localhost.evil.example"}, 403),
        ({"host": "127.0.0.1.evil.example"}, 403),
        ({"host": ""}, 403),
        ({"host": "["}, 403),
        ({"origin": "https://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"origin": "http://localhost:3000"}, 200),
    ],
)
def test_without_keys_only_names_of_this_machine_are_answered(headers: dict[str, str], status: int) -> None:
    app = make_app(ScriptedBackend(answer("x")), ServerConfig(allowed_hosts=("box.lan",)))
    assert ask(app, "POST", CHAT, chat(), headers).status == status


def test_a_request_id_is_taken_from_the_client_only_when_it_is_harmless() -> None:
    app = make_app(ScriptedBackend(answer()))
    for given in ("abc-123", "a" * 128):
        assert ask(app, "GET", "/health", headers={"x-request-id": given}).headers["x-request-id"] == given
    for given in ("", "a b", "a\nb", "é", "a" * 129):
        assert ask(app, "GET", "/health", headers={"x-request-id": given}).headers["x-request-id"].startswith("req_")


def test_errors_of_the_backend_have_their_own_status_even_when_a_stream_was_asked_for() -> None:
    def script(request: object) -> list[object]:
        return [started(request), Overloaded("the queue is full.", retry_after_s=2.2)]

    for stream in (False, True):
        reply = ask(make_app(ScriptedBackend(script)), "POST", CHAT, chat(stream=stream))
        assert (reply.status, reply.error()["code"], reply.error()["type"]) == (503, "overloaded", "server_error")
        assert (reply.headers["retry-after"], reply.headers["x-should-retry"]) == ("3", "true")


def test_a_deadline_is_408_and_a_defect_is_500_without_its_details(caplog: pytest.LogCaptureFixture) -> None:
    reply = ask(make_app(ScriptedBackend(lambda _: [DeadlineExceeded("too slow.")])), "POST", CHAT, chat())
    assert reply.status == 408
    reply = ask(make_app(ScriptedBackend(lambda _: [ZeroDivisionError("secret")])), "POST", CHAT, chat())
    assert (reply.status, reply.error()["code"]) == (500, "engine_fault")
    assert b"secret" not in reply.body
    assert "secret" in caplog.text


def test_a_backend_that_just_stops_is_a_defect_and_not_an_answer() -> None:
    reply = ask(make_app(ScriptedBackend(lambda request: [started(request)])), "POST", CHAT, chat())
    assert (reply.status, reply.error()["code"]) == (500, "engine_fault")


def test_an_exchange_ends_in_one_log_line_that_holds_no_text(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, ACCESS_LOGGER)
    app = make_app(ScriptedBackend(answer("Par", "is")))
    ask(app, "POST", CHAT, chat(), {"x-request-id": "mine"})
    (record,) = caplog.records
    fields = record.headrace_fields
    assert fields == {
        "request_id": "mine",
        "method": "POST",
        "route": CHAT,
        "status": 200,
        "outcome": "ok",
        "tenant": "local",
        "model": "tiny",
        "prompt_tokens": 7,
        "cached_tokens": 4,
        "completion_tokens": 2,
        "begun_s": 0.0,
        "ttft_s": 0.0,
        "duration_s": 0.0,
    }


def test_metrics_count_exchanges_by_route_and_not_by_path() -> None:
    app = make_app(ScriptedBackend(answer()))
    for path in ("/nowhere/1", "/nowhere/2"):
        ask(app, "BREW", path)
    text = ask(app, "GET", "/metrics").body.decode()
    assert 'headrace:http_requests_total{method="other",route="other",status="404"} 2.0' in text
    assert "headrace:http_requests_in_flight 1.0" in text


def test_answers_go_on_while_metrics_of_many_models_are_told() -> None:
    async def main() -> None:
        metrics = Metrics()
        for number in range(20):
            metrics.for_model(f"model-{number}")
        app = build_app(ScriptedBackend(answer()), ServerConfig(), metrics=metrics)
        app.lifecycle.mark_ready()
        scrape = Client(app, "GET", "/metrics").start()
        turns = 0
        while not scrape.done():
            await asyncio.sleep(0)
            turns += 1
        reply = await scrape
        assert reply.status == 200 and reply.headers["content-type"].startswith("text/plain; version=")
        assert turns > reply.body.count(b"\n") / 200

    run(main())


def test_more_open_requests_than_allowed_are_refused_at_once() -> None:
    async def main() -> None:
        pause = Pause()
        app = make_app(ScriptedBackend(lambda request: [started(request), pause]), ServerConfig(max_requests=1))
        first = Client(app, "POST", CHAT, chat())
        task = first.start()
        await pause.reached.wait()
        reply = await Client(app, "POST", CHAT, chat()).run()
        assert (reply.status, reply.error()["code"]) == (503, "overloaded")
        first.leave()
        await task

    run(main())
