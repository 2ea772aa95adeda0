"""The tables of a settings file that speak of tools: `flow`, how their calls are judged, and `tools`, what each can do.

Opens nothing.
"""

from typing import Any, Final

from headrace.cli.kinds import TRUTH, WRONG, Kind, Spot, leaf, one_of, several, shown, table, word
from headrace.core.trust import Confidentiality, Effect
from headrace.trust.flow.settings import FlowSettings, Invisible, Mode, ToolRule
from headrace.trust.flow.settings import Kind as ArgumentKind

_EFFECTS: Final = tuple(effect.name.lower() for effect in Effect)
_LEVELS: Final = tuple(level.name.lower() for level in Confidentiality)


def _text(value: Any) -> str:
    if not isinstance(value, str) or not value.strip() or len(value) > 1000:
        raise ValueError("is not text of 1 to 1000 characters")
    return value


_TEXT: Final = leaf(_text, {"type": "string", "minLength": 1, "maxLength": 1000})
_PATH: Final = word(r"[^\s.]+(?:\.[^\s.]+)*", str, "is no path of a field; write NAME, or NAME.NAME for one below")


def _by_path(inner: Kind, path: Kind) -> Kind:
    """A table whose keys are paths, or kinds of arguments: `{ "attachments.file_id" = "id" }`."""

    def read(value: Any, spot: Spot) -> Any:
        if not isinstance(value, dict):
            return spot.say(f'{shown(value)} is not a table; write {{ name = "kind" }}.')
        found = {}
        for name, one in value.items():
            key, held = path.read(name, spot.at(name)), inner.read(one, spot.at(name))
            if key is WRONG or held is WRONG:
                return WRONG
            found[key] = held
        return found

    return Kind(read=read, schema={"type": "object", "additionalProperties": inner.schema})


_KIND: Final = one_of(ArgumentKind, ArgumentKind, "kind of argument")
_KINDS: Final = _by_path(_KIND, _PATH)

TOOL: Final[Kind] = table(
    ToolRule,
    {
        "effect": one_of(_EFFECTS, lambda name: Effect[name.upper()], "effect"),
        "arguments": _KINDS,
        "manifest": word("sha256:[0-9a-f]{64}", str, "is no digest; `headrace tools digest FILE` tells it"),
        "endorses": _KINDS,
        "names": several(_TEXT),
        "source": several(_TEXT),
        "confidentiality": one_of(_LEVELS, lambda name: Confidentiality[name.upper()], "level"),
        "is_trusted": TRUTH,
        "is_honey": TRUTH,
    },
    is_named=True,
)
FLOW: Final[Kind] = table(
    FlowSettings,
    {
        "mode": one_of(Mode, Mode, "mode"),
        "system": one_of(("user", "operator")),
        "invisible": one_of(Invisible, Invisible),
        "amounts": one_of(("exact", "bounded")),
        "endorses": _by_path(several(_TEXT), _KIND),
    },
    needs=("mode",),
)
