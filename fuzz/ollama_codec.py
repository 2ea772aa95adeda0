"""Fuzz the codecs of Ollama's routes, of which an empty question asks to load a model and has no request."""

from collections.abc import Callable
from typing import Any

from fuzz.target import CALLER, Check, Target, check_refusal, check_request

from headrace.api.errors import OLLAMA
from headrace.api.ollama import LoadCall, decode_chat, decode_embed, decode_embeddings, decode_generate
from headrace.api.ollama_models import decode_pull, decode_show
from headrace.api.openai import Caller
from headrace.core.errors import HeadraceError

CHATS = [
    b'{"model":"m:latest","messages":[{"role":"system","content":"s"},{"role":"user","content":"Hi","images":[]}],'
    b'"stream":false,"keep_alive":"1h30m","think":true,"options":{"temperature":0.5,"top_k":3.0,"top_p":1,"min_p":0.1,'
    b'"seed":-1,"num_predict":-1,"stop":["a"],"num_ctx":2048,"repeat_penalty":1.1,"repeat_last_n":-1,"mirostat":0}}',
    b'{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":"","thinking":"t",'
    b'"tool_calls":[{"function":{"name":"f","arguments":{"a":[1,null]},"index":0}},{"id":"c","type":"function",'
    b'"function":{"name":"g","arguments":{}}}]},{"role":"tool","content":"1","tool_name":"f"},{"role":"tool",'
    b'"content":"2","tool_call_id":"c"}],"tools":[{"type":"function","function":{"name":"f","description":"d",'
    b'"parameters":{"type":"object"}}}],"format":{"type":"object"},"logprobs":true,"top_logprobs":2}',
    b'{"model":"m","messages":[{"role":"user","content":"\\u00e9"}],"format":"json","think":"high","options":{"stop":'
    b'"x","presence_penalty":1,"frequency_penalty":-1,"typical_p":0.9,"num_gpu":99},"keep_alive":-1,"shift":true}',
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"keep_alive":0,"stream":null,"truncate":false}',
]
PROMPTS = [
    b'{"model":"m","prompt":"Hi","system":"s","stream":false,"template":"","context":[],"images":[],"suffix":""}',
    b'{"model":"m","prompt":"Hi","raw":true,"options":{"num_predict":3}}',
    b'{"model":"m","prompt":"a","suffix":"b","format":""}',
    b'{"model":"m","prompt":"","keep_alive":"0s"}',
]
TEXTS = [
    b'{"model":"m","input":["a","b"],"truncate":true,"dimensions":4,"options":{},"keep_alive":"5m"}',
    b'{"model":"m","input":"a","truncate":false}',
    b'{"model":"m","input":[]}',
]


def _check(decode: Callable[[bytes, Caller], Any]) -> Check:
    def check(data: bytes) -> bool:
        try:
            call = decode(data, CALLER)
        except HeadraceError as error:
            check_refusal(error, OLLAMA)
            return False
        if not isinstance(call, LoadCall):
            check_request(call.request)
        return True

    return check


def _check_named(decode: Callable[[bytes], Any]) -> Check:
    def check(data: bytes) -> bool:
        try:
            decode(data)
        except HeadraceError as error:
            check_refusal(error, OLLAMA)
            return False
        return True

    return check


TARGETS = [
    Target("ollama-chat", CHATS, _check(decode_chat), paths=("/api/chat",)),
    Target("ollama-generate", PROMPTS, _check(decode_generate), paths=("/api/generate",)),
    Target("ollama-embed", TEXTS, _check(decode_embed), paths=("/api/embed",)),
    Target("ollama-embeddings", [b'{"model":"m","prompt":"a"}'], _check(decode_embeddings), paths=("/api/embeddings",)),
    Target(
        "ollama-show", [b'{"model":"scripted:latest","verbose":true}'], _check_named(decode_show), paths=("/api/show",)
    ),
    Target("ollama-pull", [b'{"model":"smollm2","stream":false}'], _check_named(decode_pull), paths=("/api/pull",)),
]
