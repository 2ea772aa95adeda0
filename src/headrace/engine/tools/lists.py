"""Calls as one JSON list behind a mark: `<|tool_call|>[{"name": ..., "arguments": {...}}]` of Granite, and the older
ones of Mistral (`mistral.py`).

Also read: a single object without the list, and the parts of an object in any order.
"""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

from headrace.engine.tools.family import (
    CallableTool,
    Head,
    Mark,
    begun,
    marks,
    object_rules,
    quoted,
    read_marked_object,
    repeated,
    whole_schemas,
)
from headrace.engine.tools.scan import Scan


class MarkedList:
    """See `family.Family`. `between`: what the model writes between the mark and its list."""

    is_bare = False

    def __init__(self, name: str, mark: str, between: str = "") -> None:
        self.name = name
        self.markers: tuple[str, ...] = (mark,)
        self._mark = mark
        self._between = between

    def places(self, text: str, *, is_fresh: bool) -> Iterator[int]:
        """See `family.Family`."""
        return marks(text, self._mark)

    def open(self, scan: Scan, names: Collection[str]) -> Head | None:
        """See `family.Family`."""
        if not scan.word(self._mark):
            return None
        scan.blanks()
        if scan.text.startswith("{", scan.at):
            return read_marked_object(scan)
        # Neither a name nor a mark behind this one begins like that.
        return _member(scan) if scan.word("[") else self.otherwise(scan)

    def otherwise(self, scan: Scan) -> Head | None:
        """What else may stand behind the mark."""
        return None

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

    def reopen(self, scan: Scan, names: Collection[str], head: Head) -> Head | None:
        """See `family.Family`."""
        return _member(scan)

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`."""
        return whole_schemas(tools)

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        calls = repeated("object", quoted(", "), most)
        head = f'calls: {mark(self._mark)} {quoted(self._between + "[")} {calls} "]"\n'
        return head + object_rules(tools, "arguments")

    def call_schema(self, tool: CallableTool, where: str) -> dict[str, Any] | None:
        """See `family.Family`."""
        return None

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        rest = f'{quoted(self._between + "[")} object (", " object)* "]"'
        return f"body: begun {rest} | TEXT\n{begun(mark(self._mark))}\n"


def _member(scan: Scan) -> Head | None:
    scan.blanks()
    head = read_marked_object(scan)
    if head is not None:
        head.in_list = True
    return head
