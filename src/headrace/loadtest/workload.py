"""What is asked: made-up conversations of given lengths, or a file of somebody's own requests.

Made-up ones are the same for the same seed. Their lengths in tokens are what the words come to by a ratio that is
measured first (`Ratio`), because whoever is asked has a tokenizer of its own; what the server counted is reported.
Knows no sockets.
"""

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from typing import Protocol as Contract

from headrace.core.errors import InvalidRequest
from headrace.loadtest.plan import Protocol

MAX_TOKENS: Final = 10_000_000
MAX_TURNS: Final = 1000
MAX_FILE_BYTES: Final = 256 * 2**20
MAX_LINES: Final = 1_000_000

# Short and frequent, so that nearly every tokenizer has them whole with the space before them.
_WORDS: Final = """
the of and to in is was he for it with as his on be at by had not are but from or have an they which one you
were her all she there would their we him been has when who will more no if out so said what up its about into
than them can only other new some could time these two may then do first any my now such like our over man me
even most made after also did many before must through back years where much your way well down should because
each just those people how too little state good very make world still own see men work long get here between
both life being under never day same another know while last might us great old year off come since against go
came right used take three
""".split()  # noqa: SIM905 - words are read more easily as text

Fields = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Ratio:
    """How words become tokens of the server's: `overhead` for what stands around a prompt, and tokens a word."""

    tokens_per_word: float = 1.0
    overhead: float = 0.0
    is_measured: bool = False

    def words(self, tokens: float) -> int:
        """How many words come to so many tokens, what stands around them not counted."""
        return max(0, round(tokens / self.tokens_per_word))

    @classmethod
    def of(cls, few: tuple[int, int], many: tuple[int, int]) -> "Ratio":
        """The line through two counts, each words and tokens."""
        (words, tokens), (more_words, more_tokens) = few, many
        per_word = (more_tokens - tokens) / (more_words - words)
        if per_word <= 0:
            return cls()
        return cls(per_word, max(0.0, tokens - per_word * words), True)


@dataclass(frozen=True, slots=True)
class Conversation:
    """Turns of one conversation: `turns[k]` are the messages that turn k adds behind the answer before it. `fields`
    go into every body."""

    turns: tuple[tuple[Fields, ...], ...]
    fields: Fields = field(default_factory=dict)

    def body(self, answers: Sequence[str], protocol: Protocol) -> dict[str, Any]:
        """The next request, given what was answered so far."""
        messages = list(self.turns[0])
        for answer, added in zip(answers, self.turns[1:], strict=False):
            messages.append({"role": "assistant", "content": answer})
            messages.extend(added)
        if protocol == "chat":
            return {"messages": messages, **self.fields}
        if "prompt" in self.fields:
            return dict(self.fields)
        return {"prompt": "\n\n".join(str(one["content"]) for one in messages), **self.fields}


class Workload(Contract):
    """What is asked, conversation after conversation."""

    def conversation(self, index: int) -> Conversation:
        """The one of that number, the same each time."""
        ...

    def describe(self) -> dict[str, Any]:
        """Its conditions, for the report."""
        ...


@dataclass(frozen=True, slots=True)
class Sizes:
    """Of made-up conversations: tokens of a prompt's first turn, of which the first `prefix_tokens` are shared by all
    that have the same of `num_prefixes` beginnings; tokens of an answer; turns, each of which adds `turn_tokens`
    (None: as many as the first has of its own)."""

    prompt_tokens: int = 256
    output_tokens: int = 64
    prefix_tokens: int = 0
    num_prefixes: int = 1
    turns: int = 1
    turn_tokens: int | None = None

    def __post_init__(self) -> None:
        bounds = {
            "prompt_tokens": (1, MAX_TOKENS),
            "output_tokens": (1, MAX_TOKENS),
            "prefix_tokens": (0, self.prompt_tokens),
            "num_prefixes": (1, MAX_LINES),
            "turns": (1, MAX_TURNS),
            "turn_tokens": (1, MAX_TOKENS),
        }
        for name, (least, most) in bounds.items():
            value = getattr(self, name)
            if value is not None and not least <= value <= most:
                option = name.removeprefix("num_").replace("_", "-")
                raise InvalidRequest(
                    f"{option}: {value} is not from {least} to {most}; correct --{option}.", param=option
                )


class MadeUp:
    """Conversations of words that mean nothing."""

    def __init__(self, sizes: Sizes, seed: int, ratio: Ratio, protocol: Protocol) -> None:
        self._sizes = sizes
        self._seed = seed
        self._ratio = ratio
        self._protocol = protocol

    def conversation(self, index: int) -> Conversation:
        """See `Workload`."""
        sizes, chance = self._sizes, random.Random(f"{self._seed}/{index}")  # noqa: S311
        own = max(1.0, sizes.prompt_tokens - sizes.prefix_tokens - self._ratio.overhead)
        opening: list[Fields] = []
        if sizes.prefix_tokens:
            which = chance.randrange(sizes.num_prefixes)
            shared = random.Random(f"{self._seed}/prefix/{which}")  # noqa: S311
            opening.append({"role": "system", "content": self._text(shared, sizes.prefix_tokens)})
        turns = [(*opening, {"role": "user", "content": self._text(chance, own)})]
        added = sizes.turn_tokens or own
        turns.extend(({"role": "user", "content": self._text(chance, added)},) for _ in range(sizes.turns - 1))
        return Conversation(tuple(turns), {"max_tokens": sizes.output_tokens})

    def describe(self) -> dict[str, Any]:
        """See `Workload`."""
        told = {name: getattr(self._sizes, name) for name in Sizes.__dataclass_fields__}
        return {"kind": "made up", **told, "tokens_per_word": round(self._ratio.tokens_per_word, 4)}

    def _text(self, chance: random.Random, tokens: float) -> str:
        return " ".join(chance.choices(_WORDS, k=max(1, self._ratio.words(tokens))))


def probe_text(num_words: int) -> str:
    """So many words, to learn what they come to."""
    chance = random.Random(f"probe/{num_words}")  # noqa: S311
    return " ".join(chance.choices(_WORDS, k=num_words))


class FromFile:
    """Somebody's own requests, in the order of their file, again from its start when it ends."""

    def __init__(self, conversations: Sequence[Conversation], name: str) -> None:
        self._conversations = conversations
        self._name = name

    @property
    def models(self) -> set[str | None]:
        """Those that its requests name, None among them if some name none."""
        return {str(named) if (named := one.fields.get("model")) else None for one in self._conversations}

    def conversation(self, index: int) -> Conversation:
        """See `Workload`."""
        return self._conversations[index % len(self._conversations)]

    def describe(self) -> dict[str, Any]:
        """See `Workload`."""
        return {"kind": "file", "file": self._name, "num_requests": len(self._conversations)}


def read_file(path: Path, output_tokens: int, protocol: Protocol) -> FromFile:
    """A file with one JSON object a line: a request's body (`messages`, or `prompt` for completions, and whatever else
    it has), or a line of a batch, whose `body` is one. Raises InvalidRequest, which names the line."""
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            raise InvalidRequest(f"workload: {path} is larger than {MAX_FILE_BYTES // 2**20} MiB; give a part of it.")
        lines = path.read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror or error if isinstance(error, OSError) else error
        raise InvalidRequest(f"workload: {path} cannot be read ({why}); name a file of JSON lines.") from None
    found = []
    for number, line in enumerate(lines[:MAX_LINES], 1):
        if line.strip():
            found.append(_read_line(f"workload: line {number} of {path}", line, output_tokens, protocol))
    if not found:
        raise InvalidRequest(f"workload: {path} has no request; write one JSON object a line.")
    return FromFile(found, path.name)


def _read_line(where: str, line: str, output_tokens: int, protocol: Protocol) -> Conversation:
    try:
        given = json.loads(line)
    except ValueError as error:
        raise InvalidRequest(f"{where} is no JSON ({error}); mend it.") from None
    body = given.get("body", given) if isinstance(given, dict) else None
    if not isinstance(body, dict):
        raise InvalidRequest(f"{where} is no object; write a request's body.")
    fields = {"max_tokens": output_tokens, **body}
    if "max_completion_tokens" in body:
        del fields["max_tokens"]
    if protocol == "completions":
        if "prompt" not in body:
            raise InvalidRequest(f"{where} has no prompt; completions need one, messages go to --endpoint chat.")
        return Conversation(((),), fields)
    messages = fields.pop("messages", None)
    if not isinstance(messages, list) or not messages or not all(isinstance(one, dict) for one in messages):
        raise InvalidRequest(f"{where} has no messages; a list of objects with role and content is needed.")
    return Conversation((tuple(messages),), fields)
