"""Fuzz the codecs of `/tokenize` and `/detokenize`."""

from types import SimpleNamespace

from fuzz.target import Target, decoding

from headrace.api.openai import Caller
from headrace.api.tokens import TokenizeCall, decode_detokenize, decode_tokenize

TOKENIZE_SEEDS = [
    b'{"model":"m","prompt":"Hi","add_special_tokens":false,"return_token_strs":true}',
    b'{"messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}}],'
    b'"add_generation_prompt":false,"continue_final_message":false}',
    b'{"content":"Hi","add_special":true,"with_pieces":true,"parse_special":true}',
]
DETOKENIZE_SEEDS = [b'{"model":"m","tokens":[1,2,3]}', b'{"tokens":[0]}']


def _tokenize(data: bytes, caller: Caller) -> TokenizeCall:
    return decode_tokenize(data, caller, "m")


def _detokenize(data: bytes, caller: Caller) -> SimpleNamespace:
    return SimpleNamespace(request=decode_detokenize(data, caller, "m"))


TARGETS = [
    Target("tokenize", TOKENIZE_SEEDS, decoding(_tokenize), paths=("/tokenize",)),
    Target("detokenize", DETOKENIZE_SEEDS, decoding(_detokenize), paths=("/detokenize",)),
]
