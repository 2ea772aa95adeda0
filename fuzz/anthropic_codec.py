"""Fuzz the codecs of Anthropic's Messages, with betas and without: unknown fields take another way through them."""

from dataclasses import replace

from fuzz.target import Target, check_refusal, decoding

from headrace.api.anthropic import Call, decode_count, decode_messages
from headrace.api.anthropic_batches import DIALECT, decode_requests
from headrace.api.errors import ANTHROPIC
from headrace.api.openai import Caller
from headrace.core.errors import HeadraceError

PROMPTS = [
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"system":"s"}',
    b'{"model":"m","messages":[{"role":"user","content":[{"type":"text","text":"\\u00e9\\ud83d\\ude00","citations":null,'
    b'"cache_control":{"type":"ephemeral","ttl":"1h"}},{"type":"document","title":"t","context":"c","source":{"type":'
    b'"text","media_type":"text/plain","data":"d"}},{"type":"search_result","title":"t","source":"u","content":[{"type":'
    b'"text","text":"x"}]}]}],"system":[{"type":"text","text":"x"}],"cache_control":{"type":"ephemeral"},"tools":[]}',
    b'{"model":"m","messages":[{"role":"user","content":"x"},{"role":"assistant","content":[{"type":"thinking",'
    b'"thinking":"t","signature":"s"},{"type":"redacted_thinking","data":"d"},{"type":"text","text":"y"},{"type":'
    b'"tool_use","id":"toolu_1","name":"f","input":{"a":[1,2.5,null]},"caller":{"type":"direct"}}]},{"role":"user",'
    b'"content":[{"type":"tool_result","tool_use_id":"toolu_1","is_error":true,"content":[{"type":"text","text":"z"},'
    b'{"type":"tool_reference","tool_name":"g"}]},{"type":"text","text":"w"}]},{"role":"system","content":"s",'
    b'"clear_at":"never"}],"tools":[{"name":"f","description":"d","input_schema":{"type":"object"},"strict":true,'
    b'"cache_control":{"type":"ephemeral"},"input_examples":[{"a":1}]},{"type":"custom","name":"g","defer_loading":true,'
    b'"input_schema":{"type":"object"},"allowed_callers":["direct"]},{"type":"bash_20250124","name":"bash"}],'
    b'"tool_choice":{"type":"tool","name":"f","disable_parallel_tool_use":true}}',
    b'{"model":"m","messages":[{"role":"user","content":"Hi"}],"thinking":{"type":"adaptive","display":"omitted"},'
    b'"output_config":{"effort":"max","format":{"type":"json_schema","schema":{"type":"object"}}},"context_management":'
    b'{"edits":[{"type":"clear_thinking_20251015","keep":{"type":"thinking_turns","value":1}}]},"mcp_servers":[]}',
    b'{"model":"m","messages":[{"role":"user","content":"Hi"},{"role":"assistant","content":[{"type":"thinking",'
    b'"thinking":"","signature":"hr1t_eJzLSM1JAQAEDwGe"}]},{"role":"user","content":"x"}],"output_format":{"type":'
    b'"json_schema","schema":true},"betas":["b"],"container":null,"speed":"standard","tool_choice":null}',
]

ANSWERS = [
    b'{"model":"m","max_tokens":9,"messages":[{"role":"user","content":"Hi"}],"stream":true,"temperature":0.5,"top_p":1,'
    b'"top_k":3,"stop_sequences":["a","b"],"metadata":{"user_id":"u"},"service_tier":"auto"}',
    b'{"model":"m","max_tokens":0,"messages":[{"role":"user","content":"Hi"}],"diagnostics":{"previous_message_id":'
    b'"msg_1"},"inference_geo":null,"fallbacks":"default"}',
    b'{"model":"m","max_tokens":2000,"messages":[{"role":"user","content":"Hi"}],"thinking":{"type":"enabled",'
    b'"budget_tokens":1024}}',
]

BATCHES = [
    b'{"requests":[{"custom_id":"a","params":{"model":"scripted","max_tokens":9,"messages":[{"role":"user","content":"Hi"}]}},'
    b'{"custom_id":"b-2","params":{"model":"scripted", "text":"\\u00e9\\ud83d\\ude00\\n",\n"more":[1,2.5,null]}}]}',
]

MESSAGES = [*ANSWERS, *(seed.replace(b'"model":"m",', b'"model":"m","max_tokens":50,') for seed in PROMPTS)]


def _decode_with_betas(data: bytes, caller: Caller) -> Call:
    return decode_messages(data, replace(caller, headers={b"anthropic-beta": b"new-2030-01-01"}))


def _check_batch(data: bytes) -> bool:
    """A batch is lines that are read again as what they were, or a refusal."""
    try:
        lines = decode_requests(data, lambda _: True, 10)
    except HeadraceError as error:
        check_refusal(error, ANTHROPIC)
        return False
    for line in lines:
        assert line.count(b"\n") == 1
        assert DIALECT.read(line, "/v1/messages").custom_id
    return True


TARGETS = [
    Target("message-batches", BATCHES, _check_batch, paths=("/v1/messages/batches",)),
    Target("messages", MESSAGES, decoding(decode_messages, ANTHROPIC), paths=("/v1/messages",)),
    Target("messages-betas", MESSAGES, decoding(_decode_with_betas, ANTHROPIC)),
    Target("count-tokens", PROMPTS, decoding(decode_count, ANTHROPIC), paths=("/v1/messages/count_tokens",)),
]
