"""Made-up traffic: accounts of people and programs that use a model, and accounts that crawl it to copy it.

Both say what they say about the same texts, the manuals and docstrings of this Python, so that no test can tell them
apart by what they are about; an account is told apart, if at all, by how it asks. Everything follows from seeds. It is
made by those who made the test, which flatters any test: what a measurement on it says is that the test works, and not
how well it would on real accounts. Knows no monitor.
"""

import importlib
import inspect
import pydoc_data.topics as manuals
import re
from collections.abc import Callable, Iterator
from functools import cache
from random import Random
from typing import Final

_MODULES: Final = (
    "argparse", "asyncio", "base64", "bisect", "calendar", "collections", "configparser", "contextlib", "csv",
    "dataclasses", "datetime", "decimal", "difflib", "email.message", "enum", "fractions", "functools", "glob",
    "hashlib", "heapq", "http.client", "inspect", "io", "ipaddress", "itertools", "json", "logging", "mailbox",
    "math", "mimetypes", "os.path", "pathlib", "pickle", "platform", "queue", "random", "re", "sched", "shelve",
    "shutil", "socket", "sqlite3", "statistics", "string", "subprocess", "tarfile", "tempfile", "textwrap",
    "threading", "timeit", "tokenize", "traceback", "typing", "unittest", "urllib.parse", "uuid", "warnings", "wave",
    "weakref", "xml.dom.minidom", "zipfile",
)  # fmt: skip

Draw = Callable[[Random], str]


@cache
def passages() -> tuple[tuple[str, ...], ...]:
    """Sentences by topic."""
    texts = {name: text for name, text in manuals.topics.items() if len(text) > 2000}
    for name in _MODULES:
        module = importlib.import_module(name)
        docs = [inspect.getdoc(module) or ""]
        members = [one for one in vars(module).values() if inspect.isfunction(one) or type(one) is type]
        docs += [inspect.getdoc(one) or "" for one in members]
        texts[name] = "\n\n".join(docs)
    found = []
    for _, text in sorted(texts.items()):
        plain = re.sub(r"[*`|+=\-]{2,}|\s+", " ", text)
        sentences = [one.strip() for one in re.split(r"(?<=[.:?]) (?=[A-Z])", plain) if 40 <= len(one) <= 320]
        if len(sentences) >= 8:
            found.append(tuple(dict.fromkeys(sentences)))
    return tuple(found)


@cache
def words() -> tuple[str, ...]:
    """What people ask about: longer words of the passages."""
    counts: dict[str, int] = {}
    for topic in passages():
        for word in re.findall(r"[a-z_]{5,14}", " ".join(topic)):
            counts[word] = counts.get(word, 0) + 1
    return tuple(sorted(word for word, count in counts.items() if count >= 3))


def _sentence(random: Random, topics: tuple[int, ...]) -> str:
    return random.choice(passages()[random.choice(topics)])


def _word(random: Random) -> str:
    return random.choice(words())


_ASKS: Final[tuple[tuple[str, ...], ...]] = (
    ("how do i {w} a {w}", "how to {w} {w} in python?", "whats the best way to {w} the {w}", "How can I {w} this {w}?"),
    ("what does this mean: {s}", "can you explain: {s}", "{s} - i dont get this", "explain like im five: {s}"),
    ("summarize {s} {s} {s}", "TL;DR please: {s} {s}", "Give me the gist of this:\n{s} {s} {s}", "shorter: {s} {s}"),
    ("i get an error about {w} when i {w}, why", "it fails with '{w}: {w} {w}' what now", "{w} is broken again, help"),
    ("write an email to my boss about the {w}", "draft a note saying {s}", "make this friendlier: {s}"),
    ("{w} vs {w}?", "which is better, {w} or {w}, for a small team", "pros and cons of {w}", "is {w} worth it"),
    ("thanks!", "ok and then", "no, the other one", "can you redo that but shorter", "hmm that doesnt work", "more"),
    ("ideas for a {w} project with {w}", "name for a {w} app?", "give me a plan to learn {w} in a week"),
    ("translate to german: {s}", "wie sagt man {w} auf englisch", "correct my english: {s}", "auf deutsch bitte: {s}"),
    ("write a function that {w}s a {w}", "regex for {w} followed by {w}", "refactor: def {w}({w}): return {w}"),
    ("is it true that {s}", "source for this? {s}", "why would anyone {w} a {w}", "what happens if {w} is {w}"),
    ("make a table of {w}, {w} and {w}", "list 5 {w}s", "sort these: {w} {w} {w} {w}", "count the {w}s in: {s}"),
)
_OPENINGS: Final = ("", "", "", "hi, ", "Hello! ", "please ", "quick question: ", "ok so ", "Hey - ")
_ENDINGS: Final = ("", "", "", " thx", " Thanks.", " pls", "?", " (for work)", " keep it short")


def _fill(pattern: str, random: Random, topics: tuple[int, ...]) -> str:
    return re.sub(r"\{([sw])\}", lambda found: _sentence(random, topics) if found[1] == "s" else _word(random), pattern)


def person(seed: int) -> Draw:
    """Somebody who talks: a few kinds of question, on a few topics, more or less politely, some things again."""
    taste = Random(f"person {seed}")
    topics = tuple(taste.sample(range(len(passages())), taste.randint(3, 12)))
    kinds = taste.sample(range(len(_ASKS)), taste.randint(4, 9))
    weights = [taste.gammavariate(1.0, 1.0) + 0.1 for _ in kinds]
    politeness = taste.random()

    def draw(random: Random) -> str:
        kind = random.choices(kinds, weights)[0]
        text = _fill(random.choice(_ASKS[kind]), random, topics)
        if random.random() < politeness:
            text = random.choice(_OPENINGS) + text + random.choice(_ENDINGS)
        return text

    return draw


def habitual(seed: int) -> Draw:
    """Somebody who talks, and of whom one in three has a prompt of some length at hand and puts it before some of what
    is asked, as people do who have found what works."""
    taste, plain = Random(f"habit {seed}"), person(seed)
    if taste.random() >= 1 / 3:
        return plain
    every = tuple(range(len(passages())))
    saved, share = f"{_sentence(taste, every)}\n\n{{s}}", taste.uniform(0.03, 0.3)
    return mixed(lambda random: _fill(saved, random, every), plain, share)


def _question(random: Random) -> str:
    every = tuple(range(len(passages())))
    choices = "\n".join(f"{letter}. {_word(random)} {_word(random)}" for letter in "ABCD")
    return f"{_sentence(random, every)}\n{choices}"


def _from_all(pattern: str) -> Draw:
    return lambda random: _fill(pattern, random, tuple(range(len(passages()))))


CRAWLS: Final[dict[str, Draw]] = {
    "chain of thought": _from_all(
        "Solve the following problem. Think step by step and show all of your reasoning before the final answer.\n\n{s}"
    ),
    "self-instruct": _from_all(
        "Come up with a diverse set of 5 task instructions about {w} and {w}, each with an input and an ideal output."
    ),
    "translation": _from_all("Translate the following sentence to German. Reply with the translation only.\n{s}"),
    "code": _from_all('Complete the Python function:\n\ndef {w}({w}, {w}):\n    """{s}"""\n'),
    "rewriting": _from_all("Rewrite the text below in three different styles, and rate each from 1 to 10.\n\n{s} {s}"),
    "multiple choice": lambda random: (
        f"The following are multiple choice questions. Answer with a letter.\n\n{_question(random)}\nAnswer:"
    ),
    "varied chain of thought": lambda random: _fill(
        random.choice(
            (
                "Explain in detail, step by step: {s}",
                "Walk me through your full reasoning on this. {s}",
                "{s}\n\nReason carefully about the above, listing every step.",
                "Give a rigorous, complete derivation and then a one-line answer. {s}",
                "What follows from this? Show your work. {s}",
                "{s} Justify each claim before you conclude.",
            )
        ),
        random,
        tuple(range(len(passages()))),
    ),
}
"""Who copies a model asks like this: one way of asking, over everything there is."""


FRESH: Final[dict[str, Draw]] = {
    "classification": _from_all(
        "Classify the sentiment of this text as positive, negative or neutral, and say in one sentence why.\n\n"
        "Text: {s}"
    ),
    "questions": _from_all(
        "Write three questions that a reader of the passage could ask, and answer each from it alone.\n\n"
        "Passage: {s} {s}"
    ),
    "extraction": _from_all('Extract every entity as JSON with the fields "name", "kind" and "span".\n\n{s} {s}'),
    "dialogue": _from_all(
        "Continue this conversation for ten turns.\nStudent: what is {w}?\nTeacher: {s}\nStudent: and {w}?\nTeacher:"
    ),
    "varied summaries": lambda random: _fill(
        random.choice(
            (
                "Summarize in two sentences: {s} {s} {s}",
                "{s} {s} {s}\n\nWrite an abstract of the text above.",
                "What are the key points here? {s} {s}",
                "Condense this passage to a headline and three bullets. {s} {s} {s}",
                "State the main claim of the following and what supports it. {s} {s}",
            )
        ),
        random,
        tuple(range(len(passages()))),
    ),
    "bare text": _from_all("{s} {s}"),
}
"""Crawls that were written down before the test of windows was last chosen, and that it was not chosen on."""


def inputs(draw: Draw, random: Random, count: int) -> Iterator[str]:
    """So many inputs of an account."""
    return (draw(random) for _ in range(count))


def mixed(hostile: Draw, benign: Draw, share: float) -> Draw:
    """A crawl that hides among what somebody else would ask."""
    return lambda random: hostile(random) if random.random() < share else benign(random)
