"""Fuzz the codecs of OpenAI's routes, and of those that score and rerank."""

from fuzz.target import Target, decoding

from headrace.api.openai import decode_chat, decode_completion
from headrace.api.openai_embeddings import decode_embeddings
from headrace.api.rerank import decode_rerank, decode_score

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
    b'{"model":"m","messages":[{"role":"assistant","tool_calls":[{"id":"c","type":"custom","custom":{"name":"s","input":'
    b'"ls"}}],"parsed":{"a":1}}],"tools":[{"type":"custom","custom":{"name":"s","format":{"type":"grammar","grammar":'
    b'{"syntax":"regex","definition":"a+"}}}}],"tool_choice":{"type":"custom","custom":{"name":"s"}},"thinking":{"type":'
    b'"disabled"},"chat_template_kwargs":{"enable_thinking":false},"stream":true,"stream_options":{"include_usage":true,'
    b'"continuous_usage_stats":true}}',
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

_CODECS = [
    ("chat", decode_chat, b'"messages"', ("/v1/chat/completions",)),
    ("completions", decode_completion, b'"prompt"', ("/v1/completions",)),
    ("embeddings", decode_embeddings, b'"model":"m","input"', ("/v1/embeddings",)),
    ("score", decode_score, b'"text_1"', ("/v1/score", "/score")),
    ("rerank", decode_rerank, b'"query"', ("/v1/rerank", "/v2/rerank", "/rerank")),
]

TARGETS = [
    Target(name, [seed for seed in SEEDS if field in seed], decoding(decode), paths=paths)
    for name, decode, field, paths in _CODECS
]


def check_input(data: bytes) -> None:
    """Hold one input to the rule on every route."""
    for target in TARGETS:
        target.check(data)
