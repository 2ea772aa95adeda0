"""The routes of Anthropic's Message Batches. Knows the codec, the files and the batches; lines are run elsewhere."""

from headrace.api.anthropic_batches import (
    NAME,
    WINDOW_S,
    check_dialect,
    decode_requests,
    encode_batch,
    encode_batches,
    encode_deleted,
    order,
    read_batch_id,
    read_page_query,
)
from headrace.api.errors import ANTHROPIC
from headrace.core.batch import Batch, Batches
from headrace.core.errors import HeadraceError, NotFound
from headrace.core.file import BATCH_SPOOL, FileNote, FileRecord, Files
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.hints import labelled
from headrace.server.routes import Route

MAX_REQUESTS = 50_000
_LINES = b"application/x-jsonl"


def anthropic_batch_routes(answering: Answering, batches: Batches, files: Files) -> list[Route]:
    """`/v1/messages/batches` and what is below it."""

    async def find(exchange: Exchange, identity: Identity) -> Batch:
        batch_id = read_batch_id(exchange.params["id"])
        return check_dialect(await batches.get(identity.principal.tenant, batch_id))

    async def create(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        asker = labelled(identity.principal, exchange.headers)
        names = {name for card in answering.models_for(identity.principal) for name in (card.id, *card.aliases)}
        body = await exchange.read_body(answering.config, answering.bodies)
        lines = decode_requests(body, names.__contains__, MAX_REQUESTS)
        spool = await _spool(files, identity.principal.tenant, lines)
        try:
            batch = await batches.create(asker, order(spool.id, len(lines)))
        except HeadraceError:
            await files.delete(identity.principal.tenant, spool.id)
            raise
        await exchange.respond(200, encode_batch(batch))

    async def show_all(exchange: Exchange, identity: Identity) -> None:
        query, is_reversed = read_page_query(exchange.query())
        page = await batches.list(identity.principal.tenant, query, NAME)
        await exchange.respond(200, encode_batches(page, is_reversed=is_reversed))

    async def show(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_batch(await find(exchange, identity)))

    async def cancel(exchange: Exchange, identity: Identity) -> None:
        found = await find(exchange, identity)
        await exchange.respond(200, encode_batch(await batches.cancel(identity.principal.tenant, found.id)))

    async def delete(exchange: Exchange, identity: Identity) -> None:
        found = await find(exchange, identity)
        await batches.delete(identity.principal.tenant, found.id)
        await exchange.respond(200, encode_deleted(exchange.params["id"]))

    async def results(exchange: Exchange, identity: Identity) -> None:
        found = await find(exchange, identity)
        if not found.is_over:
            raise NotFound(f"the batch {exchange.params['id'][:100]!r} has not ended; its results come then.")
        if found.output_file_id is None:
            await exchange.respond(200, b"", _LINES)
            return
        record = await files.get(identity.principal.tenant, found.output_file_id)
        await exchange.respond_pieces(answering.config, files.read(record), record.num_bytes, _LINES)

    root = "/v1/messages/batches"
    return [
        Route(root, "POST", "generate", create, ANTHROPIC),
        Route(root, "GET", "generate", show_all, ANTHROPIC),
        Route(f"{root}/{{id}}", "GET", "generate", show, ANTHROPIC),
        Route(f"{root}/{{id}}", "DELETE", "generate", delete, ANTHROPIC),
        Route(f"{root}/{{id}}/cancel", "POST", "generate", cancel, ANTHROPIC),
        Route(f"{root}/{{id}}/results", "GET", "generate", results, ANTHROPIC),
    ]


async def _spool(files: Files, tenant: str, lines: list[bytes]) -> FileRecord:
    """Requests as the file that a batch reads. Whatever ends it early leaves nothing of it."""
    upload = await files.begin(tenant)
    try:
        for line in lines:
            await upload.write(line)
        return await upload.commit(FileNote(filename="requests.jsonl", purpose=BATCH_SPOOL, lifetime_s=WINDOW_S))
    finally:
        await upload.abort()
