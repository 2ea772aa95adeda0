"""Fuzz what batches, uploads and explicit caches bring: orders, lines of an input, and forms, in one piece and two."""

from collections.abc import Callable
from typing import Any

from fuzz.target import Check, Target, check_refusal

from headrace.api.batches import decode_order, read_line
from headrace.api.caches import decode_cache, decode_change
from headrace.api.files import read_note
from headrace.api.multipart import FormReader
from headrace.core.errors import HeadraceError

ORDERS = [
    b'{"input_file_id":"file-1","endpoint":"/v1/chat/completions","completion_window":"24h"}',
    b'{"input_file_id":"file-1","endpoint":"/v1/embeddings","completion_window":"24h","metadata":{"a":"b"},'
    b'"output_expires_after":{"anchor":"created_at","seconds":3600}}',
]
LINES = [
    b'{"custom_id":"a","method":"POST","url":"/v1/chat/completions","body":{"model":"m","messages":[]}}',
    b'{"custom_id":"\\u00e9","method":"POST","url":"/v1/chat/completions","body":{"model":"m"},"more":1}',
]
FORMS = [
    b'--b\r\nContent-Disposition: form-data; name="purpose"\r\n\r\nbatch\r\n--b\r\nContent-Disposition: form-data; '
    b'name="file"; filename="a.jsonl"\r\nContent-Type: application/octet-stream\r\n\r\n{}\r\n--b--\r\n',
    b'--b\r\ncontent-disposition: form-data; name="file"\r\n\r\n\r\n--\r\n--b\r\ncontent-disposition: form-data; name='
    b'"purpose"\r\n\r\nuser_data\r\n--b\r\ncontent-disposition: form-data; name="expires_after[anchor]"\r\n\r\n'
    b'created_at\r\n--b\r\ncontent-disposition: form-data; name="expires_after[seconds]"\r\n\r\n3600\r\n--b--\r\n',
]


CACHES = [
    b'{"model":"scripted","contents":"x","system_instruction":"s","ttl":"300s","display_name":"n"}',
    b'{"model":"scripted","contents":[{"role":"user","parts":[{"text":"a"}]},{"role":"model","parts":[{"text":"b"}]}],'
    b'"tools":[{"function_declarations":[{"name":"f","description":"d","parameters":{"type":"OBJECT","properties":{"a":'
    b'{"type":"STRING","nullable":true}}}}]},{"type":"function","function":{"name":"g"}}],"tool_config":'
    b'{"function_calling_config":{"mode":"ANY","allowed_function_names":["f"]}}}',
    b'{"model":"scripted","messages":[{"role":"user","content":"x"}],"ttl":"0.5s","system_instruction":{"parts":[{"text":'
    b'"s"}]}}',
]


def _check(decode: Callable[[bytes], Any]) -> Check:
    def check(data: bytes) -> bool:
        try:
            decode(data)
        except HeadraceError as error:
            check_refusal(error)
            return False
        return True

    return check


def _read_form(data: bytes) -> None:
    """A form, in one piece and in two: the same either way."""
    ends: list[Any] = []
    for pieces in ([data], [data[: len(data) // 2], data[len(data) // 2 :]]):
        form = FormReader(b"multipart/form-data; boundary=b")
        try:
            file = b"".join(one for piece in pieces for one in form.feed(piece))
            form.finish()
            ends.append((file, read_note(form.fields, form.filename or "")))
        except HeadraceError as error:
            ends.append(error)
    assert type(ends[0]) is type(ends[1])
    if isinstance(ends[0], HeadraceError):
        raise ends[0]
    assert ends[0] == ends[1]


TARGETS = [
    Target("batch-order", ORDERS, _check(decode_order)),
    Target("batch-line", LINES, _check(lambda data: read_line(data, "/v1/chat/completions"))),
    Target("cache", CACHES[:2], _check(decode_cache), paths=("/v1/caches",)),
    Target("cache-messages", CACHES, _check(decode_cache)),
    Target("cache-change", [b'{"ttl":"60s"}', b'{"expire_time":"2030-01-02T03:04:05Z"}'], _check(decode_change)),
    Target("upload-form", FORMS, _check(_read_form)),
]
