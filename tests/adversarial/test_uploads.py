"""Uploads that are broken, hostile or cut off: each is refused in words, and none leaves a byte."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_files import ACME, Shelf, opened
from tests.doubles_http import Client, Reply, ScriptedBackend, answer, make_app, run
from tests.unit.memory.test_files import kept

from headrace.api.multipart import FormReader
from headrace.core.errors import HeadraceError
from headrace.core.identity import Identity
from headrace.memory.files import FileLimits
from headrace.server.config import ServerConfig

FORM = {"content-type": "multipart/form-data; boundary=b"}


def part(name: str, value: bytes, extra: str = "") -> bytes:
    return f'--b\r\ncontent-disposition: form-data; name="{name}"{extra}\r\n\r\n'.encode() + value + b"\r\n"


PURPOSE = part("purpose", b"user_data")
FILE = part("file", b"data", '; filename="a.txt"')
END = b"--b--\r\n"


class OneKey:
    """Everybody is the tenant acme, but for those who show the key `other`."""

    def authenticate(self, key: str | None) -> Identity:
        return Identity(ACME if key != "other" else type(ACME)(tenant="other"), key)


async def send(shelf: Shelf, body: bytes | list[bytes], headers: dict[str, str], **config: Any) -> Reply:
    app = make_app(shelf.foreground, ServerConfig(**config), keys=OneKey(), files=shelf.files, batches=shelf.batches)
    return await Client(app, "POST", "/v1/files", body, headers).run()


@pytest.mark.parametrize(
    ("body", "headers", "status", "said"),
    [
        (b"{}", {"content-type": "application/json"}, 400, "multipart/form-data"),
        (b"{}", {}, 400, "multipart/form-data"),
        (b"", {"content-type": "multipart/form-data"}, 400, "boundary"),
        (b"", {"content-type": "multipart/form-data; boundary=" + "x" * 5000}, 400, "form"),
        (b"", FORM, 400, "ends before"),
        (b"nonsense", FORM, 400, "cannot be read"),
        (PURPOSE + FILE, FORM, 400, "ends before"),
        (PURPOSE + FILE[:-3], FORM, 400, "ends before"),
        (PURPOSE + END, FORM, 400, "file: is missing"),
        (FILE + END, FORM, 400, "purpose: is missing"),
        (FILE + part("purpose", b"evil") + END, FORM, 400, "purpose"),
        (FILE + part("purpose", b"\xff") + END, FORM, 400, "not UTF-8"),
        (FILE + PURPOSE + PURPOSE + END, FORM, 400, "there twice"),
        (FILE + FILE + PURPOSE + END, FORM, 400, "there twice"),
        (FILE + PURPOSE + part("mode", b"x") + END, FORM, 400, "is not a field"),
        (FILE + PURPOSE + part("expires_after[seconds]", b"-1") + END, FORM, 400, "expires_after[seconds]"),
        (FILE + PURPOSE + part("expires_after[seconds]", b"7200") + END, FORM, 400, "expires_after[anchor]"),
        (b"--b\r\nx: y\r\n\r\ndata\r\n" + END, FORM, 400, "no name"),
        (b"--b\r\n" + b"x: y\r\n" * 100 + b"\r\n", FORM, 400, "header"),
        (b"--b\r\nx: " + b"y" * 10_000, FORM, 400, "header"),
        (part("purpose", b"x" * 5000) + END, FORM, 413, "longer than"),
        (b"".join(part(f"f{i}", b"x") for i in range(30)) + END, FORM, 400, "more than"),
        (part("file", b"x" * 2000, '; filename="a"') + PURPOSE + END, FORM, 413, "larger than 1000"),
        (FILE, FORM | {"content-length": "99999"}, 413, "longer than 20000"),
    ],
)
def test_a_form_that_is_none_is_refused_and_leaves_nothing(
    tmp_path: Path, body: bytes, headers: dict[str, str], status: int, said: str
) -> None:
    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(answer()), file_limits=FileLimits(max_file_bytes=1000)) as shelf:
            for pieces in (body, [body[i : i + 7] for i in range(0, len(body), 7)] or b""):
                reply = await send(shelf, pieces, headers, max_upload_bytes=20_000)
                assert reply.status == status, reply.body
                assert said in reply.error()["message"]
                assert kept(tmp_path) == []

    run(main())


def test_a_name_that_is_a_path_names_nothing_but_itself(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(answer())) as shelf:
            body = part("file", b"x", '; filename="../../../etc/pass\x01wd"') + PURPOSE + END
            reply = await send(shelf, body, FORM)
            assert reply.json()["filename"] == "../../../etc/passwd"
            assert kept(tmp_path) == [reply.json()["id"]]

    run(main())


def test_a_client_that_leaves_in_the_middle_leaves_nothing(tmp_path: Path) -> None:
    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(answer())) as shelf:
            app = make_app(shelf.foreground, files=shelf.files)
            client = Client(app, "POST", "/v1/files", [part("file", b"x" * 500_000, "")[:-2], b"more"], FORM)
            received = client.receive

            async def receive() -> dict[str, Any]:
                message = await received()  # more is announced, and never comes
                return message | {"more_body": True} if message["type"] == "http.request" else message

            client.leave()
            await app(client.scope, receive, client.send)
            assert kept(tmp_path) == []

    run(main())


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/v1/files/{file}"),
        ("GET", "/v1/files/{file}/content"),
        ("DELETE", "/v1/files/{file}"),
        ("GET", "/v1/batches/{batch}"),
        ("POST", "/v1/batches/{batch}/cancel"),
        ("GET", "/v1/files?after={file}"),
        ("GET", "/v1/batches?after={batch}"),
        ("GET", "/v1/files/..%2f{file}"),
    ],
)
def test_ids_of_another_tenant_are_not_found_and_never_forbidden(tmp_path: Path, method: str, path: str) -> None:
    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(answer()), starts=False) as shelf:
            app = make_app(shelf.foreground, keys=OneKey(), files=shelf.files, batches=shelf.batches)
            batch = await shelf.order(b"{}")
            asked = path.format(file=batch.order.input_file_id, batch=batch.id)
            bare, _, query = asked.partition("?")
            client = Client(app, method, bare, headers={"authorization": "Bearer other"})
            client.scope["query_string"] = query.encode()
            reply = await client.run()
            assert (reply.status, reply.error()["code"]) == (404, "not_found")

    run(main())


@settings(max_examples=200, deadline=None)
@given(st.lists(st.one_of(st.binary(max_size=40), st.sampled_from([PURPOSE, FILE, END, b"--b", b"\r\n"])), max_size=12))
def test_whatever_bytes_come_the_reader_answers_or_refuses(pieces: list[bytes]) -> None:
    outcomes = []
    for sent in (pieces, [bytes([byte]) for byte in b"".join(pieces)]):
        form = FormReader(FORM["content-type"].encode())
        try:
            data = b"".join(one for piece in sent for one in form.feed(piece))
            form.finish()
            outcomes.append((data, form.fields, form.filename))
        except HeadraceError as error:
            outcomes.append((type(error),))
    assert outcomes[0] == outcomes[1]
