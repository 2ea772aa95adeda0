"""`headrace budgets` and `headrace usage`: the books as tables. Where they come from is `books.py`'s affair."""

import json as jsonlib
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import typer

from headrace.cli.books import Books


def run_budgets(books: Books, *, json: bool) -> None:
    """Print the budgets and where their subjects stand."""
    document = books.budgets()
    if json:
        typer.echo(jsonlib.dumps(document, indent=2))
        return
    if not document["data"]:
        typer.echo("No budgets; `headrace budgets set NAME --subject all --window month --money 10` sets one.")
        return
    typer.echo(f"{'BUDGET':<20} {'SUBJECT':<24} {'WINDOW':<7} {'SPENT':>22} {'RESERVED':>14} {'LEFT':>22}  RESETS")
    for one in document["data"]:
        origin = " (settings file)" if one["is_fixed"] else ""
        for standing in one["standings"] or [_empty(one)]:
            resets = standing["resets_at"]
            typer.echo(
                f"{one['name']:<20} {standing['subject']:<24} {one['window']:<7} "
                f"{_both(standing['spent'], standing['spent_tokens']):>22} "
                f"{_both(standing['reserved'], standing['reserved_tokens']):>14} "
                f"{_both(standing['left'], standing['left_tokens']):>22}  "
                f"{_span(one['window']) if resets is None else _moment(resets)}{origin}"
            )
        if one["has_more"]:
            typer.echo(f"{one['name']:<20} ... and more subjects, who have spent less")


def run_set(books: Books, rule: Mapping[str, Any], *, json: bool) -> None:
    """Add or change a budget."""
    made = books.set_budget({name: value for name, value in rule.items() if value is not None})
    said = f"Budget {made['name']} holds for {made['subject']}, {_span(made['window'])}."
    typer.echo(jsonlib.dumps(made) if json else said)


def run_remove(books: Books, name: str, *, json: bool) -> None:
    """Take a budget back."""
    made = books.remove_budget(name)
    typer.echo(jsonlib.dumps(made) if json else f"Removed {name}.")


def run_usage(books: Books, query: Mapping[str, str], *, json: bool) -> None:
    """Print records, or sums by group."""
    document = books.usage(query)
    if json:
        typer.echo(jsonlib.dumps(document, indent=2))
        return
    if not document["data"]:
        typer.echo("No usage.")
    elif "by" in query:
        _print_sums(document["data"], query["by"].split(","))
    else:
        _print_records(document)


def _print_sums(rows: Sequence[Mapping[str, Any]], by: Sequence[str]) -> None:
    heads = " ".join(f"{name.upper():<20}" for name in by)
    typer.echo(f"{heads} {'REQUESTS':>9} {'FAILED':>7} {'INPUT':>12} {'CACHED':>12} {'OUTPUT':>12} {'COST':>16}")
    for row in rows:
        names = " ".join(f"{row['group'][name] or '-':<20}" for name in by)
        typer.echo(
            f"{names} {row['num_requests']:>9} {row['num_failed']:>7} {row['prompt_tokens']:>12} "
            f"{row['cached_tokens']:>12} {row['completion_tokens']:>12} {row['cost']:>16.9g}"
        )


def _print_records(document: Mapping[str, Any]) -> None:
    typer.echo(
        f"{'STARTED':<20} {'TENANT':<12} {'KEY':<12} {'MODEL':<28} {'OUTCOME':<12} {'INPUT':>8} {'OUTPUT':>8} COST"
    )
    for one in document["data"]:
        model = f"{one['backend']}/{one['model']}" if one["backend"] else one["asked_model"]
        typer.echo(
            f"{_moment(one['started_s']):<20} {one['tenant']:<12} {one['key'] or '-':<12} {model:<28} "
            f"{one['outcome']:<12} {one['prompt_tokens']:>8} {one['completion_tokens']:>8} {one['cost']:.9g}"
        )
    if document["has_more"]:
        typer.echo(f"There are more: --after {document['last']}")


def _empty(budget: Mapping[str, Any]) -> dict[str, Any]:
    nothing = {"spent": 0.0, "spent_tokens": 0, "reserved": 0.0, "reserved_tokens": 0, "resets_at": None}
    return {"subject": budget["subject"], "left": budget["money"], "left_tokens": budget["tokens"], **nothing}


def _span(window: str) -> str:
    """Over what a budget counts, where nobody's is open."""
    return "in all, for good" if window == "total" else f"each {window}"


def _both(money: float | None, tokens: int | None) -> str:
    """Money and tokens; what has no bound is not shown."""
    parts = [f"{money:.6g}"] if money is not None else []
    return " ".join([*parts, *([f"{tokens} tok"] if tokens is not None else [])])


def _moment(seconds: float) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d %H:%M:%S}"
