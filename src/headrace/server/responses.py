"""The routes of Responses and Conversations: bodies to calls, a service's events and objects to the wire.

Knows their codecs and the services' protocols; what was said before and where it is kept is the services' affair. A
stream's status line waits for its first event, so that what is refused has its own status.
"""

from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from typing import Final

from headrace.api.metadata import decode_metadata
from headrace.api.openai import Caller
from headrace.api.peek import RESPONSES
from headrace.api.responses import (
    ID_PREFIX,
    decode_compact,
    decode_conversation,
    decode_count,
    decode_create,
    decode_follow,
    decode_items,
    decode_page,
)
from headrace.api.responses_objects import encode, encode_count, encode_deleted, encode_list
from headrace.api.responses_service import ConversationsService, CreateCall, ResponseEvent, ResponsesService
from headrace.api.sse import CONTENT_TYPE, KEEP_ALIVE
from headrace.core.errors import HeadraceError, Unavailable
from headrace.core.identity import Identity
from headrace.core.request import Principal
from headrace.server.answers import Answering, end_of, send_chunk, send_pieces
from headrace.server.exchange import JSON, Exchange
from headrace.server.feed import Feed
from headrace.server.hints import labelled
from headrace.server.relay import RelayRoute
from headrace.server.routes import Handler, Route

DONE: Final = b"data: [DONE]\n\n"
# Events that say how the whole response stands, and nothing of what the model says.
_STATES: Final = frozenset({"response.created", "response.queued", "response.in_progress"})


_CREATE: Final = RelayRoute(id_prefix=ID_PREFIX, decode=decode_create, kind=RESPONSES, is_bytes_only=True)


def frame(event: ResponseEvent) -> bytes:
    """An event as a server-sent event, the last one with the end of the stream behind it."""
    data = b"event: " + event.type.encode() + b"\ndata: " + event.data + b"\n\n"
    return data + DONE if event.is_last else data


def note(exchange: Exchange, event: ResponseEvent, now_s: float) -> None:
    """Write into an exchange's record what an event tells."""
    record = exchange.record
    if event.type not in _STATES and record.ttft_s is None:
        record.ttft_s = now_s - exchange.started_s
    usage = (event.response or {}).get("usage")
    if usage is not None:
        record.prompt_tokens, record.completion_tokens = usage["input_tokens"], usage["output_tokens"]
        record.cached_tokens = usage["input_tokens_details"]["cached_tokens"]
    if event.error is not None:
        record.outcome = event.error.code


class _Answers:
    """Writes what a service makes for one request."""

    def __init__(self, answering: Answering, exchange: Exchange) -> None:
        self._answering = answering
        self._exchange = exchange

    def _feed(self, events: AsyncGenerator[ResponseEvent, None]) -> Feed[ResponseEvent]:
        exchange, answering = self._exchange, self._answering
        return Feed(events, exchange.receive, exchange.send, answering.lifecycle, answering.pace)

    async def stream(self, events: AsyncGenerator[ResponseEvent, None]) -> None:
        """Send events as they come. Raises HeadraceError while nothing is sent, and ClientGone."""
        exchange = self._exchange
        async with self._feed(events) as feed:
            is_last = False
            try:
                while not is_last:
                    told = await feed.take()
                    is_last = self._note(told)
                    data = b"".join(map(frame, told)) or KEEP_ALIVE
                    if is_last:
                        data = await end_of(exchange, feed, data, CONTENT_TYPE)
                    await send_chunk(exchange, feed, data, CONTENT_TYPE, is_last=is_last)
            except HeadraceError as error:
                if not exchange.is_started:
                    raise
                exchange.record.outcome = error.code
                data = exchange.errors.encode_frame(error, exchange.record.request_id)
                if exchange.sealing is not None:
                    data = exchange.sealing.cut(data, CONTENT_TYPE)
                await send_chunk(exchange, feed, data, CONTENT_TYPE, is_last=True)

    async def whole(self, events: AsyncGenerator[ResponseEvent, None]) -> None:
        """Send the response that events end with. Raises HeadraceError, ClientGone."""
        exchange = self._exchange
        async with self._feed(events) as feed:
            last: ResponseEvent | None = None
            while last is None:
                told = await feed.take()
                if self._note(told):
                    last = told[-1]
            if last.error is not None:
                raise last.error
            body = encode(last.response)
            if exchange.waits:
                await feed.during(exchange.keep([body]))
            await feed.send(exchange.start(200, JSON, exchange.body_headers(body)))
            await send_pieces(feed, body, is_last=True)

    def _note(self, told: list[ResponseEvent]) -> bool:
        now_s = self._answering.pace.clock.monotonic_s()
        for event in told:
            note(self._exchange, event, now_s)
        return bool(told) and told[-1].is_last


def responses_routes(answering: Answering, service: ResponsesService) -> list[Route]:
    """`/v1/responses` and what is under it."""
    return [*_model_routes(answering, service), *_store_routes(answering, service)]


def _model_routes(answering: Answering, service: ResponsesService) -> list[Route]:
    """Those that ask a model."""

    async def create(exchange: Exchange, identity: Identity) -> None:
        # What a backend that speaks this protocol answers is passed on if nobody here is to remember it.
        asked = await answering.ask(exchange, identity.principal, _CREATE)
        if asked is None:
            return
        call, _ = asked
        answering.admit(exchange, call.request)
        if call.stream:
            await _Answers(answering, exchange).stream(service.run(call))
        elif call.background:
            exchange.sealing = None  # its answer is made when this exchange is over
            await exchange.respond(200, encode(await service.begin(call)))
        else:
            await _Answers(answering, exchange).whole(service.run(call))

    async def count(exchange: Exchange, identity: Identity) -> None:
        cards = answering.backend.models()
        if not cards:
            raise Unavailable("no model is loaded yet; try again in a moment.", retry_after_s=1.0)

        def decode(data: bytes, caller: Caller) -> CreateCall:
            return decode_count(data, caller, cards[0].id)

        call = await answering.read(exchange, identity.principal, ID_PREFIX, decode)
        answering.admit(exchange, call.request)
        await exchange.respond(200, encode_count(await service.count(call)))

    async def compact(exchange: Exchange, identity: Identity) -> None:
        call = await answering.read(exchange, identity.principal, ID_PREFIX, decode_compact)
        answering.admit(exchange, call.request)
        await exchange.respond(200, encode(await service.compact(call)))

    return [
        Route("/v1/responses", "POST", "generate", create),
        Route("/v1/responses/input_tokens", "POST", "generate", count),
        Route("/v1/responses/compact", "POST", "generate", compact),
    ]


def _store_routes(answering: Answering, service: ResponsesService) -> list[Route]:
    """Those that ask for what is kept."""

    async def retrieve(exchange: Exchange, identity: Identity) -> None:
        is_stream, after = decode_follow(exchange.query())
        tenant, response_id = identity.principal.tenant, exchange.params["id"]
        if is_stream:
            await _Answers(answering, exchange).stream(service.follow(tenant, response_id, after))
        else:
            await exchange.respond(200, encode(await service.retrieve(tenant, response_id)))

    async def delete(exchange: Exchange, identity: Identity) -> None:
        response_id = exchange.params["id"]
        await service.delete(identity.principal.tenant, response_id)
        await exchange.respond(200, encode_deleted("response", response_id))

    async def cancel(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode(await service.cancel(identity.principal.tenant, exchange.params["id"])))

    async def input_items(exchange: Exchange, identity: Identity) -> None:
        page = decode_page(exchange.query())
        items, has_more = await service.input_items(identity.principal.tenant, exchange.params["id"], page)
        await exchange.respond(200, encode_list(items, has_more=has_more))

    return [
        Route("/v1/responses/{id}", "GET", "generate", retrieve),
        Route("/v1/responses/{id}", "DELETE", "generate", delete),
        Route("/v1/responses/{id}/cancel", "POST", "generate", cancel),
        Route("/v1/responses/{id}/input_items", "GET", "generate", input_items),
    ]


def conversation_routes(answering: Answering, service: ConversationsService) -> list[Route]:
    """`/v1/conversations` and what is under it."""

    async def body_of(exchange: Exchange) -> bytes:
        answering.lifecycle.check_accepting()
        return await exchange.read_body(answering.config, answering.bodies)

    async def create(exchange: Exchange, asker: Principal) -> bytes:
        suffix = answering.new_id()
        items, metadata = decode_conversation(await body_of(exchange), suffix)
        made = service.create_conversation(asker.tenant, f"conv_{suffix}", items, metadata, asker.labels)
        return encode(await made)

    async def retrieve(exchange: Exchange, asker: Principal) -> bytes:
        return encode(await service.conversation(asker.tenant, exchange.params["id"]))

    async def update(exchange: Exchange, asker: Principal) -> bytes:
        metadata = decode_metadata(await body_of(exchange))
        return encode(await service.update_conversation(asker.tenant, exchange.params["id"], metadata))

    async def delete(exchange: Exchange, asker: Principal) -> bytes:
        await service.delete_conversation(asker.tenant, exchange.params["id"])
        return encode_deleted("conversation.deleted", exchange.params["id"])

    async def add_items(exchange: Exchange, asker: Principal) -> bytes:
        items = decode_items(await body_of(exchange), answering.new_id())
        added = service.add_items(asker.tenant, exchange.params["id"], items, asker.labels)
        return encode_list(await added, has_more=False)

    async def items(exchange: Exchange, asker: Principal) -> bytes:
        found, has_more = await service.items(asker.tenant, exchange.params["id"], decode_page(exchange.query()))
        return encode_list(found, has_more=has_more)

    async def item(exchange: Exchange, asker: Principal) -> bytes:
        return encode(await service.item(asker.tenant, exchange.params["id"], exchange.params["item_id"]))

    async def delete_item(exchange: Exchange, asker: Principal) -> bytes:
        return encode(await service.delete_item(asker.tenant, exchange.params["id"], exchange.params["item_id"]))

    whole, one = "/v1/conversations", "/v1/conversations/{id}"
    table: Mapping[tuple[str, str], Callable[[Exchange, Principal], Awaitable[bytes]]] = {
        (whole, "POST"): create,
        (one, "GET"): retrieve,
        (one, "POST"): update,
        (one, "DELETE"): delete,
        (f"{one}/items", "POST"): add_items,
        (f"{one}/items", "GET"): items,
        (f"{one}/items/{{item_id}}", "GET"): item,
        (f"{one}/items/{{item_id}}", "DELETE"): delete_item,
    }
    return [Route(name, method, "generate", _answered(answer)) for (name, method), answer in table.items()]


def _answered(answer: Callable[[Exchange, Principal], Awaitable[bytes]]) -> Handler:
    async def handle(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, await answer(exchange, labelled(identity.principal, exchange.headers)))

    return handle
