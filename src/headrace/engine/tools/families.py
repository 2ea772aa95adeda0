"""Which family a model's chat template belongs to: told by what its source mentions."""

from headrace.engine.tools.bare import GENERIC, LLAMA_JSON
from headrace.engine.tools.family import Family
from headrace.engine.tools.hermes import Hermes
from headrace.engine.tools.lists import MarkedList
from headrace.engine.tools.mistral import Mistral
from headrace.engine.tools.pythonic import Pythonic
from headrace.engine.tools.tagged import Tagged

# The first row all of whose texts the source has, and none of whose others, is the family.
_FAMILIES: tuple[tuple[tuple[str, ...], tuple[str, ...], Family], ...] = (
    (("[TOOL_CALLS]", "[ARGS]"), (), Mistral(writes_lists=False)),
    (("[TOOL_CALLS]",), (), Mistral(writes_lists=True)),
    (("<|tool_call|>",), (), MarkedList("granite", "<|tool_call|>")),
    (("<tool_call>", "<function=", "<parameter="), (), Tagged()),
    (("<tool_call>",), ("<function=", "<arg_key>"), Hermes()),
    (("[func_name1(",), (), Pythonic()),
    (('"parameters":', '"name":'), (), LLAMA_JSON),
)


def find_family(source: str) -> Family | None:
    """The family of a template; None if it knows no tools, or writes calls in a way that is not read here."""
    if "tools" not in source:
        return None
    for has, lacks, family in _FAMILIES:
        if all(text in source for text in has) and not any(text in source for text in lacks):
            return family
    return None


__all__ = ["GENERIC", "find_family"]
