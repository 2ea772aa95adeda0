"""A run, or two side by side, as one HTML page that needs nothing beside itself: no network, no script, its own policy.

Everything that is not ours (names of models, what servers said, addresses) is escaped, isolated and shown with its
unseen characters named. Beside each plot stands the table of its values. `figures.py` says what is plotted.
"""

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from importlib.resources import files
from typing import Any, Final

from headrace.loadtest.drawing import Plot, draw
from headrace.loadtest.figures import load_plots, stage_plots

# Controls, marks of direction and other characters that nobody sees: Unicode's Cc but tab and line end, Cf, separators.
_ODD: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
)
_MAX_TABLE_ROWS: Final = 130
_NOTE: Final = (
    "Times count from when a request was due, not from when it could be sent. Percentiles are of answers that "
    "succeeded; brackets hold the 95 % interval of the percentile (order statistics) where there are enough answers."
)
_TOLD: Final = (
    ("ttft", "First token"),
    ("itl", "Gap between pieces"),
    ("tpot", "Time per token"),
    ("e2e", "Whole answer"),
    ("ttft_from_sent", "First token, from sending"),
    ("e2e_from_sent", "Whole answer, from sending"),
    ("send_delay", "Sent after due"),
)


def write_report(document: Mapping[str, Any], peer: Mapping[str, Any] | None) -> str:
    """The page of a run, beside another's if one is given; `document["rows"]` are their comparison then."""
    style = files("headrace.loadtest").joinpath("report.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    title = f"Load on {document['config']['model']}"
    body = "".join(_body(document, peer))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="referrer" content="no-referrer">'
        f"<title>{escape(_named(title))}</title><style>{style}</style></head>\n<body><main>{body}</main></body></html>\n"
    )


def shown(value: Any) -> str:
    """Text of others as markup that only shows it."""
    parts = _ODD.split(str(value))
    odd = _ODD.findall(str(value))
    made = escape(parts[0])
    for character, part in zip(odd, parts[1:], strict=True):
        made += f'<span class="odd">U+{ord(character):04X}</span>{escape(part)}'
    return f'<bdi dir="auto">{made}</bdi>'


def _named(text: str) -> str:
    return _ODD.sub(lambda found: f"<U+{ord(found[0]):04X}>", text)


def _body(document: Mapping[str, Any], peer: Mapping[str, Any] | None) -> Iterable[str]:
    config, stages = document["config"], document["stages"]
    yield f"<h1>Load on {shown(config['model'])}</h1>"
    yield f'<p class="quiet">{shown(config["url"])}, {shown(document["date"])}</p>'
    yield from _warnings(stages)
    yield "<h2>Stages</h2>" + _stage_table(stages)
    yield f'<p class="quiet">{_NOTE}</p>'
    if peer is not None:
        yield "<h2>Beside the other run</h2>" + _comparison(document, peer)
    yield "<h2>Against load</h2>" + _figures(load_plots(stages, None if peer is None else peer["stages"]), "load")
    yield "<h2>Percentiles</h2>" + "".join(_percentiles(stage) for stage in stages)
    yield "<h2>Distribution and course of each stage</h2>" + _figures(stage_plots(stages), "stage")
    yield "<h2>Errors</h2>" + _errors(stages)
    yield "<h2>Conditions</h2>" + _conditions(document, "This run")
    if peer is not None:
        yield _conditions(peer, "The other run")


def _figures(plots: Sequence[Plot], prefix: str) -> str:
    made = []
    for index, plot in enumerate(plots):
        values = f"<details><summary>Values of: {escape(plot.title)}</summary>{_values(plot)}</details>"
        made.append(f"<figure><h3>{escape(plot.title)}</h3>{draw(plot, f'{prefix}-{index}')}{values}</figure>")
    return f'<div class="plots">{"".join(made)}</div>'


def _values(plot: Plot) -> str:
    places = sorted({x for line in plot.lines for x, _ in line.points})[:_MAX_TABLE_ROWS]
    known = [dict(line.points) for line in plot.lines]
    rows = [
        [escape(plot.write_x(x)), *("-" if x not in line else escape(plot.write_y(line[x])) for line in known)]
        for x in places
    ]
    return _table(f"{plot.y_label} against {plot.x_label}", [plot.x_label, *(line.name for line in plot.lines)], rows)


def _table(caption: str, headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; cells are markup already, `wide:` before one lets it wrap."""
    head = "".join(f'<th scope="col">{escape(one)}</th>' for one in headings)
    body = []
    for row in rows:
        cells = [f'<th scope="row">{row[0]}</th>']
        for cell in row[1:]:
            is_wide = cell.startswith("wide:")
            cells.append(f'<td class="wide">{cell[5:]}</td>' if is_wide else f"<td>{cell}</td>")
        body.append(f"<tr>{''.join(cells)}</tr>")
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}"><table>'
        f"<caption>{escape(caption)}"
        f"</caption><thead><tr>{head}</tr></thead><tbody>{''.join(body)}</tbody></table></div>"
    )


def _stage_table(stages: Sequence[Mapping[str, Any]]) -> str:
    headings = (
        *(
            "stage",
            "seconds",
            "requests",
            "ok",
            "failed",
            "answers/s",
            "output tokens/s",
            "good",
            "good/s",
            "under way",
        ),
        *("prompt tokens", "cached", "output tokens", "cost", "client CPU", "client lag p99"),
    )
    rows = []
    for stage in stages:
        effort = stage["effort"]
        rows.append(
            [
                shown(stage["name"] + (" (stopped)" if stage["is_stopped"] else "")),
                f"{stage['seconds']:.1f}",
                str(stage["num_requests"]),
                str(stage["num_ok"]),
                str(sum(stage["errors"].values())),
                f"{stage['ok_per_s']:.3g}",
                f"{stage['output_tokens_per_s']:.1f}",
                f"{stage['good_share']:.1%}",
                f"{stage['good_per_s']:.3g}",
                f"{stage['mean_under_way']:.1f}",
                *(_plain(stage[name]) for name in ("prompt_tokens", "cached_tokens", "output_tokens")),
                "-" if stage["cost"] is None else f"{stage['cost']:.6g}",
                "-" if effort is None else f"{effort['cpu_share']:.0%} of a core",
                "-" if effort is None else _ms(effort["lag_p99_s"]),
            ]
        )
    return _table("What each stage did; tokens are means of an answer", headings, rows)


def _percentiles(stage: Mapping[str, Any]) -> str:
    rows = []
    for name, told in _TOLD:
        one = stage["spreads"].get(name)
        if one is not None:
            rows.append(
                [escape(told), *(_quantile(each) for each in one["quantiles"]), _ms(one["mean"]), str(one["n"])]
            )
    return _table(f"{stage['name']}: times in milliseconds", ["", "p50", "p90", "p99", "mean", "n"], rows)


def _quantile(one: Mapping[str, Any]) -> str:
    within = "" if one["low"] is None else f" [{_ms(one['low'])}, {_ms(one['high'])}]"
    return f"{_ms(one['value'])}{within}"


def _comparison(document: Mapping[str, Any], peer: Mapping[str, Any]) -> str:
    rows = []
    for row in document["rows"]:
        ratio = row["ratio"]
        told = "-" if ratio is None else f"{ratio:.2f}"
        if ratio is not None and abs(ratio - 1) >= 0.05:
            told = (
                f'<span class="{"better" if ratio > 1 else "worse"}">{told} {"better" if ratio > 1 else "worse"}</span>'
            )
        values = ["-" if row[side] is None else f"{row[side]:.4g}" for side in ("ours", "peer")]
        rows.append([shown(row["measure"]), escape(row["unit"]), *values, told, str(row["n"])])
    name = f"The other run: {peer['config']['model']} at {peer['config']['url']}, {peer['date']}"
    caption = f"{_named(name)}. Ratios above 1 mean that this run is better, for times too"
    return _table(caption, ["measure", "unit", "this run", "the other", "ratio", "n"], rows)


def _errors(stages: Sequence[Mapping[str, Any]]) -> str:
    rows = [
        [shown(stage["name"]), shown(kind), str(count), "wide:" + shown(stage["error_examples"].get(kind, ""))]
        for stage in stages
        for kind, count in stage["errors"].items()
    ]
    if not rows:
        return "<p>None.</p>"
    return _table("By kind, with what the first of each said", ["stage", "kind", "number", "said"], rows)


def _warnings(stages: Sequence[Mapping[str, Any]]) -> Iterable[str]:
    told = [f"<p>{shown(stage['name'])}: {shown(one)}</p>" for stage in stages for one in stage["warnings"]]
    if told:
        yield f'<section class="notice" aria-label="Warnings">{"".join(told)}</section>'


def _conditions(document: Mapping[str, Any], caption: str) -> str:
    rows = [
        ["load generator", "wide:" + shown(document["machine"])],
        ["program", "wide:" + shown(document["commit"])],
        ["date", "wide:" + shown(document["date"])],
    ]
    for name, value in document["config"].items():
        told = ", ".join(f"{key} {one}" for key, one in value.items()) if isinstance(value, dict) else value
        rows.append([shown(name), "wide:" + shown(told if told not in ("", None) else "-")])
    return _table(caption, ["condition", "value"], rows)


def _ms(value_s: float) -> str:
    return f"{1000 * value_s:.1f}"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
