"""Fuzz the codecs of Responses and Conversations."""

from collections.abc import Callable
from typing import Any

from fuzz.target import CALLER, Check, Target, check_refusal, check_request

from headrace.api.metadata import decode_metadata
from headrace.api.responses import (
    decode_compact,
    decode_conversation,
    decode_count,
    decode_create,
    decode_items,
    decode_turn,
)
from headrace.api.responses_items import complete
from headrace.api.responses_seal import seal
from headrace.api.responses_service import CreateCall
from headrace.api.socket_frames import (
    InvalidSteer,
    decode_create_frame,
    decode_frame,
    decode_steer,
)
from headrace.core.errors import HeadraceError

_SEAL = seal("thought", "reasoning").encode()
_SUMMARY = seal("summary", "summary").encode()

SEEDS = [
    b'{"model":"m","input":"Hi","stream":true,"stream_options":{"include_obfuscation":false,"include_usage":true},'
    b'"store":false}',
    b'{"model":"m","input":[{"role":"user","content":"Hi"},{"type":"message","role":"assistant","content":[{"type":'
    b'"output_text","text":"\\u00e9\\ud83d\\ude00","annotations":[],"logprobs":[]},{"type":"refusal","refusal":"no"}],'
    b'"phase":"commentary","id":"msg_1","status":"completed"}],"instructions":"Be brief.","temperature":0.5,"top_p":1,'
    b'"max_output_tokens":9,"metadata":{"a":"b"},"truncation":"auto","service_tier":"flex","user":"u"}',
    b'{"model":"m","input":[{"type":"function_call","call_id":"c","name":"f","arguments":"{}","namespace":"n"},{"type":'
    b'"function_call_output","call_id":"c","output":[{"type":"input_text","text":"x"}]},{"type":"custom_tool_call",'
    b'"call_id":"d","name":"g","input":"y"},{"type":"custom_tool_call_output","call_id":"d","output":"z"}],"tools":[{'
    b'"type":"function","name":"f","parameters":{"type":"object"},"strict":true},{"type":"custom","name":"g","format":{'
    b'"type":"grammar","syntax":"regex","definition":"[a-z]+"}},{"type":"namespace","name":"n","tools":[{"type":'
    b'"function","name":"f"}]},{"type":"web_search","external_web_access":false}],"tool_choice":{"type":"allowed_tools",'
    b'"mode":"required","tools":[{"type":"function","name":"f"}]},"parallel_tool_calls":false,"max_tool_calls":2}',
    b'{"model":"m","input":[{"type":"reasoning","id":"rs_1","summary":[{"type":"summary_text","text":"x"}],"content":[{'
    b'"type":"reasoning_text","text":"y"}],"encrypted_content":"' + _SEAL + b'"},{"type":"compaction",'
    b'"encrypted_content":"' + _SUMMARY + b'"},{"id":"msg_1"}],"include":["reasoning.encrypted_content",'
    b'"message.output_text.logprobs"],"top_logprobs":3,"reasoning":{"effort":"high","summary":"auto"},"background":true}',
    b'{"model":"m","previous_response_id":"resp_1","input":[{"role":"user","content":[{"type":"input_text","text":"x",'
    b'"prompt_cache_breakpoint":{"mode":"explicit","ttl":"12h"}}]}],"prompt_cache_options":{"mode":"explicit","ttl":'
    b'"30m"},"prompt_cache_retention":"24h","text":{"format":{"type":"json_schema","name":"n","schema":{},"strict":'
    b'true},"verbosity":"medium"},"seed":1,"top_k":2,"min_p":0.1,"priority":3,"cache_salt":"s"}',
    b'{"model":"m","conversation":{"id":"conv_1"},"input":"Hi","safety_identifier":"s","prompt_cache_key":"k"}',
]
_SOCKET = [
    b'{"type":"response.create","stream_id":"a","generate":false,"model":"m","input":"Hi","store":false}',
    b'{"type":"response.create","model":"m","input":"Hi","stream":true,"prompt_cache_options":{"prewarm":true}}',
]
_STEERS = [
    b'{"type":"response.steer","previous_response_id":"resp_1","input":"Wait"}',
    b'{"type":"response.steer","previous_response_id":"r","input":[{"type":"message","role":"user","content":[{"type":'
    b'"input_text","text":"x"}]}]}',
]
_ITEMS = [b'{"items":[{"role":"user","content":"Hi"},{"type":"function_call_output","call_id":"c","output":"x"}]}']
_CONVERSATIONS = [b"{}", b'{"items":[{"role":"user","content":"Hi"}],"metadata":{"a":"b"}}']


def _calls(decode: Callable[[bytes], CreateCall]) -> Check:
    """The check of a decoder whose call becomes a request once its references are resolved."""

    def check(data: bytes) -> bool:
        try:
            call = decode(data)
            items = [item for item in call.items if item["type"] != "item_reference"]
            request = complete(call.request, call.instructions, items, call.cache)
            if items or call.instructions:
                request.check()
        except HeadraceError as error:
            check_refusal(error)
            return False
        if items or call.instructions:
            check_request(request)
        return True

    return check


def _values(decode: Callable[[bytes], Any]) -> Check:
    def check(data: bytes) -> bool:
        try:
            decode(data)
        except HeadraceError as error:
            check_refusal(error)
            return False
        return True

    return check


def _decode_message(data: bytes) -> Any:
    """A WebSocket's message from its text to the call that it is."""
    create = decode_create_frame(decode_frame(_text(data)))
    return decode_turn(create.body, CALLER, generates=create.generates)


def _steers(data: bytes) -> bool:
    try:
        steer = decode_steer(decode_frame(_text(data)))
    except InvalidSteer as refusal:
        assert refusal.message
        return False
    except HeadraceError as error:
        check_refusal(error)
        return False
    assert steer.items
    return True


def _text(data: bytes) -> str:
    """The message; what is not UTF-8 never gets as far as the codec."""
    return data.decode("utf-8", "replace")


TARGETS = [
    Target("responses", SEEDS, _calls(lambda data: decode_create(data, CALLER)), paths=("/v1/responses",)),
    Target("responses-socket", _SOCKET, _calls(_decode_message)),
    Target("responses-steer", _STEERS, _steers),
    Target(
        "responses-count",
        [b'{"model":"m","input":"Hi"}', b'{"input":"Hi"}'],
        _calls(lambda data: decode_count(data, CALLER, "m")),
        paths=("/v1/responses/input_tokens",),
    ),
    Target(
        "responses-compact",
        [b'{"model":"m","input":"Hi"}'],
        _calls(lambda data: decode_compact(data, CALLER)),
        paths=("/v1/responses/compact",),
    ),
    Target(
        "conversations",
        _CONVERSATIONS,
        _values(lambda data: decode_conversation(data, "x")),
        paths=("/v1/conversations",),
    ),
    Target("conversation-items", _ITEMS, _values(lambda data: decode_items(data, "x"))),
    Target("conversation-metadata", [b'{"metadata":{"a":"b"}}'], _values(decode_metadata)),
]
