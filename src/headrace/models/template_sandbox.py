"""A Jinja environment in which no template can take more than its share of time or memory.

Chat templates arrive inside model files, so they are programs of strangers. Jinja's immutable sandbox keeps them from
reaching Python; this file keeps them finite, by three rules that together bound every render:

1. Each single operation is bounded. What can turn little into much (`*`, `**`, `%`, join, replace, indent, tojson) asks
   first how large its result would be; methods and filters that are not known to be harmless are not offered.
2. Whatever makes a value pays for its size, once, where it is made, so what a render holds is below what it may pay.
3. Every loop round, macro and call is a step; steps are counted, and the thread's processor time is read as they pass.

The alternatives lost: a trace function costs 30 times as much, a worker process needs a second copy of everything, and
a watchdog thread cannot stop one long operation. Knows nothing of messages, tokens or models.
"""

import json
import re
import time
from collections.abc import Callable, Iterable, Mapping
from contextvars import ContextVar
from functools import wraps
from types import BuiltinMethodType
from typing import Any

from jinja2 import nodes, pass_context
from jinja2.exceptions import TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.visitor import NodeTransformer

MAX_STEPS = 200_000
MAX_CPU_S = 2.0
MAX_NODES = 100_000  # values inside one list, however nested; bounds comparison and sorting
MAX_INTEGER_BITS = 4096
_STEPS_BETWEEN_CLOCKS = 64
_MAX_PADDING = 256  # width of one indentation, padded number or set of stripped characters


class LimitExceeded(Exception):
    """A render reached a limit; the message names it."""


class Budget:
    """What one render may still spend: characters made, steps, processor time."""

    def __init__(self, max_chars: int, cpu_s: Callable[[], float] = time.thread_time) -> None:
        self._chars = self._max_chars = max_chars
        self._steps = MAX_STEPS
        self._cpu_s = cpu_s
        self._deadline = cpu_s() + MAX_CPU_S

    def step(self, num_chars: int = 0) -> None:
        """Count one step and what it makes."""
        self._steps -= 1
        self._chars -= num_chars
        if self._chars < 0:
            raise LimitExceeded(f"it makes more than {self._max_chars} characters of text")
        if self._steps % _STEPS_BETWEEN_CLOCKS == 0:
            if self._steps <= 0:
                raise LimitExceeded(f"it takes more than {MAX_STEPS} steps")
            if self._cpu_s() > self._deadline:
                raise LimitExceeded(f"it takes more than {MAX_CPU_S:g} s of processor time")

    def foresee(self, num_chars: int) -> None:
        """Raise if something of that size could not be paid for; pays nothing."""
        if num_chars > self._chars:
            raise LimitExceeded(f"it makes more than {self._max_chars} characters of text")


current_budget: ContextVar[Budget] = ContextVar("current_budget")


def extent(value: Any) -> tuple[int, int]:
    """Characters and values inside `value`, counting what is shared as often as it appears.

    Raises LimitExceeded beyond MAX_NODES values.
    """
    chars, num_nodes, waiting = 0, 0, [value]
    while waiting:
        item = waiting.pop()
        num_nodes += 1
        if isinstance(item, str):
            chars += len(item)
        elif isinstance(item, Mapping):
            waiting.extend(item.keys())
            waiting.extend(item.values())
        elif isinstance(item, (list, tuple)):
            waiting.extend(item)
        if num_nodes + len(waiting) > MAX_NODES:
            raise LimitExceeded(f"it makes a list of more than {MAX_NODES} values")
    return chars, num_nodes


def _size(value: Any) -> int:
    """What making `value` costs by itself, without what it refers to."""
    if isinstance(value, str):
        return len(value)
    return 8 * len(value) if isinstance(value, (list, tuple, dict)) else 0


def _paid(value: Any) -> Any:
    current_budget.get().step(_size(value))
    return value


def _flattened(value: Any) -> int:
    """Characters that `value` has when written out, checked against the budget."""
    chars, num_nodes = extent(value)
    current_budget.get().foresee(chars + 8 * num_nodes)
    return chars + 8 * num_nodes


# Operations that can turn little into much.


def _multiply(left: Any, right: Any) -> Any:
    for value, times in ((left, right), (right, left)):
        if isinstance(value, (str, list, tuple)) and isinstance(times, int):
            current_budget.get().foresee(_size(value) * times)
            if not isinstance(value, str) and extent(value)[1] * times > MAX_NODES:
                raise LimitExceeded(f"it makes a list of more than {MAX_NODES} values")
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() + right.bit_length())
    return left * right


def _power(left: Any, right: Any) -> Any:
    if isinstance(left, int) and isinstance(right, int):
        _check_bits(left.bit_length() * max(right, 1))
    return left**right


def _check_bits(num_bits: int) -> None:
    if num_bits > MAX_INTEGER_BITS:
        raise LimitExceeded(f"it computes an integer of more than {MAX_INTEGER_BITS} bits")


_CONVERSION = re.compile(r"%(?:\([^()]*\))?[#0\- +]*(\d*)(?:\.(\d*))?")


def _modulo(left: Any, right: Any) -> Any:
    if isinstance(left, str):
        found = _CONVERSION.findall(left)
        if "*" in left or any(len(digits) > 2 for pair in found for digits in pair):
            raise LimitExceeded("it formats with a width of more than 99")
        values = right if isinstance(right, (tuple, dict)) else (right,)
        current_budget.get().foresee(len(left) + len(found) * (100 + _flattened(values)))
    return left % right


def _join(separator: str, items: Iterable[Any]) -> str:
    parts = list(items)
    current_budget.get().foresee(len(separator) * len(parts) + _flattened(parts))
    return separator.join(parts)


def _replace(text: str, old: str, new: str, count: int = -1) -> str:
    if isinstance(old, str) and isinstance(new, str):
        current_budget.get().foresee(len(text) + text.count(old) * len(new))
    return text.replace(old, new, -1 if count is None else count)


def _strip(method: str) -> Callable[..., str]:
    def strip(text: str, chars: str | None = None) -> str:
        if chars is not None and len(chars) > _MAX_PADDING:
            raise LimitExceeded(f"it strips more than {_MAX_PADDING} different characters")
        stripped: str = getattr(text, method)(chars)
        return stripped

    return strip


_BOUNDED_METHODS: Mapping[str, Callable[..., Any]] = {
    "join": _join,
    "replace": _replace,
    "strip": _strip("strip"),
    "lstrip": _strip("lstrip"),
    "rstrip": _strip("rstrip"),
}
_METHODS: Mapping[type, frozenset[str]] = {
    str: frozenset(
        [
            *_BOUNDED_METHODS,
            "split",
            "rsplit",
            "splitlines",
            "partition",
            "rpartition",
            "startswith",
            "endswith",
            "lower",
            "upper",
            "title",
            "capitalize",
            "casefold",
            "swapcase",
            "find",
            "rfind",
            "index",
            "rindex",
            "count",
            "isalnum",
            "removeprefix",
            "removesuffix",
            "isalpha",
            "isascii",
            "isdecimal",
            "isdigit",
            "islower",
            "isnumeric",
            "isspace",
            "istitle",
            "isupper",
        ]
    ),
    dict: frozenset(["items", "keys", "values", "get"]),
    list: frozenset(["index", "count"]),
    tuple: frozenset(["index", "count"]),
    int: frozenset(),
    float: frozenset(),
}
_OPERATORS: Mapping[str, Callable[[Any, Any], Any]] = {"*": _multiply, "**": _power, "%": _modulo}


# Filters.


def _tojson(
    value: Any, ensure_ascii: bool = False, indent: Any = None, separators: Any = None, sort_keys: bool = False
) -> str:
    """As Hugging Face defines it for chat templates: plain JSON, nothing escaped for HTML."""
    padding = indent if isinstance(indent, int) else len(indent or "")
    if padding > 16 or any(len(part) > 8 for part in separators or ()):
        raise LimitExceeded("it writes JSON with an indentation of more than 16 or separators of more than 8")
    current_budget.get().foresee((6 if ensure_ascii else 2) * _flattened(value) * (1 + padding * _depth(value)))
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        level = [
            item
            for holder in level
            if isinstance(holder, (Mapping, list, tuple))
            for item in (holder.values() if isinstance(holder, Mapping) else holder)
        ]
        if depth > 200:
            raise LimitExceeded("it nests values more than 200 deep")
    return depth


def _indent(value: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    padding = " " * min(width, _MAX_PADDING + 1) if isinstance(width, int) else width
    if len(padding) > _MAX_PADDING:
        raise LimitExceeded(f"it indents by more than {_MAX_PADDING}")
    lines = str(value).split("\n")
    current_budget.get().foresee(len(value) + len(lines) * len(padding))
    rest = [padding + line if line or blank else line for line in lines[1:]]
    return "\n".join([padding + lines[0] if first else lines[0], *rest])


def _join_filter(value: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
    items = list(value)
    if attribute is not None:
        items = [item[attribute] for item in items]
    _flattened(items)
    return _join(str(d), [str(item) for item in items])


def _string(value: Any) -> str:
    _flattened(value)
    return str(value)


def _format(value: str, *args: Any, **kwargs: Any) -> str:
    formatted: str = _modulo(str(value), kwargs or args)
    return formatted


def _round(value: float, precision: int = 0, method: str = "common") -> float:
    if method != "common" or not isinstance(precision, int) or abs(precision) > 20:
        raise LimitExceeded("it rounds by another method than 'common' or to more than 20 places")
    return round(float(value), precision)


_OWN_FILTERS: Mapping[str, Callable[..., Any]] = {
    "tojson": _tojson,
    "indent": _indent,
    "join": _join_filter,
    "string": _string,
    "safe": _string,
    "format": _format,
    "round": _round,
    "replace": lambda text, old, new, count=None: _replace(str(text), str(old), str(new), count),
    "trim": lambda text, chars=None: _strip("strip")(str(text), chars),
}
_PLAIN_FILTERS = (
    "abs", "capitalize", "count", "d", "default", "first", "float", "int", "items", "last", "length", "list", "lower",
    "map", "max", "min", "reject", "rejectattr", "reverse", "select", "selectattr", "sum", "title", "upper",
)  # fmt: skip
_FLATTENING_FILTERS = ("dictsort", "groupby", "sort", "unique")  # they copy what their input refers to


def _paying(function: Callable[..., Any], *, flattens: bool = False) -> Callable[..., Any]:
    @wraps(function)  # also carries Jinja's mark for the arguments that it wants
    def paying(*args: Any, **kwargs: Any) -> Any:
        if flattens:
            for arg in args:
                if isinstance(arg, (Mapping, list, tuple)):
                    _flattened(arg)
        return _paid(function(*args, **kwargs))

    return paying


@pass_context
def _finalize(_: Context, value: Any) -> Any:
    # Takes the context only so that Jinja never calls it while compiling, when there is no budget.
    if isinstance(value, str):
        current_budget.get().step(len(value))
    elif isinstance(value, Undefined) or value is None or isinstance(value, (bool, int, float)):
        current_budget.get().step()
    else:
        current_budget.get().step(_flattened(value))
    return value


class _Generation(Extension):
    """`{% generation %}`: marks what training counts; to serving its body is all there is."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's interface)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class FiniteEnvironment(ImmutableSandboxedEnvironment):
    """Compiles templates so that rendering, inside a `current_budget`, obeys the three rules above."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, functions: Mapping[str, Callable[..., Any]]) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Generation, LoopControlExtension],
            optimized=False,  # folding constants would compute them while compiling, outside any budget
            finalize=_finalize,
            cache_size=0,
        )
        defaults = self.filters
        self.filters = {name: _paying(defaults[name]) for name in _PLAIN_FILTERS}
        self.filters |= {name: _paying(defaults[name], flattens=True) for name in _FLATTENING_FILTERS}
        self.filters |= {name: _paying(function) for name, function in _OWN_FILTERS.items()}
        self.globals = {name: self.globals[name] for name in ("range", "dict", "namespace", "cycler", "joiner")}
        self.globals |= functions

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
            raise TemplateSyntaxError("a chat template cannot load other templates", node.lineno)
        for node in tree.find_all(nodes.ScopedEvalContextModifier):
            raise TemplateSyntaxError("a chat template cannot switch escaping on", node.lineno)
        _Metering().visit(tree)
        tree.set_environment(self)  # also for the nodes that metering added
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Operators that make values."""
        bounded = _OPERATORS.get(operator)
        return _paid(left + right if bounded is None else bounded(left, right))

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Only methods that are known to be harmless, for the types that templates handle."""
        for kind, allowed in _METHODS.items():
            if isinstance(obj, kind):
                return attr in allowed
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> None:
        """`str.format` pads without limit and is not offered."""

    def call(self, context: Context, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Every call a template makes."""
        if isinstance(obj, BuiltinMethodType) and isinstance(obj.__self__, str):
            bounded = _BOUNDED_METHODS.get(obj.__name__)
            if bounded is not None:
                kwargs.pop("_loop_vars", None)  # what compiled templates pass for the functions that take the context
                kwargs.pop("_block_vars", None)
                return _paid(bounded(obj.__self__, *args, **kwargs))
        result = super().call(context, obj, *args, **kwargs)
        if isinstance(result, (list, tuple, dict)):
            extent(result)
        return _paid(result)

    def meter(self, num_chars: int) -> None:
        """Called at the head of every repeatable piece of a template, with the fixed text inside it."""
        current_budget.get().step(num_chars)

    def concatenate(self, *parts: Any) -> str:
        """The `~` operator."""
        for part in parts:
            if not isinstance(part, (str, int, float)):
                _flattened(part)
        return "".join(map(str, parts))

    def made(self, value: Any) -> Any:
        """A list, dict, tuple or slice that the template wrote; `call` measures what it returns."""
        return value


def _own_text(node: nodes.Node) -> Iterable[nodes.TemplateData]:
    return [node] if isinstance(node, nodes.TemplateData) else node.find_all(nodes.TemplateData)


def _call(name: str, args: list[nodes.Expr]) -> nodes.Call:
    return nodes.Call(nodes.EnvironmentAttribute(name), args, [], None, None)


class _Metering(NodeTransformer):
    """Makes a template's tree report its loops, and what it makes without calling anything."""

    def _body(self, node: nodes.For | nodes.Macro | nodes.CallBlock | nodes.Block) -> nodes.Node:
        fixed = sum(len(data.data) for child in node.body for data in _own_text(child))
        self.generic_visit(node)
        node.body.insert(0, nodes.ExprStmt(_call("meter", [nodes.Const(fixed)])))
        return node

    visit_For = visit_Macro = visit_CallBlock = visit_Block = _body  # noqa: N815  (Jinja's names)

    def _literal(self, node: nodes.List | nodes.Tuple | nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        items = [
            part
            for item in node.items
            for part in ((item.key, item.value) if isinstance(item, nodes.Pair) else (item,))
        ]
        stored = isinstance(node, nodes.Tuple) and node.ctx != "load"
        if stored or all(isinstance(item, nodes.Const) for item in items):
            return node
        return _call("made", [node])

    visit_List = visit_Tuple = visit_Dict = _literal  # noqa: N815

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("made", [node]) if isinstance(node.arg, nodes.Slice) else node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:  # noqa: N802
        self.generic_visit(node)
        return _call("concatenate", node.nodes)
