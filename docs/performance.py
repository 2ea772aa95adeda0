"""Writes docs/performance.md and its drawings from the newest results in bench/results; `docs/check.py` calls it.

Of every model and machine the newest `bench.engine` document that holds a profile is shown, and the newest
`bench.kernels` one. No figure is typed here but those of other engines on another machine, which are labelled so.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from plots import least_seconds, roofline, time_shares

DOCS = Path(__file__).resolve().parent
RESULTS = DOCS.parent / "bench" / "results"
DRAWINGS = DOCS / "performance"

Document = dict[str, Any]

_HEAD = """\
# Performance

Written from the newest results in [bench/results](../bench/results) by `make fix`; `make check` compares. How to
measure: [bench/README.md](../bench/README.md). What was tried and did not pay: [log.md](log.md).

A step of the engine reads every weight once and the keys and values of every sequence, and multiplies. So two ceilings
bound it: how fast all threads read memory, and how fast the kernels' own dot product multiplies on registers. Both are
measured in the run (`headrace doctor` shows them for any machine and model). With one stream a step reads much and
multiplies little; with many streams, and with a prompt, one read serves many tokens, until multiplying is what takes
the time.
"""

_ELSEWHERE = """\
## Other engines

Measured earlier on another machine (2 cores, AVX2, no VNNI, 24 GiB; 36 GB/s read by two threads, 392 billion 8-bit
and 657 billion 4-bit integer operations a second), SmolLM2-135M, two threads, tokens a second. These figures are
**not** from the runs above; they show where engines stand to each other.

| engine and weights | prefill 512 | decode, 1 stream | 8 streams | 32 streams |
|---|---|---|---|---|
| ik_llama.cpp (August 2026, best of Q4_0, Q4_1, Q8_0, without its flash attention) | 719 | 257 | 322 | 149 |
| llama.cpp (llama-cpp-python 0.3.36), Q4_0 repacked | 603 | 204 | 305 | 368 |
| llama.cpp, Q8_0 | 495 | 139 | 241 | 290 |
| llama.cpp, the Q4_1 file as shipped | 277 | 134 | 197 | 212 |
| OpenVINO GenAI 2026.4, int8 | 260 | 60 | 156 | 311 |
| vLLM 0.32 CPU build, bf16 | 88 | 31 | 17 | 17 |

OpenVINO and vLLM ran their own formats of the same weights.
"""


def documents(results: Path = RESULTS) -> list[tuple[str, Document]]:
    """The newest documents to show, each with a name for its files: engine runs with a profile, and kernel runs."""
    newest: dict[tuple[str, ...], tuple[str, Document]] = {}
    for path in sorted(results.glob("*/*.json")):
        document: Document = json.loads(path.read_text("utf-8"))
        if "date" not in document or not _has_section(document):
            continue
        config = document["config"]
        subject = str(config.get("model", "kernels"))
        variant = str(config.get("kernels", ",".join(config.get("variants", []))))
        key = (document["name"], document["machine"], subject, variant)
        slug = "-".join(part.lower().replace(".", "-") for part in (path.parent.name, Path(subject).stem, variant))
        if key not in newest or document["date"] > newest[key][1]["date"]:
            newest[key] = (slug, document)
    # Engines before kernels, machines with the most telling variant and the smallest model first.
    return [
        newest[key]
        for key in sorted(newest, key=lambda k: (k[0] != "engine", k[1], k[3] != "avx512", k[2] != _FIRST, k))
    ]


def _has_section(document: Document) -> bool:
    """Whether a document gets a section of its own; rows of the others are shown together."""
    if document["name"] == "kernels":
        return any(not row["measure"].startswith(_MANY) for row in document["rows"])
    return document["name"] == "engine" and "profile" in document


def rows_for_many(results: Path = RESULTS) -> list[tuple[Document, Document]]:
    """The newest row of every measure of an engine for many, with the document that it is from."""
    newest = _newest(results, lambda document, row: row["measure"].startswith(_MANY))
    order = {prefix: place for place, prefix in enumerate(_MANY)}
    return [
        newest[key]
        for key in sorted(newest, key=lambda k: (k[0], next(order[p] for p in _MANY if k[1].startswith(p)), k[1]))
    ]


def rows_of(names: Sequence[str], results: Path = RESULTS) -> list[tuple[Document, Document]]:
    """The newest row of every measure that these benchmarks make, in the order in which they were measured."""
    return list(_newest(results, lambda document, row: document["name"] in names).values())


def _newest(
    results: Path, wants: Callable[[Document, Document], bool]
) -> dict[tuple[str, str], tuple[Document, Document]]:
    newest: dict[tuple[str, str], tuple[Document, Document]] = {}
    for path in sorted(results.glob("*/*.json")):
        document: Document = json.loads(path.read_text("utf-8"))
        for row in document.get("rows", []):
            key = (document["machine"], row["measure"])
            if wants(document, row) and (key not in newest or document["date"] > newest[key][1]["date"]):
                newest[key] = (row, document)
    return newest


_MANY = (
    *("ttft-", "branches-", "gap-", "sampler-", "grammar-", "lora-", "edit-", "extract-", "chat-"),
    *("embed-", "moe-", "guest-"),
)

_GATEWAY = ("gateway", "affinity")
_CONSOLE = ("console",)

_FIRST = "SmolLM2-135M-Instruct.Q4_1.gguf"


def generated(results: Path = RESULTS) -> dict[Path, str]:
    """Every file that is written, with its text."""
    files: dict[Path, str] = {}
    sections = [_HEAD]
    for slug, document in documents(results):
        if document["name"] == "engine":
            sections.append("\n".join(_engine_section(slug, document)))
            files[DRAWINGS / f"{slug}-roofline.svg"] = roofline(document["profile"])
            files[DRAWINGS / f"{slug}-time.svg"] = time_shares(document["profile"])
        else:
            sections.append("\n".join(_kernel_section(document)))
    if many := rows_for_many(results):
        sections.insert(1, "\n".join(_table_section("For many at once", _FOR_MANY, many)))
    if console := rows_of(_CONSOLE, results):
        sections.insert(1, "\n".join(_table_section("The console", _OF_CONSOLE, console)))
    if gateway := rows_of(_GATEWAY, results):
        sections.insert(1, "\n".join(_table_section("The gateway", _OF_GATEWAY, gateway)))
    files[DOCS / "performance.md"] = "\n\n".join(section.rstrip() for section in [*sections, _ELSEWHERE]) + "\n"
    return files


def _engine_section(slug: str, document: Document) -> Iterator[str]:
    config, profile = document["config"], document["profile"]
    yield f"## {config['model']}, {config['kernels']} kernels\n"
    yield (
        f"{document['machine']}; {config['threads']} threads; commit {document['commit']}, {document['date'][:10]}. "
        f"Keys and values: {config['kv']}."
    )
    if "peer" in config:
        yield (
            f"Peer: {config['peer']}, built there ({config['peer build']}). Settings tried in the run: "
            f"{config['peer settings']}."
        )
    yield "\nMedians; ratio above 1: ours is better, for times too; spread: (largest - smallest) / median of ours.\n"
    yield "| measure | unit | ours | peer | ratio | spread | n | the peer at its best |"
    yield "|---|---|--:|--:|--:|--:|--:|---|"
    for row in document["rows"]:
        ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
        yield (
            f"| `{row['measure']}` | {row['unit']} | {_number(row['ours'])} | {_number(row['peer'])} | "
            f"{ratio} | {row['spread']:.0%} | {row['n']} | {row['peer_name'] or ''} |"
        )
    yield from _quality(document)
    yield f"\n### Where the time goes\n\n![Roofline](performance/{slug}-roofline.svg)\n"
    yield f"![Shares of a step's time](performance/{slug}-time.svg)\n"
    yield from _remaining(profile)


_FOR_MANY = (
    "What each measure is says the file that makes it, `python -m bench.NAME`. Medians; ratio above 1: ours is "
    "better, for times too; where the other side is ourselves without something, a ratio below 1 is what that "
    "costs. Speculation alters no token, so its quality is that of the engine above.\n"
)
_OF_GATEWAY = (
    "One core for the gateway, a scripted backend and the load on the other; each request with key, budget, limits, "
    "route and usage record. What each measure is says `python -m bench.NAME`. Rows of `affinity` are of four scripted "
    "replicas in simulated time (`bench/replica.py`); only the planner is real. Medians; above 1: ours is better.\n"
)

_OF_CONSOLE = (
    "What the live feed costs the server, as shares of a core: the difference of windows with viewers and without, and "
    "what one frame of the largest tree that is walked takes of the engine's thread. `python -m bench.console`.\n"
)


def _table_section(title: str, about: str, rows: list[tuple[Document, Document]]) -> Iterator[str]:
    yield f"## {title}\n"
    yield about
    for machine in dict.fromkeys(document["machine"] for _, document in rows):
        yield f"{machine}:\n"
        yield "| measure | unit | ours | beside | ratio | spread | n | what stands beside | made by | commit |"
        yield "|---|---|--:|--:|--:|--:|--:|---|---|---|"
        for row, document in rows:
            if document["machine"] != machine:
                continue
            ratio = "" if row["ratio"] is None else f"{row['ratio']:.3g}"
            yield (
                f"| `{row['measure']}` | {row['unit']} | {_number(row['ours'])} | {_number(row['peer'])} | {ratio} | "
                f"{row['spread']:.0%} | {row['n']} | {row['peer_name'] or ''} | `{document['name']}` | "
                f"{document['commit']} |"
            )


def _quality(document: Document) -> Iterator[str]:
    for row in document["rows"]:
        if row["measure"] == "nll-peer":
            difference, error, tokens = (values[0] for values in row["samples"].values())
            yield (
                f"\nToken by token on {tokens:,.0f} tokens our negative log-likelihood differs from the peer's on the "
                f"same file by {difference:+.5f} nats, standard error {error:.5f} (below zero: ours is better)."
            )


def _remaining(profile: Document) -> Iterator[str]:
    """What the ceilings would still give, and which part stands between."""
    yield (
        f"Ceilings: {profile['read_bandwidth'] / 1e9:.1f} GB/s read, {profile['multiply_rate'] / 1e9:,.0f} billion "
        'integer operations a second. The steps are native calls alone, without the engine around them; "at the '
        'ceilings" lets every product and attention run at the one that bounds it, and the rest take what it takes.\n'
    )
    yield "| step | tokens/s | of reading | of multiplying | at the ceilings | most is lost in |"
    yield "|---|--:|--:|--:|--:|---|"
    for step in profile["steps"]:
        lost = sorted(((s["seconds"] - least_seconds(s, profile), s["kind"]) for s in step["stages"]), reverse=True)
        least = sum(least_seconds(stage, profile) for stage in step["stages"])
        names = ", ".join(f"{kind} ({seconds / step['seconds']:.0%} of the step)" for seconds, kind in lost[:2])
        rate = step["tokens_per_second"]
        yield (
            f"| {step['name']} | {rate:,.0f} | {step['share_of_read_bandwidth']:.0%} | "
            f"{step['share_of_multiply_rate']:.0%} | {rate * step['seconds'] / least:,.0f} | {names} |"
        )


def _kernel_section(document: Document) -> Iterator[str]:
    yield "## Kernels by themselves, one thread\n"
    yield (
        f"{document['machine']}; commit {document['commit']}, {document['date'][:10]}; "
        "the ceiling is the one that bounds the kernel. What `error` is relative to says `bench/kernels.py`.\n"
    )
    yield "| kernel | rate | | ceiling | share | bound by | error |\n|---|--:|---|--:|--:|---|--:|"
    for row in document["rows"]:
        share = "" if row["ratio"] is None else f"{row['ratio']:.0%}"
        yield (
            f"| {row['measure']} | {_number(row['ours'])} | {row['unit']} | {_number(row['peer'])} | {share} | "
            f"{row['peer_name'] or ''} | {row['error']:.1e} |"
        )


def _number(value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"
