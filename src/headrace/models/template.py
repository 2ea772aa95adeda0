"""Chat templates: from messages to the exact tokens that a model was trained on.

Two promises. A template is a stranger's program and cannot run away (`template_sandbox`). And what people write stays
text: control tokens come from the template alone. For the second, every string that a caller gave is disguised before
rendering where it could be read as a control token, whole or together with the template's text beside it; the rendered
text is cut at control tokens; and the disguise is taken off inside ordinary pieces only, which are then tokenised as
plain text. Disguises are Unicode noncharacters, which templates neither trim nor split at; those that a caller typed
are disguised too. Knows nothing of requests in flight.
"""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any, NoReturn

from jinja2 import Template
from jinja2.exceptions import TemplateError

from headrace.core.clock import Clock, SystemClock
from headrace.core.errors import InvalidRequest, ModelFileError
from headrace.core.request import Message, Role, Tool
from headrace.models.template_sandbox import Budget, FiniteEnvironment, LimitExceeded, current_budget
from headrace.models.tokenizer import MAX_TEXT_CHARS, SpecialTokens, Tokenizer, check_text

MAX_SOURCE_CHARS = 262_144  # the longest published templates have about 20,000
_SPARE_CHARS = 4_194_304  # what a render may make beyond a multiple of its input
_CHARS_PER_INPUT_CHAR = 32
NO_TEMPLATE = "This model has no chat template; use /v1/completions with a prompt instead of messages."
# What a template's own expressions raise when they meet values that they were not written for.
_TEMPLATE_FAULTS = (TypeError, ValueError, LookupError, AttributeError, ArithmeticError, RecursionError)
_WANTS_NINE = re.compile(r"length\s*(?:!=|==)\s*9\b")
_PROBE = "later instruction"
_FORMAT_WIDTH = re.compile(r"%[-_0^#]*\d")


class _Refusal(TemplateError):
    """The template called `raise_exception`."""


class ChatTemplate:
    """One model's template, compiled once per source; rendering is safe from several threads."""

    def __init__(
        self,
        source: str,
        *,
        bos_token: str = "",
        eos_token: str = "",
        clock: Clock | None = None,
        with_tools: str = "",
    ) -> None:
        """`with_tools` is the source for conversations with tools, where that is another one.

        Raises ModelFileError for a source that does not compile or is absurdly long.
        """
        if len(source) > MAX_SOURCE_CHARS:
            raise ModelFileError(f"chat template: {len(source)} characters; at most {MAX_SOURCE_CHARS} are read.")
        self.source = source
        self.tool_source = with_tools or source
        said = f"{source}\0{with_tools}" if with_tools else source
        self.digest = "sha256:" + hashlib.sha256(said.encode("utf-8", "surrogatepass")).hexdigest()
        self._with_tools: ChatTemplate | None = None
        if with_tools:
            self._with_tools = ChatTemplate(with_tools, bos_token=bos_token, eos_token=eos_token, clock=clock)
        self._constants = {"bos_token": bos_token, "eos_token": eos_token}
        self._compiled = _compile(source)
        self._clock = clock or SystemClock()
        self._knows_developer = "developer" in source
        # Mistral's: an id of another length is refused.
        self._id_chars = 9 if _WANTS_NINE.search(source) else None

    @cached_property
    def takes_later_instructions(self) -> bool:
        """Whether it shows a system message in the middle: some templates refuse it, and some leave it out."""
        talk = [("user", "a"), ("system", _PROBE), ("assistant", "b"), ("user", "c")]
        try:
            return _PROBE in self.render([{"role": role, "content": text} for role, text in talk])
        except InvalidRequest:
            return False

    def render(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: Sequence[Mapping[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        variables: Mapping[str, Any] | None = None,
    ) -> str:
        """The text that the template makes of messages in Hugging Face's shape.

        `variables` are what only some templates know, such as `enable_thinking`.
        Raises InvalidRequest with the template's own sentence, or naming the limit that it reached.
        """
        num_chars = _num_chars(messages) + _num_chars(tools or ())
        if num_chars > MAX_TEXT_CHARS:
            raise InvalidRequest(
                f"messages: {num_chars} characters; at most {MAX_TEXT_CHARS} are taken, shorten them.", param="messages"
            )
        budget = Budget(_SPARE_CHARS + _CHARS_PER_INPUT_CHAR * num_chars)
        values = {
            **self._constants,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": add_generation_prompt,
            "strftime_now": self._strftime_now,
            **(variables or {}),
        }
        token = current_budget.set(budget)
        try:
            return self._compiled.render(values)
        except _Refusal as error:
            raise InvalidRequest(f"messages: {error.message}", param="messages") from error
        except LimitExceeded as error:
            raise InvalidRequest(
                f"messages: the model's chat template was stopped: {error}.", param="messages"
            ) from error
        except (TemplateError, *_TEMPLATE_FAULTS) as error:
            raise InvalidRequest(
                f"messages: the model's chat template cannot render them: {str(error).rstrip('.')}.", param="messages"
            ) from error
        finally:
            current_budget.reset(token)

    def encode_chat(
        self,
        tokenizer: Tokenizer,
        messages: Sequence[Message],
        tools: Sequence[Tool] = (),
        *,
        add_generation_prompt: bool = True,
        answer_start: str = "",
        variables: Mapping[str, Any] | None = None,
    ) -> list[int]:
        """Token ids of a conversation, in which only the template's own control tokens are control tokens.

        `answer_start` stands behind all that the template makes, as plain text.
        """
        if self._with_tools is not None and (tools or any(_is_about_tools(message) for message in messages)):
            return self._with_tools.encode_chat(
                tokenizer,
                messages,
                tools,
                add_generation_prompt=add_generation_prompt,
                answer_start=answer_start,
                variables=variables,
            )
        check_text(answer_start)
        disguise = _Disguise(tokenizer.special_tokens)
        rendered = self.render(
            [self._message(message, disguise) for message in messages],
            [_tool(tool, disguise) for tool in tools] or None,
            add_generation_prompt=add_generation_prompt,
            variables=variables,
        )
        ids: list[int] = []
        text = ""
        for piece in tokenizer.split(rendered):
            token_text = piece if isinstance(piece, str) else tokenizer.token_text(piece)
            if isinstance(piece, str) or token_text not in tokenizer.special_tokens:
                text += token_text  # user-defined tokens are found again inside the restored text
                continue
            ids.extend(tokenizer.encode(disguise.remove(text)))
            ids.append(piece)
            text = ""
        ids.extend(tokenizer.encode(disguise.remove(text) + answer_start))
        if tokenizer.add_bos and tokenizer.bos_id is not None and ids[:1] != [tokenizer.bos_id]:
            ids.insert(0, tokenizer.bos_id)
        return ids

    def _message(self, message: Message, disguise: "_Disguise") -> dict[str, Any]:
        role = message.role
        if role is Role.DEVELOPER and not self._knows_developer:
            role = Role.SYSTEM  # the newer name of the same speaker; a template that prints it would invent a role
        check_text(message.text)
        values: dict[str, Any] = {"role": role.value, "content": disguise.put_on(message.text)}
        if message.name is not None:
            values["name"] = disguise.put_on(message.name)
        if message.tool_call_id is not None:
            values["tool_call_id"] = disguise.put_on(self._id(message.tool_call_id))
        if message.reasoning:
            check_text(message.reasoning)
            values["reasoning_content"] = disguise.put_on(message.reasoning)
        if message.tool_calls:
            values["tool_calls"] = [
                {
                    "id": disguise.put_on(self._id(call.id)),
                    "type": "function",
                    "function": {
                        "name": disguise.put_on(call.name),
                        "arguments": disguise.put_on_all(_arguments(call.arguments)),
                    },
                }
                for call in message.tool_calls
            ]
        return values

    def _id(self, given: str) -> str:
        """A call's id as the template wants it: the same for the same, in the call and in its result."""
        if self._id_chars is None or (len(given) == self._id_chars and given.isascii() and given.isalnum()):
            return given
        return hashlib.sha256(given.encode("utf-8", "surrogatepass")).hexdigest()[: self._id_chars]

    def _strftime_now(self, format: str) -> str:  # noqa: A002  (Hugging Face's name)
        if len(format) > 256 or _FORMAT_WIDTH.search(format):
            raise LimitExceeded("it formats the time with a width or with more than 256 characters")
        return datetime.fromtimestamp(self._clock.unix_s()).astimezone().strftime(format)


def _raise_exception(message: str) -> NoReturn:
    raise _Refusal(str(message))


_ENVIRONMENT = FiniteEnvironment({"raise_exception": _raise_exception})


@lru_cache(maxsize=16)  # source -> compiled template; never stale, holds no request's data
def _compile(source: str) -> Template:
    budget = current_budget.set(Budget(_SPARE_CHARS))
    try:
        return _ENVIRONMENT.from_string(source)
    except (TemplateError, LimitExceeded, SyntaxError, MemoryError, *_TEMPLATE_FAULTS) as error:
        line = getattr(error, "lineno", None)
        where = f" in line {line}" if line else ""
        what = str(error).rstrip(".") or type(error).__name__
        raise ModelFileError(
            f"chat template: {what}{where}; the template in the model's files cannot be used."
        ) from error
    finally:
        current_budget.reset(budget)


class _Disguise:
    """Replaces what could be read as a control token by noncharacters, and back. One per conversation."""

    _OPEN, _CLOSE, _DIGITS = "\ufdd0", "\ufdd1", "\ufdd2\ufdd3\ufdd4\ufdd5\ufdd6\ufdd7\ufdd8\ufdd9\ufdda\ufddb"
    _DISGUISED = re.compile(f"{_OPEN}([{_DIGITS}]+){_CLOSE}")
    _WRITE = str.maketrans("0123456789", _DIGITS)
    _READ = str.maketrans(_DIGITS, "0123456789")

    def __init__(self, special: Mapping[str, int]) -> None:
        self._shapes = _special_shapes(tuple(special))
        self._hidden: list[str] = []
        self._numbers: dict[str, int] = {}

    def put_on(self, text: str) -> str:
        """`text` with nothing in it that is, or that its neighbours could complete to, a control token."""
        hidden = self._put_on_whole(text)
        core = hidden.strip()  # a template may trim, so the characters that count are inside the spaces
        shapes = self._shapes
        lengths = range(1, min(shapes.longest, len(core) + 1))
        completes = any(core[:length] in shapes.endings for length in lengths)
        completes |= 0 < len(core) < shapes.longest and core in shapes.joined
        if len(core) > 1 and any(core[-length:] in shapes.beginnings for length in lengths):
            last = hidden.rindex(core[-1])
            hidden = hidden[:last] + self._stand_in(core[-1]) + hidden[last + 1 :]
        if completes:
            first = hidden.index(core[0])
            hidden = hidden[:first] + self._stand_in(core[0]) + hidden[first + 1 :]
        return hidden

    def put_on_all(self, value: Any) -> Any:
        """Every string inside a JSON value, whole control tokens only.

        Templates look such values up by name and compare them, and print them between quotes or on lines of their own.
        """
        if isinstance(value, str):
            check_text(value)
            return self._put_on_whole(value)
        if isinstance(value, Mapping):
            return {self.put_on_all(key): self.put_on_all(item) for key, item in value.items()}
        if isinstance(value, (list, tuple)):
            return [self.put_on_all(item) for item in value]
        return value

    def _put_on_whole(self, text: str) -> str:
        pieces = self._shapes.whole.split(text)
        return "".join(
            piece if isinstance(piece, str) else self._stand_in(self._shapes.texts[piece]) for piece in pieces
        )

    def remove(self, text: str) -> str:
        """What was put on, taken off."""
        return self._DISGUISED.sub(self._restore, text) if self._OPEN in text else text

    def _stand_in(self, text: str) -> str:
        number = self._numbers.setdefault(text, len(self._hidden))
        if number == len(self._hidden):
            self._hidden.append(text)
        return self._OPEN + str(number).translate(self._WRITE) + self._CLOSE

    def _restore(self, match: re.Match[str]) -> str:
        number = int(match[1].translate(self._READ)) if len(match[1]) < 10 else -1
        # Only a template that cut a stand-in to pieces could have made another number.
        return self._hidden[number] if 0 <= number < len(self._hidden) else ""


@dataclass(frozen=True, slots=True)
class _Shapes:
    """What can be a control token, or a part of one, for one model."""

    texts: tuple[str, ...]
    whole: SpecialTokens
    beginnings: frozenset[str]
    endings: frozenset[str]
    longest: int
    joined: str


@lru_cache(maxsize=16)  # a model's control tokens -> their shapes; never stale
def _special_shapes(special: tuple[str, ...]) -> _Shapes:
    texts = (*special, *map(chr, range(0xFDD0, 0xFDF0)))
    return _Shapes(
        texts=texts,
        whole=SpecialTokens({text: number for number, text in enumerate(texts)}),
        beginnings=frozenset(text[:length] for text in special for length in range(1, len(text))),
        endings=frozenset(text[-length:] for text in special for length in range(1, len(text))),
        longest=max(map(len, special), default=0),
        joined="\n".join(special),
    )


def _is_about_tools(message: Message) -> bool:
    return message.role is Role.TOOL or bool(message.tool_calls)


def _tool(tool: Tool, disguise: _Disguise) -> dict[str, Any]:
    function = {"name": tool.name, "description": tool.description, "parameters": tool.parameters}
    return {"type": "function", "function": disguise.put_on_all(function)}


def _arguments(text: str) -> Any:
    # Templates are written for an object; what a model wrote need not be one.
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, dict) else text


def _num_chars(value: Any) -> int:
    if isinstance(value, str):
        return len(value)
    if isinstance(value, Mapping):
        return sum(_num_chars(key) + _num_chars(item) for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return 1 + sum(map(_num_chars, value))
    return 1
