"""Calls as Mistral's models write them behind `[TOOL_CALLS]`: older ones a list, `[{"name": ..., "arguments": {...}}]`,
newer ones `name[ARGS]{...}`, with the mark before each.

Both are read from every model; `writes_lists` says which of them a grammar asks for.
"""

import re
from collections.abc import Sequence
from typing import Any

from headrace.engine.tools.family import CallableTool, Head, Mark, ObjectReader, begun, check_name, quoted, repeated
from headrace.engine.tools.lists import MarkedList
from headrace.engine.tools.scan import Scan

_OPEN, _ID, _ARGUMENTS = "[TOOL_CALLS]", "[CALL_ID]", "[ARGS]"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


class Mistral(MarkedList):
    """See `family.Family`."""

    def __init__(self, *, writes_lists: bool) -> None:
        super().__init__("mistral_lists" if writes_lists else "mistral_names", _OPEN, " ")
        self.markers = (_OPEN, _ID, _ARGUMENTS)
        self.writes_lists = writes_lists

    def otherwise(self, scan: Scan) -> Head | None:
        """A name, and arguments behind it."""
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

    def grammars(self, tools: Sequence[CallableTool]) -> dict[str, dict[str, Any]]:
        """See `family.Family`."""
        for tool in () if self.writes_lists else tools:
            check_name(tool.name, _NAME)
        return super().grammars(tools)

    def rules(self, tools: Sequence[CallableTool], mark: Mark, most: int | None) -> str:
        """See `family.Family`."""
        if self.writes_lists:
            return super().rules(tools, mark, most)
        named = " | ".join(f"{quoted(tool.name)} {mark(_ARGUMENTS)} @tool_{i}" for i, tool in enumerate(tools))
        return f"calls: {repeated('call', '', most)}\ncall: {mark(_OPEN)} tool\ntool: {named}\n"

    def lazy_rules(self, tools: Sequence[CallableTool], held: Sequence[int], mark: Mark) -> str:
        """See `family.Family`."""
        if self.writes_lists:
            return super().lazy_rules(tools, held, mark)
        return f"body: begun tool call* | TEXT\n{begun(mark(_OPEN))}\n"
