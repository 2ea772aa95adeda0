"""Fuzz the codecs of the routes that run a model.

No matter what bytes come in, decoding gives a call whose request could be run, or raises a HeadraceError that can be
sent. Never anything else, and never a message larger than a page.

    python -m fuzz.openai_codec [ROUNDS] [SEED]
"""

import json
import random
import sys

from headrace.api.errors import encode_error
from headrace.api.openai import Call, Caller, decode_chat, decode_completion
from headrace.api.openai_embeddings import EmbeddingCall, decode_embeddings
from headrace.api.rerank import RerankCall, ScoreCall, decode_rerank, decode_score
from headrace.core.errors import HeadraceError
from headrace.core.request import Principal, Role

CALLER = Caller(request_id="fuzz", principal=Principal())

DECODERS = (decode_chat, decode_completion, decode_embeddings, decode_score, decode_rerank)

SEEDS = [
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"stream":true,"stream_options":{"include_usage":true}}',
    b'{"model":"m","messages":[{"role":"system","content":[{"type":"text","text":"\\u00e9\\ud83d\\ude00"}],"name":"n"}],'
    b'"temperature":0.5,"top_p":1,"top_k":3,"min_p":0,"seed":-1,"stop":["a","b"],"n":2,"max_completion_tokens":9}',
    b'{"model":"m","messages":[{"role":"assistant","content":"x","tool_calls":[],"refusal":null}],"tools":[],'
    b'"logit_bias":{},"response_format":{"type":"text"},"metadata":{"a":"b"},"store":false,"logprobs":false}',
    b'{"model":"m","prompt":"Hi","best_of":1,"echo":false,"suffix":"","logprobs":null,"user":"u","max_tokens":4}',
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"x","prompt_cache_breakpoint":{"mode":'
    b'"explicit"}}]}],"logprobs":true,"top_logprobs":5,"logit_bias":{"7":-1.5},"typical_p":0.5,"priority":2,'
    b'"response_format":{"type":"json_schema","json_schema":{"name":"n","schema":{"a":[]},"strict":true}},'
    b'"prompt_cache_options":{"mode":"implicit","ttl":"30m"},"prompt_cache_retention":"24h","stop_token_ids":[1]}',
    b'{"model":"m","prompt":"Hi","best_of":3,"n":2,"echo":true,"logprobs":5,"prompt_logprobs":1,"guided_json":"{}",'
    b'"repetition_penalty":1.5,"frequency_penalty":-2,"presence_penalty":2,"cache_salt":"s"}',
    b'{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":null,"reasoning":"r",'
    b'"tool_calls":[{"id":"c","index":0,"type":"function","function":{"name":"f","arguments":"{}"}}]},{"role":"tool",'
    b'"tool_call_id":"c","content":[{"type":"text","text":"y"}]}],"tools":[{"type":"function","function":{"name":"f",'
    b'"description":"d","parameters":{"type":"object"},"strict":true}}],"tool_choice":{"type":"function","function":'
    b'{"name":"f"}},"parallel_tool_calls":false,"reasoning_effort":"high","store":true,"service_tier":"flex"}',
    b'{"model":"m","messages":[{"role":"assistant","refusal":"no","content":[{"type":"refusal","refusal":"no"}]},'
    b'{"role":"assistant","function_call":{"name":"f","arguments":""}},{"role":"function","name":"f","content":"y"}],'
    b'"functions":[{"name":"f","parameters":{}}],"function_call":{"name":"f"},"metadata":{"k":"v"}}',
    b'{"model":"m","messages":[{"role":"user","content":"x"}],"tools":[{"type":"function","function":{"name":"f"}}],'
    b'"tool_choice":{"type":"allowed_tools","allowed_tools":{"mode":"required","tools":[{"type":"function","function":'
    b'{"name":"f"}}]}},"service_tier":"priority"}',
    b'{"model":"m","prompt":["Hi",[1,2],"x"],"n":2,"echo":true,"logprobs":1,"max_tokens":0}',
    b'{"model":"m","prompt":"Hi","suffix":"end"}',
    b'{"model":"m","prompt":"Hi","structured_outputs":{"choice":["a","b"],"json":null,"grammar":null}}',
    b'{"model":"m","prompt":[[1,2,3]],"frequency_penalty":0,"presence_penalty":0.0,"ignore_eos":true,"stop":"x"}',
    b'{"model":"m","input":["a","\\u00e9"],"encoding_format":"base64","dimensions":3,"truncate_prompt_tokens":-1}',
    b'{"model":"m","input":[[1,2],[3]],"user":"u","add_special_tokens":true,"priority":1,"cache_salt":"s"}',
    b'{"model":"m","input":[1,2,3],"encoding_format":"float","normalize":true,"endianness":"little"}',
    b'{"model":"m","text_1":["a","b"],"text_2":["c","d"],"logprobs":true,"padding":"do_not_pad"}',
    b'{"model":"m","query":"q","documents":["a",{"text":"b"}],"top_n":1,"return_documents":false,"rank_fields":null}',
]
SPLICES = [
    b"null",
    b"{}",
    b"[]",
    b'""',
    b"-1",
    b"1e999",
    b"9" * 400,
    b"true",
    b'"\\ud800"',
    b"\xff",
    b"[[[[",
    b'":',
    b"\x00",
]


def check_input(data: bytes) -> None:
    """Hold one input to the invariant on every route."""
    for decode in DECODERS:
        try:
            call = decode(data, CALLER)
        except HeadraceError as error:
            body = encode_error(error)
            assert error.status == 400
            assert len(body) < 16_000
            assert json.loads(body)["error"]["message"]
        else:
            assert isinstance(call, Call | EmbeddingCall | ScoreCall | RerankCall)
            call.request.check()
            for other in call.others if isinstance(call, Call) else ():
                other.check()
            for message in call.request.messages or ():
                message.text.encode()  # what the template gets is text
                assert message.tool_call_id or message.role is not Role.TOOL
                assert all(called.id and called.name is not None for called in message.tool_calls)
            for one in call.request.inputs or ():
                assert one.text or one.pair


def mutate(data: bytes, random_: random.Random) -> bytes:
    """One to eight small damages."""
    out = bytearray(data)
    for _ in range(random_.randint(1, 8)):
        start = random_.randrange(len(out) + 1)
        end = min(len(out), start + random_.randrange(12))
        choice = random_.randrange(4)
        if choice == 0:
            out[start:end] = b""
        elif choice == 1:
            out[start:start] = out[start:end]
        elif choice == 2:
            out[start:end] = random_.choice(SPLICES)
        else:
            out[start:end] = random_.randbytes(end - start)
    return bytes(out)


def main(rounds: int, seed: int) -> None:
    """Damage the seeds `rounds` times; an input that breaks the invariant is printed."""
    random_ = random.Random(seed)  # noqa: S311  (repeatable, not secret)
    for _ in range(rounds):
        data = mutate(random_.choice(SEEDS), random_)
        try:
            check_input(data)
        except BaseException:
            print(f"seed {seed} found: {data!r}", file=sys.stderr)
            raise
    print(f"{rounds} inputs held to the invariant, seed {seed}")


if __name__ == "__main__":
    main(*[int(argument) for argument in [*sys.argv[1:], "100000", "1"][:2]])
