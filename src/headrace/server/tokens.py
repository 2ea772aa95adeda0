"""The routes that turn texts into token ids and back: `/tokenize` and `/detokenize`. Knows their codec and the service
that has the tokenizers.
"""

from functools import partial

from headrace.api.tokens import decode_detokenize, decode_tokenize, encode_detokenized
from headrace.core.errors import Unavailable
from headrace.core.identity import Identity
from headrace.core.service import Tokens
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def token_routes(answering: Answering, tokens: Tokens) -> list[Route]:
    """`/tokenize` and `/detokenize`."""

    def first_model() -> str:
        cards = answering.backend.models()
        if not cards:
            raise Unavailable("no model is loaded yet; try again in a moment.", retry_after_s=1.0)
        return cards[0].id

    async def tokenize(exchange: Exchange, identity: Identity) -> None:
        decode = partial(decode_tokenize, default_model=first_model())
        call = await answering.read(exchange, identity.principal, "tok-", decode)
        answering.admit(exchange, call.request)
        found = await tokens.tokenize(call.request, adds_special=call.adds_special, opens_answer=call.opens_answer)
        exchange.record.prompt_tokens = len(found.tokens)
        await exchange.respond(200, call.encode(found))

    async def detokenize(exchange: Exchange, identity: Identity) -> None:
        decode = partial(decode_detokenize, default_model=first_model())
        request = await answering.read(exchange, identity.principal, "tok-", decode)
        answering.admit(exchange, request)
        await exchange.respond(200, encode_detokenized(await tokens.detokenize(request)))

    return [
        Route("/tokenize", "POST", "generate", tokenize),
        Route("/detokenize", "POST", "generate", detokenize),
    ]
