"""Ollama's routes: chats, completions and vectors through the backend, models through what the server is given.

Knows the codecs and no fields. A body without a question loads a model; `keep_alive: 0` lets it go, which is an
administrator's business: from others it is a hint that is left.
"""

import contextlib
from collections.abc import Callable
from functools import partial

from headrace.api.errors import OLLAMA
from headrace.api.ollama import (
    EmbedCall,
    LoadCall,
    OllamaCall,
    decode_chat,
    decode_embed,
    decode_embeddings,
    decode_generate,
)
from headrace.api.ollama_answers import CONTENT_TYPE, EmbedAnswer, StreamWriter, WholeWriter, encode_loaded
from headrace.api.ollama_models import (
    RUNNING,
    decode_pull,
    decode_show,
    encode_details,
    encode_running,
    encode_status,
    encode_step,
    encode_tags,
    encode_version,
    find_card,
)
from headrace.api.openai import Caller
from headrace.core.actions import ActionBook
from headrace.core.errors import Forbidden, HeadraceError, NotFound, UnsupportedField
from headrace.core.identity import Identity
from headrace.core.model_library import Library, ModelDetails
from headrace.core.service import Residents
from headrace.server.actions import acting, begun_by
from headrace.server.answers import Answering, GenerationRoute
from headrace.server.exchange import Exchange
from headrace.server.inputs import answer_call
from headrace.server.routes import Route

_TEXT = b"text/plain; charset=utf-8"
Decode = Callable[[bytes, Caller], OllamaCall | EmbedCall | LoadCall]


class OllamaRoutes:
    """Handlers around a server's backend, and around its residents and its library if it has them."""

    def __init__(
        self,
        answering: Answering,
        residents: Residents | None,
        library: Library | None,
        version: str,
        actions: ActionBook | None = None,
    ) -> None:
        self._answering = answering
        self._residents = residents
        self._actions = actions
        self._library = library
        self._version = version
        clock = answering.pace.clock
        self._generation = GenerationRoute(
            "ollama-",
            decode_chat,
            lambda call, _: StreamWriter(call, clock),
            lambda call, _: WholeWriter(call, clock),
            OLLAMA,
            CONTENT_TYPE,
            keep_alive=b"",
        )

    def routes(self) -> list[Route]:
        """`/api/...`, and what Ollama says at its root."""

        def work(name: str, decode: Decode) -> Route:
            return Route(name, "POST", "generate", partial(self._run, decode), OLLAMA)

        return [
            work("/api/chat", decode_chat),
            work("/api/generate", decode_generate),
            work("/api/embed", decode_embed),
            work("/api/embeddings", decode_embeddings),
            Route("/api/tags", "GET", "generate", self._tags, OLLAMA),
            Route("/api/ps", "GET", "generate", self._running, OLLAMA),
            Route("/api/show", "POST", "generate", self._show, OLLAMA),
            Route("/api/pull", "POST", "admin", self._pull, OLLAMA),
            Route("/api/version", "GET", None, self._tell_version, OLLAMA),
            Route("/", "GET", None, self._greet, OLLAMA, is_open=True),
        ]

    async def _run(self, decode: Decode, exchange: Exchange, identity: Identity) -> None:
        principal = identity.principal
        call = await self._answering.read(exchange, principal, "ollama-", decode)
        if isinstance(call, LoadCall):
            await self._load(call, exchange, identity)
            return
        if isinstance(call, EmbedCall):
            await answer_call(self._answering, EmbedAnswer(call, self._answering.pace.clock), exchange)
        else:
            await self._answering.reply(self._generation, exchange, principal, call)
        if call.keep_alive_s == 0 and self._residents is not None and "admin" in principal.scopes:
            # Somebody else may use it, or it may be one that stays: then it stays.
            with contextlib.suppress(HeadraceError):
                await self._unload(self._card_id(call.request.model, identity), exchange, identity, waits=False)

    async def _load(self, call: LoadCall, exchange: Exchange, identity: Identity) -> None:
        name = self._card_id(call.name, identity)
        is_unload = call.keep_alive_s == 0
        if is_unload and "admin" not in identity.principal.scopes:
            raise Forbidden("the key lacks the scope 'admin', which letting a model go needs.")
        if self._residents is not None:
            if is_unload:
                await self._unload(name, exchange, identity)
            else:
                await self._residents.load_model(name)
        await exchange.respond(200, encode_loaded(call, self._answering.pace.clock.unix_s(), is_unload=is_unload))

    async def _unload(self, name: str, exchange: Exchange, identity: Identity, *, waits: bool = True) -> None:
        """Let a model go, which is as much of a change as by `/models/unload`."""
        assert self._residents is not None
        async with contextlib.AsyncExitStack() as stack:
            if self._actions is not None:
                record = exchange.record
                begun = begun_by(exchange, identity, f"{record.method} {record.route}", name, {"keep_alive": 0})
                await stack.enter_async_context(acting(self._actions, exchange, begun))
            await self._residents.unload_model(name, waits=waits)

    def _card_id(self, name: str, identity: Identity) -> str:
        """A model's own name; an adapter's is its model's."""
        cards = self._answering.models_for(identity.principal)
        with contextlib.suppress(NotFound):
            card = find_card(cards, name)
            return card.parent or card.id
        # An adapter that nobody has asked for yet is on no card; its model is.
        return find_card(cards, name.rpartition(":")[0] or name).id

    async def _tags(self, exchange: Exchange, identity: Identity) -> None:
        cards = self._answering.models_for(identity.principal)
        await exchange.respond(200, encode_tags(cards, await self._details()))

    async def _running(self, exchange: Exchange, identity: Identity) -> None:
        cards = self._answering.models_for(identity.principal)
        held = None if self._residents is None else {one.name: one for one in self._residents.residences()}
        body = encode_running(cards, await self._details(), held, self._answering.pace.clock.unix_s())
        await exchange.respond(200, body)

    async def _show(self, exchange: Exchange, identity: Identity) -> None:
        name = decode_show(await exchange.read_body(self._answering.config, self._answering.bodies))
        card = find_card(self._answering.models_for(identity.principal), name)
        details = await self._details()
        await exchange.respond(200, encode_details(card, details.get(card.id) or details.get(card.parent or "")))

    async def _details(self) -> dict[str, ModelDetails]:
        """What the files of all served models say; those of one that is damaged say nothing."""
        found: dict[str, ModelDetails] = {}
        if self._library is not None:
            for card in self._answering.backend.models():
                if card.parent is None:
                    with contextlib.suppress(HeadraceError):
                        found[card.id] = await self._library.describe(card.id)
        return found

    async def _pull(self, exchange: Exchange, _: Identity) -> None:
        self._answering.lifecycle.check_accepting()
        name, streams = decode_pull(await exchange.read_body(self._answering.config, self._answering.bodies))
        if self._library is None:
            raise UnsupportedField(
                f"model: {name[:100]!r} cannot be fetched by this server; run `headrace pull`.", param="model"
            )
        lines = _Lines(exchange, streams=streams)
        async with contextlib.aclosing(self._library.pull(name)) as steps:
            try:
                async for step in steps:
                    await lines.send(encode_step(step, name))
            except HeadraceError as error:
                if not exchange.is_started:
                    raise
                exchange.record.outcome = error.code
                await lines.end(OLLAMA.encode_frame(error, exchange.record.request_id))
                return
        await lines.end(encode_status("success"))

    async def _tell_version(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_version(self._version))

    async def _greet(self, exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, RUNNING, _TEXT)


class _Lines:
    """A response of lines that come one after the other, or only its last one."""

    def __init__(self, exchange: Exchange, *, streams: bool) -> None:
        self._exchange = exchange
        self._streams = streams

    async def send(self, line: bytes) -> None:
        """One that is not the last."""
        if self._streams:
            await self._begin()
            await self._exchange.send({"type": "http.response.body", "body": line, "more_body": True})

    async def end(self, line: bytes) -> None:
        """The last one."""
        if not self._streams:
            await self._exchange.respond(200, line)
            return
        await self._begin()
        await self._exchange.send({"type": "http.response.body", "body": line, "more_body": False})

    async def _begin(self) -> None:
        if not self._exchange.is_started:
            await self._exchange.send(self._exchange.start(200, CONTENT_TYPE, []))


def ollama_routes(
    answering: Answering,
    residents: Residents | None,
    library: Library | None,
    version: str,
    actions: ActionBook | None = None,
) -> list[Route]:
    """All of Ollama's routes that are served."""
    return OllamaRoutes(answering, residents, library, version, actions).routes()
