"""What in a text that nobody vouches for speaks to a model rather than to a person: cheap signs, added up.

A sign is a phrase that is looked for in the text's plain form: no case, no invisible characters, letters of other
scripts that look like Latin ones read as those. The same signs are looked for, once, in what is decoded from the text.
Signs are no defence: whoever knows them writes around them. They raise a label; rules of flow enforce. Linear, capped.
"""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Final

from headrace.trust.flow.hygiene import clean, decoded

MAX_READ: Final = 200_000
"""Characters of a text that are looked at: its beginning and its end, half each."""
_LOOKALIKES: Final = str.maketrans(
    "\u0430\u0435\u043e\u0440\u0441\u0443\u0445\u0456\u0458\u0455\u0501\u04bb\u03bf\u03b1\u03b9\u03bd\u03c1\u0261\u0131",
    "aeopcyxijsdhoaivpgi",
)
_ORDERS: Final = (
    "ignore previous", "ignore all previous", "ignore the above", "ignore your instructions", "disregard previous",
    "disregard all", "disregard the above", "forget previous", "forget all", "forget your instructions",
    "override your", "new instructions", "updated instructions", "real instructions", "important message from me",
    "before you can solve", "before solving the task", "please do the following first", "do the following first",
    "after you do that, you can", "you must now", "you are now", "from now on you", "your new task", "your real task",
    "do not tell the user", "don't tell the user", "without telling the user", "do not mention this", "without asking",
    "keep this secret from", "reveal your system prompt", "print your system prompt", "repeat your instructions",
    "developer mode", "jailbreak", "act as if you", "pretend that you", "execute the following", "call the tool",
    "use the tool", "call the function", "todo for the assistant",
)  # fmt: skip
_ADDRESSES: Final = (
    "ai assistant", "ai agent", "ai model", "language model", "dear assistant", "attention assistant", "hey assistant",
    "note to assistant", "message to you, the ai", "as an ai", "to the agent", "llm", "chatgpt", "gpt-4", "claude",
)  # fmt: skip
_TOKENS: Final = (
    "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|eot_id|>", "<|end|>", "<|user|>", "<|assistant|>",
    "<|system|>", "[inst]", "[/inst]", "<<sys>>", "<start_of_turn>", "<end_of_turn>", "<|endoftext|>", "</s>",
    "<tool_call>", "<tool_response>", "<|tool_call|>", "[available_tools]", "[tool_results]", "<function_calls>",
    "<|python_tag|>", "<|channel|>",
)  # fmt: skip
_ROLE: Final = re.compile(
    r"^[\s>#*\[\"{]{0,8}(?:role[\"']?\s?:\s?[\"']?)?(system|assistant|developer|tool|user)[\"'\]*]{0,3}\s?:",
    re.MULTILINE,
)
_IMAGE: Final = re.compile(r"!\[[^\]\n]{0,200}\]\(\s{0,8}https?://")
_ESCAPE: Final = re.compile(r"\x1b[\[\]P]")
WEIGHTS: Final[Mapping[str, float]] = {
    "orders": 0.45,
    "addresses": 0.2,
    "tokens": 0.6,
    "roles": 0.3,
    "tools": 0.35,
    "hidden": 0.7,
    "invisible": 0.25,
    "lookalikes": 0.2,
    "encoded": 0.7,
    "images": 0.25,
    "escapes": 0.2,
}
"""How much each sign says by itself; what is seen twice says half as much again, up to twice the weight."""


@dataclass(frozen=True, slots=True)
class Signs:
    """What was found. `score` in [0, 1]: how likely the text speaks to a model, were signs independent."""

    counts: Mapping[str, int]

    @property
    def score(self) -> float:
        """1 minus the product of what is left by each sign."""
        left = 1.0
        for name, count in self.counts.items():
            if count:
                left *= 1.0 - min(0.95, WEIGHTS[name] * (1.0 if count == 1 else 1.5 if count == 2 else 2.0))
        return 1.0 - left


def signs_of(text: str, tools: Iterable[str] = ()) -> Signs:
    """Look through a text. `tools` are names that the agent can call: a text that names one may want it called."""
    if len(text) > MAX_READ:
        text = text[: MAX_READ // 2] + text[-MAX_READ // 2 :]
    cleaned = clean(text)
    read = plain(cleaned.text)
    counts = {
        "orders": _count(read, _ORDERS),
        "addresses": min(1, _count(read, _ADDRESSES)),
        "tokens": _count(read, _TOKENS),
        "roles": len(set(_ROLE.findall(read[:MAX_READ]))),
        "tools": sum(len(name) > 4 and ("_" in name or "." in name) and name.lower() in read for name in tools),
        "hidden": int(len(cleaned.hidden) > 3),
        "invisible": int(sum(cleaned.counts.values()) > 3),
        "lookalikes": int(_mixes(cleaned.text)),
        "encoded": sum(
            _count(plain(one), (*_ORDERS, *_TOKENS)) > 0 for one in (*decoded(cleaned.text), cleaned.hidden)
        ),
        "images": len(_IMAGE.findall(read)),
        "escapes": len(_ESCAPE.findall(text)),
    }
    return Signs({name: count for name, count in counts.items() if count})


def plain(text: str) -> str:
    """The form in which signs are looked for; single spaces, lines kept."""
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text[:MAX_READ])
    text = text.casefold().translate(_LOOKALIKES)
    return "\n".join(" ".join(line.split()) for line in text.split("\n"))


def _count(read: str, phrases: Iterable[str]) -> int:
    flat = read.replace("\n", " ")
    return sum(phrase in flat for phrase in phrases)


def _mixes(text: str) -> bool:
    """Whether a word has Latin letters and ones of another script that look like some."""
    if text.isascii():
        return False
    for word in text.split():
        if (
            not word.isascii()
            and word.translate(_LOOKALIKES) != word
            and any("a" <= one.lower() <= "z" for one in word)
        ):
            return True
    return False
