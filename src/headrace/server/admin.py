"""The routes that load and unload: adapters as vLLM has them, models as llama.cpp does.

Knows their codecs and the services behind them; what fits into memory is the services' affair.
"""

import functools

from headrace.api.lora import decode_lora_name, encode_adapters, encode_loaded, encode_unloaded
from headrace.api.residents import decode_change, encode_changed, encode_residences
from headrace.core.identity import Identity
from headrace.core.service import Adapters, Residents
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route


def adapter_routes(answering: Answering, adapters: Adapters) -> list[Route]:
    """`/v1/adapters`, `/v1/load_lora_adapter` and `/v1/unload_lora_adapter`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_adapters(adapters.adapters()))

    async def name_of(exchange: Exchange) -> str:
        answering.lifecycle.check_accepting()
        return decode_lora_name(await exchange.read_body(answering.config, answering.bodies))

    async def load(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_loaded(await adapters.load_adapter(await name_of(exchange))))

    async def unload(exchange: Exchange, _: Identity) -> None:
        name = await name_of(exchange)
        await adapters.unload_adapter(name)
        await exchange.respond(200, encode_unloaded(name))

    return [
        Route("/v1/adapters", "GET", "admin", show),
        Route("/v1/load_lora_adapter", "POST", "admin", load),
        Route("/v1/unload_lora_adapter", "POST", "admin", unload),
    ]


def resident_routes(answering: Answering, residents: Residents) -> list[Route]:
    """`/models`, `/models/load` and `/models/unload`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_residences(residents.residences(), residents.memory_bytes))

    async def change(is_load: bool, exchange: Exchange, _: Identity) -> None:
        answering.lifecycle.check_accepting()
        body = await exchange.read_body(answering.config, answering.bodies)
        asked = decode_change(body, may_wait=not is_load)
        if is_load:
            residence = await residents.load_model(asked.model)
        else:
            residence = await residents.unload_model(asked.model, waits=asked.waits)
        await exchange.respond(200, encode_changed(residence))

    return [
        Route("/models", "GET", "admin", show),
        Route("/models/load", "POST", "admin", functools.partial(change, True)),
        Route("/models/unload", "POST", "admin", functools.partial(change, False)),
    ]
