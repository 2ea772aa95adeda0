"""Asks one server: the connections, the head with the key, and what went wrong in a word that is counted.

The connections are the gateway's own client of backends, without its policies: one attempt, no retry but that of a
kept connection which turns out to be dead. The key is in a header and nowhere else. Knows no schedule.
"""

import json
import ssl
from collections.abc import Mapping
from typing import Any, Final

from headrace.core.clock import Clock
from headrace.core.errors import HeadraceError, InvalidRequest, Unavailable, UpstreamFault, UpstreamTimeout
from headrace.gateway.settings import Timeouts
from headrace.gateway.upstreams.address import Address, read_url
from headrace.gateway.upstreams.answer import Answer
from headrace.gateway.upstreams.http import Head
from headrace.gateway.upstreams.pool import Pool, PoolSettings, open_tls
from headrace.loadtest.plan import Bounds, Protocol
from headrace.loadtest.reading import Failed, Reading, error_text
from headrace.loadtest.workload import Ratio, probe_text

PATHS: Final = {"chat": "/chat/completions", "completions": "/completions"}
_MAX_REFUSAL_BYTES: Final = 64 * 1024
_PROBES: Final = (16, 272)
_CONNECT_S: Final = 10.0


def read_target(url: str) -> Address:
    """Where to ask: a server's URL, with or without the /v1 at its end. Raises InvalidRequest."""
    try:
        address = read_url(url)
    except ValueError as error:
        raise InvalidRequest(f"url: {error}.", param="url") from None
    return address if address.path else Address(address.is_tls, address.host, address.port, "/v1")


class Client:
    """One server, asked by one caller. Used within one event loop; `close` lets go of its connections."""

    def __init__(
        self, target: Address, key: str | None, bounds: Bounds, clock: Clock, ca_file: str | None = None
    ) -> None:
        """Raises InvalidRequest for a CA file that cannot be read or a key that is none."""
        self.target = target
        self._clock = clock
        timeouts = Timeouts(
            connect_s=_CONNECT_S, first_event_s=bounds.request_s, whole_s=bounds.request_s, idle_s=bounds.request_s
        )
        settings = PoolSettings(timeouts=timeouts, max_idle=bounds.max_in_flight)
        try:
            tls: ssl.SSLContext | None = open_tls(ca_file) if target.is_tls else None
        except OSError as error:
            raise InvalidRequest(f"ca-file: {ca_file} cannot be read ({error}); name a PEM file.") from None
        self._pool = Pool(target, settings, tls=tls, name=target.authority)
        secret = () if key is None else ((b"authorization", b"Bearer " + key.encode("latin-1", "replace")),)
        try:
            self._head = Head(target, ((b"content-type", b"application/json"), *secret))
        except ValueError as error:
            raise InvalidRequest(f"key: {error}.") from None

    async def ask(self, protocol: Protocol, body: bytes, reading: Reading) -> None:
        """Send a request and read its stream to the end. Raises Failed."""
        head = self._head.write("POST", PATHS[protocol], (), len(body))
        reading.sent_s = self._clock.monotonic_s()
        try:
            answer = await self._pool.ask(head, body, is_whole=False)
        except HeadraceError as error:
            raise _failed(error, "connection") from None
        try:
            await self._read(answer, reading)
        except HeadraceError as error:
            raise _failed(error, "broken") from None
        finally:
            answer.close_unless_left()
        reading.check()

    async def first_model(self) -> str:
        """The first that the server lists. Raises HeadraceError."""
        told = await self._exchange("GET", "/models", b"")
        listed = told.get("data") if isinstance(told, dict) else None
        names = [one.get("id") for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        if not names or not isinstance(names[0], str):
            raise InvalidRequest(f"model: {self.target} lists no models; name one with --model.", param="model")
        return names[0]

    async def measure_ratio(self, protocol: Protocol, fields: Mapping[str, Any]) -> Ratio:
        """What words come to in this model's tokens, by two short requests. One token a word where the server does not
        count. Raises HeadraceError if it refuses."""
        counts = []
        for num_words in _PROBES:
            text = probe_text(num_words)
            said = {"prompt": text} if protocol == "completions" else {"messages": [{"role": "user", "content": text}]}
            body = json.dumps({**said, "max_tokens": 1, **fields}).encode()
            told = await self._exchange("POST", PATHS[protocol], body)
            usage = told.get("usage") if isinstance(told, dict) else None
            tokens = usage.get("prompt_tokens") if isinstance(usage, dict) else None
            if not isinstance(tokens, int):
                return Ratio()
            counts.append((num_words, tokens))
        return Ratio.of(counts[0], counts[1])

    async def close(self) -> None:
        """Close every connection."""
        await self._pool.close()

    async def _exchange(self, method: str, path: str, body: bytes) -> Any:
        try:
            answer = await self._pool.ask(self._head.write(method, path, (), len(body)), body, is_whole=True)
            said = await answer.read()
        except UpstreamFault as error:
            raise Unavailable(f"{self.target} does not answer {method} {path}: {error}") from None
        try:
            told = json.loads(said)
        except ValueError:
            told = {"error": {"message": said[:200].decode("utf-8", "replace")}}
        if answer.status != 200:
            hint = " Name a key with --key-file or --key-env." if answer.status in (401, 403) else ""
            raise Unavailable(f"{self.target} answers {method} {path} with {answer.status}: {error_text(told)}{hint}")
        return told

    async def _read(self, answer: Answer, reading: Reading) -> None:
        reading.status = answer.status
        if answer.status != 200:
            raise Failed(f"http-{answer.status}", _refusal(await answer.read(_MAX_REFUSAL_BYTES)))
        for name, value in answer.headers:
            if name == b"content-type" and not value.lower().startswith(b"text/event-stream"):
                raise Failed("not-a-stream", f"the answer is {value[:80].decode('latin-1')} and no stream")
            if name == b"x-headrace-cost":
                reading.cost = _number(value)
        answer.begin()
        while data := await answer.more():
            reading.feed(data, self._clock.monotonic_s())
            if reading.is_done:
                answer.leave()
                return


def _failed(error: HeadraceError, kind: str) -> Failed:
    return Failed("timeout" if isinstance(error, UpstreamTimeout) else kind, str(error))


def _refusal(body: bytes) -> str:
    try:
        return error_text(json.loads(body))
    except ValueError:
        return body[:200].decode("utf-8", "replace")


def _number(value: bytes) -> float | None:
    try:
        return float(value)
    except ValueError:
        return None
