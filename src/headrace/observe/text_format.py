"""Prometheus's text of metric families, in pieces, so that whoever sends it can do something else in between.

The bytes are those of Prometheus's own client, in less time: names here are constants and known to be
good, so only values of labels are escaped, and each once in a text. A family is collected as a whole, so that no piece
shows a histogram at two moments. Source: https://prometheus.io/docs/instrumenting/exposition_formats/. Knows no
metric.
"""

from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Final

from prometheus_client import Metric
from prometheus_client.utils import floatToGoString

PIECE_LINES: Final = 100
"""Lines after which a piece ends; about a third of a millisecond."""

_shown: Final[Callable[[float], str]] = floatToGoString
# Kind of a family -> what its name has behind it in this format.
_ENDINGS: Final = {"counter": "_total", "gauge": "", "histogram": ""}
# When each counter was made, which Prometheus's client tells beside, nobody asks; vLLM leaves that out, too, and it is
# a sixth of all lines.
_UNTOLD: Final = "_created"


def write_families(families: Iterable[Metric]) -> Iterator[str]:
    """The text of counters, gauges and histograms with plain names and without timestamps, piece by piece."""
    lines = _write_lines(families)
    while piece := "".join(islice(lines, PIECE_LINES)):
        yield piece


def _write_lines(families: Iterable[Metric]) -> Iterator[str]:
    labels = _Labels()
    for family in families:
        name = family.name + _ENDINGS[family.type]
        words = family.documentation.replace("\\", "\\\\").replace("\n", "\\n")
        yield f"# HELP {name} {words}\n"
        yield f"# TYPE {name} {family.type}\n"
        for sample in family.samples:
            if sample.name.endswith(_UNTOLD):
                continue
            shown = ",".join([labels[pair] for pair in sorted(sample.labels.items())])
            braced = f"{{{shown}}}" if shown else ""
            yield f"{sample.name}{braced} {_shown(sample.value)}\n"


class _Labels(dict[tuple[str, str], str]):
    """Label and value -> how the text has them."""

    def __missing__(self, pair: tuple[str, str]) -> str:
        label, value = pair
        escaped = value.replace("\\", "\\\\").replace("\n", "\\n").replace('"', '\\"')
        shown = self[pair] = f'{label}="{escaped}"'
        return shown
