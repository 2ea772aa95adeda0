"""Every field of OpenAI's two generation routes: its type where we support it, its harmless values where we do not.

Tables only. A field is in exactly one of three places: typed in a struct below (supported), a row of an INERT table
(known, accepted only with values that ask for nothing we would leave undone), or nowhere (unknown). Fields that OpenAI
does not have are vLLM's, under vLLM's names. `openai.py` and its neighbours read these; nothing here raises.
"""

from typing import Any

import msgspec

# Any value is accepted: the field tells OpenAI about the caller and changes no answer, so leaving it unread is honest.
ANYTHING: tuple[Any, ...] | None = None

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_SHARED: dict[str, tuple[Any, ...] | None] = {
    "include_stop_str_in_output": (False,),
    "length_penalty": (1,),
    "min_tokens": (0,),
    "skip_special_tokens": (True,),
    "use_beam_search": (False,),
}

INERT_CHAT: dict[str, tuple[Any, ...] | None] = INERT_SHARED | {
    "add_generation_prompt": (True,),
    "audio": (),
    "continue_final_message": (False,),
    "include_reasoning": (True,),
    "modalities": (["text"],),
    "moderation": (),
    # What the answer may look like, so that it comes faster; our drafts come from what was said before.
    "prediction": ANYTHING,
    "prompt_cache_key": ANYTHING,  # a routing hint; our prefix tree finds shared prefixes without it
    "safety_identifier": ANYTHING,
    "verbosity": ("medium",),
    "web_search_options": (),
}

INERT_COMPLETION: dict[str, tuple[Any, ...] | None] = INERT_SHARED

# What a client sends back when it repeats an assistant message that it got from us.
INERT_MESSAGE: dict[str, tuple[Any, ...] | None] = {
    "annotations": ([],),
    "audio": (),
    "parsed": ANYTHING,  # what the official client made of the content
}

INERT_STREAM_OPTIONS: dict[str, tuple[Any, ...] | None] = {"include_obfuscation": (False,)}


class PartBreakpoint(msgspec.Struct, forbid_unknown_fields=True):
    """Says that what stands up to the end of a part is worth keeping."""

    mode: str | None = None


class Part(msgspec.Struct, forbid_unknown_fields=True):
    """One element of a content list. Fields of other kinds are named so that the refusal can speak of the kind."""

    type: str
    text: str | None = None
    prompt_cache_breakpoint: PartBreakpoint | None = None
    refusal: str | None = None
    image_url: Any = None
    input_audio: Any = None
    file: Any = None
    video_url: Any = None


class CalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    """What an assistant called in an earlier turn; `arguments` is JSON as text. `parsed_arguments` is what the official
    client made of it and sends back beside it."""

    name: str
    arguments: str
    parsed_arguments: Any = None


class CalledCustom(msgspec.Struct, forbid_unknown_fields=True):
    """The text that an assistant gave a custom tool in an earlier turn."""

    name: str
    input: str


class CallOfTool(msgspec.Struct, forbid_unknown_fields=True):
    """One of an assistant's `tool_calls`. `index` is a stream's, which some clients send back; the order says it."""

    id: str
    function: CalledFunction | None = None
    type: str = "function"
    index: int | None = None
    custom: CalledCustom | None = None


class Message(msgspec.Struct, forbid_unknown_fields=True):
    """One message as it comes over the wire. `reasoning_content` is DeepSeek's name, `reasoning` vLLM's newer one."""

    role: str
    content: str | list[Part] | None = None
    name: str | None = None
    refusal: str | None = None
    tool_calls: list[CallOfTool] | None = None
    tool_call_id: str | None = None
    function_call: CalledFunction | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None
    annotations: Any = None
    audio: Any = None
    parsed: Any = None


class Function(msgspec.Struct, forbid_unknown_fields=True):
    """A function that may be called."""

    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class CustomGrammar(msgspec.Struct, forbid_unknown_fields=True):
    """A language that a custom tool's text is in."""

    definition: str
    syntax: str


class CustomFormat(msgspec.Struct, forbid_unknown_fields=True):
    """What a custom tool's text looks like."""

    type: str
    grammar: CustomGrammar | None = None


class Custom(msgspec.Struct, forbid_unknown_fields=True):
    """A tool that takes free text."""

    name: str
    description: str | None = None
    format: CustomFormat | None = None


class Tool(msgspec.Struct, forbid_unknown_fields=True):
    """One of `tools`, of type function or custom."""

    type: str
    function: Function | None = None
    custom: Custom | None = None


class NamedFunction(msgspec.Struct, forbid_unknown_fields=True):
    """A function, by its name."""

    name: str


class NamedTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool, by its name."""

    type: str
    function: NamedFunction | None = None
    custom: NamedFunction | None = None


class TemplateSwitches(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's `chat_template_kwargs`, as far as templates have them in common: whether the model is to think."""

    enable_thinking: bool | None = None
    thinking: bool | None = None


class Thinking(msgspec.Struct, forbid_unknown_fields=True):
    """DeepSeek's `thinking`: enabled or disabled."""

    type: str


class AllowedTools(msgspec.Struct, forbid_unknown_fields=True):
    """The tools that may (`auto`) or must (`required`) be called."""

    mode: str
    tools: list[NamedTool]


class Choice(msgspec.Struct, forbid_unknown_fields=True):
    """`tool_choice` as an object."""

    type: str
    function: NamedFunction | None = None
    allowed_tools: AllowedTools | None = None
    custom: NamedFunction | None = None


class StreamOptions(msgspec.Struct, forbid_unknown_fields=True):
    """Options that only a streamed answer has."""

    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None
    include_obfuscation: Any = None


class CacheOptions(msgspec.Struct, forbid_unknown_fields=True):
    """`prompt_cache_options`: whether the whole input is kept too (`implicit`), and for how long."""

    mode: str | None = None
    ttl: str | None = None


class JsonSchema(msgspec.Struct, forbid_unknown_fields=True):
    """The schema of a `response_format`. We are always strict; name and description only tell people something."""

    name: str
    schema: dict[str, Any] | bool | None = None
    strict: bool | None = None
    description: str | None = None


class Format(msgspec.Struct, forbid_unknown_fields=True):
    """`response_format`."""

    type: str
    json_schema: JsonSchema | None = None


class StructuredOutputs(msgspec.Struct, forbid_unknown_fields=True):
    """vLLM's `structured_outputs`: one of these."""

    json: dict[str, Any] | str | bool | None = None
    regex: str | None = None
    choice: list[str] | None = None
    grammar: str | None = None
    json_object: bool | None = None


class RoutedBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What every route takes that runs a model; `input_fields.py` has the others."""

    model: str
    user: str | None = None
    priority: int | None = None
    cache_salt: str | None = None


class SharedBody(RoutedBody, forbid_unknown_fields=True, kw_only=True):
    """What both routes take."""

    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    min_p: float | None = None
    typical_p: float | None = None
    frequency_penalty: float | None = None
    presence_penalty: float | None = None
    repetition_penalty: float | None = None
    # Values are checked by hand, because a refusal has to name the key.
    logit_bias: dict[str, Any] | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    ignore_eos: bool | None = None
    prompt_logprobs: int | None = None
    response_format: Format | None = None
    guided_json: dict[str, Any] | str | bool | None = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: StructuredOutputs | None = None
    include_stop_str_in_output: Any = None
    length_penalty: Any = None
    min_tokens: Any = None
    skip_special_tokens: Any = None
    use_beam_search: Any = None


class ChatBody(SharedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/chat/completions`."""

    messages: list[Message]
    tools: list[Tool] | None = None
    tool_choice: str | Choice | None = None
    parallel_tool_calls: bool | None = None
    functions: list[Function] | None = None
    function_call: str | NamedFunction | None = None
    reasoning_effort: str | None = None
    chat_template_kwargs: TemplateSwitches | None = None
    thinking: Thinking | None = None
    service_tier: str | None = None
    store: bool | None = None
    # Values are checked by hand, because a refusal has to name the key.
    metadata: dict[str, Any] | None = None
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    cached_content: str | None = None
    prompt_cache_options: CacheOptions | None = None
    prompt_cache_retention: str | None = None
    add_generation_prompt: Any = None
    audio: Any = None
    continue_final_message: Any = None
    include_reasoning: Any = None
    modalities: Any = None
    moderation: Any = None
    prediction: Any = None
    prompt_cache_key: Any = None
    safety_identifier: Any = None
    verbosity: Any = None
    web_search_options: Any = None


class CompletionBody(SharedBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/completions`."""

    prompt: str | list[int | str | list[int]]
    best_of: int | None = None
    echo: bool | None = None
    logprobs: int | None = None
    suffix: str | None = None


# Whose fields a path like `messages[0].content[1]` names, for suggestions.
FIELDS_AT: dict[str, tuple[str, ...]] = {
    "chat_template_kwargs": TemplateSwitches.__struct_fields__,
    "functions[]": Function.__struct_fields__,
    "messages[].content[].prompt_cache_breakpoint": PartBreakpoint.__struct_fields__,
    "messages[].content[]": Part.__struct_fields__,
    "messages[].function_call": CalledFunction.__struct_fields__,
    "messages[].tool_calls[].function": CalledFunction.__struct_fields__,
    "messages[].tool_calls[].custom": CalledCustom.__struct_fields__,
    "messages[].tool_calls[]": CallOfTool.__struct_fields__,
    "messages[]": Message.__struct_fields__,
    "prompt_cache_options": CacheOptions.__struct_fields__,
    "response_format.json_schema": JsonSchema.__struct_fields__,
    "response_format": Format.__struct_fields__,
    "stream_options": StreamOptions.__struct_fields__,
    "structured_outputs": StructuredOutputs.__struct_fields__,
    "thinking": Thinking.__struct_fields__,
    "tool_choice.allowed_tools.tools[]": NamedTool.__struct_fields__,
    "tool_choice.allowed_tools": AllowedTools.__struct_fields__,
    "tool_choice": Choice.__struct_fields__,
    "tools[].custom.format.grammar": CustomGrammar.__struct_fields__,
    "tools[].custom.format": CustomFormat.__struct_fields__,
    "tools[].custom": Custom.__struct_fields__,
    "tools[].function": Function.__struct_fields__,
    "tools[]": Tool.__struct_fields__,
}
