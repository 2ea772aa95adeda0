"""OpenAI's generation routes, and the routes to chat completions that were stored. Knows their codecs and the service
that keeps them.
"""

from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing

from headrace.api import peek
from headrace.api.metadata import decode_metadata
from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_answers import CHAT, COMPLETION, AnswerWriter, Dialect, answer_head
from headrace.api.openai_stored import (
    KeptStream,
    decode_list,
    encode_deleted,
    encode_messages,
    encode_page,
    encode_stored,
    stored,
)
from headrace.api.openai_stream import StreamWriter
from headrace.core.backend import Backend
from headrace.core.cache import Caches
from headrace.core.errors import UnsupportedField
from headrace.core.events import Event
from headrace.core.identity import Identity
from headrace.core.request import Principal, Request
from headrace.core.service import Completions
from headrace.server.answers import Answering, GenerationRoute, generation_routes
from headrace.server.exchange import Exchange
from headrace.server.routes import Route
from headrace.server.together import run_together

_CHAT = "/v1/chat/completions"
_STORED = "/v1/chat/completions/{id}"


def openai_routes(answering: Answering, completions: Completions | None, caches: Caches | None = None) -> list[Route]:
    """`/v1/chat/completions` and `/v1/completions`; with a service that keeps completions the routes to those, too."""
    table = {_CHAT: _chat(completions, caches), "/v1/completions": _completion()}
    routes = generation_routes(answering, table)
    return routes if completions is None else routes + _stored_routes(answering, completions)


def _chat(completions: Completions | None, caches: Caches | None) -> GenerationRoute:
    def decode(data: bytes, caller: Caller) -> Call:
        call = decode_chat(data, caller)
        if call.stores and completions is None:
            raise UnsupportedField(
                "store: this server keeps no completions; leave it out or send false.", param="store"
            )
        if call.cached_content is not None and caches is None:
            raise UnsupportedField("cached_content: this server keeps no caches; leave it out.", param="cached_content")
        return call

    def stream(call: Call, created: int) -> StreamWriter | KeptStream:
        head = answer_head(CHAT, call, created)
        return KeptStream(head) if call.stores else StreamWriter(head)

    async def keep(call: Call, principal: Principal, writer: AnswerWriter | KeptStream) -> None:
        if call.stores and completions is not None:
            answer = writer.encode() if isinstance(writer, AnswerWriter) else writer.answer()
            await completions.add_completion(principal.tenant, stored(call, answer))

    def run(backend: Backend, call: Call) -> AsyncGenerator[Event, None]:
        if caches is not None and call.cached_content is not None:
            events = _with_content(backend, call.request, caches, call.cached_content)
        else:
            events = backend.run(call.request)
        return events if completions is None or not call.stores else _with_room(events, call, completions)

    return GenerationRoute(CHAT.id_prefix, decode, stream, _whole_of(CHAT), run=run, keep=keep, kind=peek.CHAT)


async def _with_content(
    backend: Backend, request: Request, caches: Caches, cache_id: str
) -> AsyncGenerator[Event, None]:
    """The answer to a request that begins with the content of a cache."""
    async with aclosing(backend.run(await caches.begin(request, cache_id))) as events:
        async for event in events:
            yield event


async def _with_room(
    events: AsyncGenerator[Event, None], call: Call, completions: Completions
) -> AsyncGenerator[Event, None]:
    async with aclosing(events):
        await completions.check_room(call.request.principal.tenant)
        async for event in events:
            yield event


def _completion() -> GenerationRoute:
    def stream(call: Call, created: int) -> StreamWriter:
        return StreamWriter(answer_head(COMPLETION, call, created))

    return GenerationRoute(
        COMPLETION.id_prefix,
        decode_completion,
        stream,
        _whole_of(COMPLETION),
        run=lambda backend, call: run_together(backend, call.requests),
        kind=peek.COMPLETIONS,
    )


def _whole_of(dialect: Dialect) -> Callable[[Call, int], AnswerWriter]:
    return lambda call, created: AnswerWriter(answer_head(dialect, call, created))


def _stored_routes(answering: Answering, completions: Completions) -> list[Route]:
    async def show_all(exchange: Exchange, identity: Identity) -> None:
        page = await completions.list_completions(identity.principal.tenant, decode_list(exchange.query()))
        await exchange.respond(200, encode_page(page))

    async def show(exchange: Exchange, identity: Identity) -> None:
        found = await completions.find_completion(identity.principal.tenant, exchange.params["id"])
        await exchange.respond(200, encode_stored(found))

    async def show_messages(exchange: Exchange, identity: Identity) -> None:
        query = decode_list(exchange.query(), is_filtered=False)
        found = await completions.find_completion(identity.principal.tenant, exchange.params["id"])
        await exchange.respond(200, encode_messages(found, query))

    async def update(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        metadata = decode_metadata(await exchange.read_body(answering.config, answering.bodies))
        tenant = identity.principal.tenant
        found = await completions.update_completion(tenant, exchange.params["id"], metadata)
        await exchange.respond(200, encode_stored(found))

    async def delete(exchange: Exchange, identity: Identity) -> None:
        await completions.delete_completion(identity.principal.tenant, exchange.params["id"])
        await exchange.respond(200, encode_deleted(exchange.params["id"]))

    return [
        Route(_CHAT, "GET", "generate", show_all),
        Route(_STORED, "GET", "generate", show),
        Route(_STORED, "POST", "generate", update),
        Route(_STORED, "DELETE", "generate", delete),
        Route(_STORED + "/messages", "GET", "generate", show_messages),
    ]
