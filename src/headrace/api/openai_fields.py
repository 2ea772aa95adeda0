"""Every field of OpenAI's two generation routes: its type where we support it, its harmless values where we do not.

Tables only. A field is in exactly one of three places: typed in a struct below (supported), a row of an INERT table
(known, accepted only with values that ask for nothing we would leave undone), or nowhere (unknown). `openai.py` reads
these; nothing here raises.
"""

from typing import Any

import msgspec

# Any value is accepted: the field tells OpenAI about the caller and changes no answer, so leaving it unread is honest.
ANYTHING: tuple[Any, ...] | None = None

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_SHARED: dict[str, tuple[Any, ...] | None] = {
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "logit_bias": ({},),
}

INERT_CHAT: dict[str, tuple[Any, ...] | None] = INERT_SHARED | {
    "audio": (),
    "function_call": ("none", "auto"),
    "functions": ([],),
    "logprobs": (False,),
    "metadata": ANYTHING,
    "modalities": (["text"],),
    "moderation": (),
    "parallel_tool_calls": (True, False),  # without tools there is nothing to call in parallel
    "prediction": (),
    "prompt_cache_key": ANYTHING,  # a routing hint; our prefix tree finds shared prefixes without it
    "prompt_cache_options": (),
    "prompt_cache_retention": ("in_memory",),
    "reasoning_effort": ("none",),
    "response_format": ({"type": "text"},),
    "safety_identifier": ANYTHING,
    "service_tier": ("auto", "default"),
    "store": (False,),
    "tool_choice": ("none", "auto"),
    "tools": ([],),
    "top_logprobs": (0,),
    "verbosity": ("medium",),
    "web_search_options": (),
}

INERT_COMPLETION: dict[str, tuple[Any, ...] | None] = INERT_SHARED | {
    "best_of": (1,),
    "echo": (False,),
    "logprobs": (),  # 0 already asks for the log-probability of each chosen token
    "suffix": ("",),
}

# What a client sends back when it repeats an assistant message that it got from us.
INERT_MESSAGE: dict[str, tuple[Any, ...] | None] = {
    "annotations": ([],),
    "audio": (),
    "function_call": (),
    "refusal": (),
    "tool_call_id": (),
    "tool_calls": ([],),
}

INERT_STREAM_OPTIONS: dict[str, tuple[Any, ...] | None] = {"include_obfuscation": (False,)}


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """One element of a content list. Fields of other kinds are named so that the refusal can speak of the kind."""

    type: str
    text: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    refusal: Any = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message as it comes over the wire."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    annotations: Any = None
    audio: Any = None
    function_call: Any = None
    refusal: Any = None
    tool_call_id: Any = None
    tool_calls: Any = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options that only a streamed answer has."""

    include_usage: bool | None = None
    include_obfuscation: Any = None


class SharedBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What both routes take."""

    model: str
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    user: str | None = None
    frequency_penalty: Any = None
    presence_penalty: Any = None
    logit_bias: Any = None


class ChatBody(SharedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    max_completion_tokens: int | None = None
    audio: Any = None
    function_call: Any = None
    functions: Any = None
    logprobs: Any = None
    metadata: Any = None
    modalities: Any = None
    moderation: Any = None
    parallel_tool_calls: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    prompt_cache_options: Any = None
    prompt_cache_retention: Any = None
    reasoning_effort: Any = None
    response_format: Any = None
    safety_identifier: Any = None
    service_tier: Any = None
    store: Any = None
    tool_choice: Any = None
    tools: Any = None
    top_logprobs: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionBody(SharedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[int | str | list[int]]
    best_of: Any = None
    echo: Any = None
    logprobs: Any = None
    suffix: Any = None


# Whose fields a path like `messages[0].content[1]` names, for suggestions.
FIELDS_AT: dict[str, tuple[str, ...]] = {
    "messages[].content[]": Part.__struct_fields__,
    "messages[]": Message.__struct_fields__,
    "stream_options": StreamOptions.__struct_fields__,
}
