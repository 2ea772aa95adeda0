"""Fuzz the codec of Anthropic's routes."""

from fuzz.target import CALLER, Check, Target, decoding

from headrace.api.anthropic import decode_count, decode_messages
from headrace.api.errors import ANTHROPIC
from headrace.api.openai import Caller

_BETAS = Caller(request_id="fuzz", principal=CALLER.principal, headers={b"anthropic-beta": b"new-thing-2027-01-01"})

SEEDS = [
    b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"stream":true}',
    b'{"model":"m","max_tokens":100,"system":[{"type":"text","text":"Be brief.","cache_control":{"type":"ephemeral",'
    b'"ttl":"1h"}}],"messages":[{"role":"user","content":[{"type":"text","text":"\\u00e9\\ud83d\\ude00"}]}],'
    b'"stop_sequences":["END","\\n"],"temperature":0.5,"top_p":0.9,"top_k":5,"metadata":{"user_id":"u"}}',
    b'{"model":"m","max_tokens":2000,"thinking":{"type":"enabled","budget_tokens":1024},"tools":[{"name":"read",'
    b'"description":"Reads.","input_schema":{"type":"object","properties":{"path":{"type":"string"}}},"cache_control":'
    b'{"type":"ephemeral"}}],"tool_choice":{"type":"auto","disable_parallel_tool_use":true},"messages":[{"role":"user",'
    b'"content":"Read a."},{"role":"assistant","content":[{"type":"thinking","thinking":"Hm.","signature":"s"},{"type":'
    b'"text","text":"Reading."},{"type":"tool_use","id":"t1","name":"read","input":{"path":"a"}}]},{"role":"user",'
    b'"content":[{"type":"tool_result","tool_use_id":"t1","content":[{"type":"text","text":"42"}],"is_error":false},'
    b'{"type":"text","text":"Well?","cache_control":{"type":"ephemeral"}}]}]}',
    b'{"model":"m","max_tokens":50,"messages":[{"role":"user","content":"Hi"}],"output_config":{"effort":"low","format":'
    b'{"type":"json_schema","schema":{"type":"object","properties":{"a":{"type":"integer"}},"required":["a"],'
    b'"additionalProperties":false}}},"service_tier":"auto","diagnostics":{"previous_message_id":null}}',
    b'{"model":"m","max_tokens":5,"tools":[{"name":"a","input_schema":{"type":"object"}},{"name":"b","input_schema":'
    b'{"type":"object"},"strict":true}],"tool_choice":{"type":"tool","name":"a"},"messages":[{"role":"user","content":'
    b'"Go"}],"cache_control":{"type":"ephemeral"}}',
]
COUNTS = [
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"system":"Be brief."}',
    b'{"model":"m","tools":[{"name":"a","input_schema":{"type":"object"}}],"messages":[{"role":"user","content":[{"type":'
    b'"text","text":"x"}]},{"role":"assistant","content":"y"},{"role":"user","content":"z"}]}',
]


def _with_betas() -> Check:
    """Requests that name betas may carry what nobody knows, which is left out."""
    return decoding(lambda data, _: decode_messages(data, _BETAS), ANTHROPIC)


TARGETS = [
    Target("messages", SEEDS, decoding(decode_messages, ANTHROPIC), paths=("/v1/messages",)),
    Target("messages with betas", SEEDS, _with_betas()),
    Target("count_tokens", COUNTS, decoding(decode_count, ANTHROPIC), paths=("/v1/messages/count_tokens",)),
]
