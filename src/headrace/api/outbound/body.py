"""What bodies for backends share: which tools are told of. For the native protocols also this: fields that a protocol
has no word for are refused by name, and quirks are applied where the body is written.

`ASKED` is the whole of a neutral request that somebody may have asked for, one row for each field in the words of the
neutral request; a protocol names the rows that it can say. A field that is not in the table is said by every protocol,
or kept by those who read the answer (how many calls there may be). Knows no protocol.
"""

from collections.abc import Callable, Mapping
from typing import Any, Final

import msgspec

from headrace.api.outbound.codec import Quirks
from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import FormatKind, Request, Tool, ToolMode

# What a refusal names -> whether the request asks for it.
ASKED: Final[Mapping[str, Callable[[Request], bool]]] = {
    "prompt": lambda request: request.prompt is not None,
    "tokens": lambda request: request.tokens is not None,
    "inputs": lambda request: request.inputs is not None,
    "answer_start": lambda request: bool(request.answer_start),
    "suffix": lambda request: request.suffix is not None,
    "truncate": lambda request: request.truncates,
    "n": lambda request: request.sampling.num_choices > 1,
    "best_of": lambda request: request.sampling.num_drawn > request.sampling.num_choices,
    "seed": lambda request: request.sampling.seed is not None,
    "top_k": lambda request: request.sampling.top_k > 0,
    "min_p": lambda request: request.sampling.min_p > 0,
    "typical_p": lambda request: request.sampling.typical_p < 1,
    "repetition_penalty": lambda request: request.sampling.repetition_penalty != 1,
    "presence_penalty": lambda request: request.sampling.presence_penalty != 0,
    "frequency_penalty": lambda request: request.sampling.frequency_penalty != 0,
    "logit_bias": lambda request: bool(request.sampling.logit_bias),
    "stop_token_ids": lambda request: bool(request.limits.stop_token_ids),
    "ignore_eos": lambda request: request.limits.ignore_eos,
    "logprobs": lambda request: request.logprobs is not None,
    "prompt_logprobs": lambda request: request.prompt_logprobs is not None,
    "response_format": lambda request: request.response_format.kind is not FormatKind.TEXT,
}


def refuse_unsaid(request: Request, said: frozenset[str], protocol: str) -> None:
    """Raise UnsupportedField for the first field that was asked for and is not `said` by the protocol."""
    for name, is_asked in ASKED.items():
        if name not in said and is_asked(request):
            raise unsaid(name, protocol)


def unsaid(
    name: str, protocol: str, remedy: str = "leave it out, or name a model of another backend"
) -> UnsupportedField:
    """The refusal of a field that a protocol has no word for."""
    return UnsupportedField(f"{name}: {protocol} has no word for it; {remedy}.", param=name)


def refuse_names(request: Request, protocol: str) -> None:
    """Raise UnsupportedField for a message whose speaker has a name that nothing else tells."""
    for index, message in enumerate(request.messages or ()):
        if message.name is not None and message.tool_call_id is None:
            raise unsaid(f"messages[{index}].name", protocol)


def offered(request: Request) -> tuple[list[Tool], str | None]:
    """The tools that are told of, and the one that must be called, if it is one. Telling only of those that may be
    called says the same as `allowed_tools`, which few know; where a name says it, all of them stay, as caches like."""
    choice, tools = request.tool_choice, list(request.tools)
    if not choice.names or choice.mode is ToolMode.NONE:
        return tools, None
    if choice.mode is ToolMode.REQUIRED and len(choice.names) == 1:
        return tools, choice.names[0]
    return [tool for tool in tools if tool.name in choice.names], None


def encode_body(fields: Mapping[str, Any], quirks: Quirks) -> bytes:
    """The fields as JSON, without those that are None, and with what the provider always gets. Raises UnsupportedField
    for a field that it would refuse, and InvalidRequest for text that no JSON can carry."""
    given = {name: value for name, value in fields.items() if value is not None}
    for name in quirks.drops & given.keys():
        raise UnsupportedField(
            f"{name}: the backend of this model cannot be asked for that; leave it out, or ask another model.",
            param=name,
        )
    try:
        return msgspec.json.encode({**quirks.adds, **given})
    except UnicodeEncodeError:
        raise InvalidRequest("messages: hold half a character; send whole ones.", param="messages") from None
    except (RecursionError, ValueError, TypeError):
        raise InvalidRequest("tools: a schema cannot be written as JSON; send plain objects.", param="tools") from None
