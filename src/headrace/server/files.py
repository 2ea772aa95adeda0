"""The routes of files: a form's bytes go from the socket to the service as they come, a file's bytes back the same way.

Knows the codec and the service; where files lie is the service's affair. Nothing here holds more than a piece.
"""

import asyncio
import contextlib

from headrace.api.files import (
    MAX_LISTED_FILES,
    encode_file,
    encode_file_deleted,
    encode_files,
    read_list_query,
    read_note,
)
from headrace.api.multipart import FormReader
from headrace.core.errors import DeadlineExceeded
from headrace.core.file import FileRecord, Files
from headrace.core.identity import Identity
from headrace.server.answers import Answering
from headrace.server.exchange import Exchange
from headrace.server.routes import Route

_BYTES = b"application/octet-stream"


def file_routes(answering: Answering, files: Files) -> list[Route]:
    """`/v1/files`, `/v1/files/{id}` and `/v1/files/{id}/content`."""
    config = answering.config

    async def upload(exchange: Exchange, identity: Identity) -> None:
        answering.lifecycle.check_accepting()
        try:
            async with asyncio.timeout(config.upload_timeout_s):
                record = await _take_in(answering, files, exchange, identity.principal.tenant)
        except TimeoutError:
            exchange.closes = True
            raise DeadlineExceeded(
                f"the file did not arrive within {config.upload_timeout_s:g} s; send it faster or send less."
            ) from None
        await exchange.respond(200, encode_file(record))

    async def show_all(exchange: Exchange, identity: Identity) -> None:
        query = read_list_query(
            exchange.query(), default=MAX_LISTED_FILES, most=MAX_LISTED_FILES, extra=("order", "purpose")
        )
        await exchange.respond(200, encode_files(await files.list(identity.principal.tenant, query)))

    async def show(exchange: Exchange, identity: Identity) -> None:
        await exchange.respond(200, encode_file(await files.get(identity.principal.tenant, exchange.params["id"])))

    async def send(exchange: Exchange, identity: Identity) -> None:
        record = await files.get(identity.principal.tenant, exchange.params["id"])
        await exchange.respond_pieces(config, files.read(record), record.num_bytes, _BYTES)

    async def delete(exchange: Exchange, identity: Identity) -> None:
        file_id = exchange.params["id"]
        await files.delete(identity.principal.tenant, file_id)
        await exchange.respond(200, encode_file_deleted(file_id))

    return [
        Route("/v1/files", "POST", "generate", upload),
        Route("/v1/files", "GET", "generate", show_all),
        Route("/v1/files/{id}", "GET", "generate", show),
        Route("/v1/files/{id}", "DELETE", "generate", delete),
        Route("/v1/files/{id}/content", "GET", "generate", send),
    ]


async def _take_in(answering: Answering, files: Files, exchange: Exchange, tenant: str) -> FileRecord:
    """The file of a form. Whatever ends the upload early leaves nothing of it."""
    form = FormReader(exchange.headers.get(b"content-type", b""))
    upload = await files.begin(tenant)
    try:
        async with contextlib.aclosing(exchange.pieces(answering.config)) as pieces:
            async for piece in pieces:
                for data in form.feed(piece):
                    await upload.write(data)
        form.finish()
        return await upload.commit(read_note(form.fields, form.filename or "file"))
    finally:
        await upload.abort()
