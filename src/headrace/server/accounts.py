"""The routes of accounts: keys, budgets, limits and usage for who may keep them, and a caller's own budgets.

Knows the codec and the services; the tenants of all keys are in the hands of the scope `accounts`.
"""

from headrace.api.accounts import (
    decode_budget,
    decode_key,
    decode_key_change,
    decode_limit,
    encode_budget,
    encode_budgets,
    encode_deleted,
    encode_key,
    encode_keys,
    encode_limit,
    encode_limits,
    encode_records,
    encode_standings,
    encode_sums,
    read_usage,
)
from headrace.core.accounts import AccountBook, KeyBook
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

SCOPE = "accounts"


def account_routes(answering: Answering, accounts: AccountBook) -> list[Route]:
    """`/v1/accounts/budgets`, `/limits`, `/usage` and `/me`."""

    async def body_of(exchange: Exchange) -> bytes:
        answering.lifecycle.check_accepting()
        return await exchange.read_body(answering.config, answering.bodies)

    async def budgets(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_budgets(await accounts.budgets()))

    async def set_budget(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_budget(await accounts.set_budget(decode_budget(await body_of(exchange)))))

    async def remove_budget(exchange: Exchange, _: Identity) -> None:
        name = _name(exchange)
        await accounts.remove_budget(name)
        await exchange.respond(200, encode_deleted("budget", name))

    async def limits(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_limits(await accounts.limits()))

    async def set_limit(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_limit(await accounts.set_limit(decode_limit(await body_of(exchange)))))

    async def remove_limit(exchange: Exchange, _: Identity) -> None:
        name = _name(exchange)
        await accounts.remove_limit(name)
        await exchange.respond(200, encode_deleted("limit", name))

    async def usage(exchange: Exchange, _: Identity) -> None:
        asked = read_usage(exchange.query())
        if asked.by is None:
            await exchange.respond(200, encode_records(await accounts.records(asked.query)))
        else:
            await exchange.respond(200, encode_sums(await accounts.sums(asked.by, asked.query.which)))

    async def own(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_standings(await accounts.standings(identity.principal)))

    return [
        Route("/v1/accounts/budgets", "GET", SCOPE, budgets),
        Route("/v1/accounts/budgets", "POST", SCOPE, set_budget),
        Route("/v1/accounts/budgets/{name}", "DELETE", SCOPE, remove_budget),
        Route("/v1/accounts/limits", "GET", SCOPE, limits),
        Route("/v1/accounts/limits", "POST", SCOPE, set_limit),
        Route("/v1/accounts/limits/{name}", "DELETE", SCOPE, remove_limit),
        Route("/v1/accounts/usage", "GET", SCOPE, usage),
        Route("/v1/accounts/me", "GET", "generate", own),
    ]


def key_routes(answering: Answering, keys: KeyBook) -> list[Route]:
    """`/v1/accounts/keys`."""

    async def show(exchange: Exchange, _: Identity) -> None:
        await exchange.respond(200, encode_keys(await keys.list_keys()))

    async def add(exchange: Exchange, _: Identity) -> None:
        answering.lifecycle.check_accepting()
        order = decode_key(await exchange.read_body(answering.config, answering.bodies))
        key, text = await keys.add_key(order.name, order.rights)
        await exchange.respond(200, encode_key(key, text))

    async def change(exchange: Exchange, _: Identity) -> None:
        answering.lifecycle.check_accepting()
        is_disabled = decode_key_change(await exchange.read_body(answering.config, answering.bodies))
        await exchange.respond(200, encode_key(await keys.set_disabled(_name(exchange), is_disabled=is_disabled)))

    async def remove(exchange: Exchange, _: Identity) -> None:
        name = _name(exchange)
        await keys.remove_key(name)
        await exchange.respond(200, encode_deleted("key", name))

    return [
        Route("/v1/accounts/keys", "GET", SCOPE, show),
        Route("/v1/accounts/keys", "POST", SCOPE, add),
        Route("/v1/accounts/keys/{name}", "PATCH", SCOPE, change),
        Route("/v1/accounts/keys/{name}", "DELETE", SCOPE, remove),
    ]


def _name(exchange: Exchange) -> str:
    return exchange.params["name"]
