"""Calls as Mistral's models write them behind `[TOOL_CALLS]`: older ones a list, `[{"name": ..., "arguments": {...}}]`,
newer ones `name[ARGS]{...}`, with the mark before each.

Both are read from every model; `Mistral.writes_lists` says which of them a grammar asks for.
"""

import re
from collections.abc import Iterator, Sequence
from typing import Any

from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    ObjectReader,
    begun,
    check_name,
    object_rules,
    quoted,
    read_object,
    read_whole_object,
    repeated,
    whole_schemas,
)
from headrace.engine.tools.hermes import marks
from headrace.engine.tools.scan import Scan

_OPEN, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Mistral:
    """See `family.Family`."""

    markers: tuple[str, ...] = (_OPEN, _ID, _ARGUMENTS)
    is_bare = False

    def __init__(self, *, writes_lists: bool) -> None:
        self.name = "mistral_lists" if writes_lists else "mistral_names"
        self.writes_lists = writes_lists

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return marks(text, _OPEN)

    def open(self, scan: Scan, names: frozenset[str]) -> Head | None:
        """See `family.Family`."""
        if not scan.word(_OPEN):
            return None
        scan.blanks()
        if scan.text.startswith("{", scan.at):
            return _object(scan)
        # No name begins like that, and neither do the marks.
        if scan.word("["):
            scan.blanks()
            head = _object(scan)
            if head is not None:
                head.in_list = True
            return head
        return _named(scan)

    def close(self, scan: Scan, head: Head) -> bool:
        """See `family.Family`."""
        if not head.in_list:
            return False
        start = scan.at
        scan.blanks()
        if scan.word("]"):
            return False
        if scan.word(","):
            return True
        scan.at = start
        return False

    def reopen(self, scan: Scan, names: frozenset[str], head: Head) -> Head | None:
        """See `family.Family`."""
        scan.blanks()
        following = _object(scan)
        if following is not None:
            following.in_list = True
        return following

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`."""
        for tool in () if self.writes_lists else tools:
            check_name(tool.name, _NAME)
        return whole_schemas(tools)

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        if self.writes_lists:
            calls = repeated("object", quoted(", "), most)
            return f'calls: {mark(_OPEN)} " [" {calls} "]"\n' + object_rules(tools, "arguments")
        named = " | ".join(f"{quoted(tool.name)} {mark(_ARGUMENTS)} @tool_{i}" for i, tool in enumerate(tools))
        return f"calls: {repeated('call', '', most)}\ncall: {mark(_OPEN)} tool\ntool: {named}\n"

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        return None

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        rest = '" [" object (", " object)* "]"' if self.writes_lists else "tool call*"
        return f"body: begun {rest} | TEXT\n{begun(mark(_OPEN))}\n"


def _named(scan: Scan) -> Head | None:
    name = scan.matched(_NAME)
    if name is None:
        return None
    if scan.word(_ID) and scan.matched(_NAME) is None:
        return None
    scan.word(_ARGUMENTS)
    scan.blanks()
    if scan.at == len(scan.text):
        scan.want()
    return Head(name, ObjectReader(depth=0)) if scan.text.startswith("{", scan.at) else None


def _object(scan: Scan) -> Head | None:
    start = scan.at
    head = read_object(scan, None)
    if head is None:
        scan.at = start
        head = read_whole_object(scan)
    return head
