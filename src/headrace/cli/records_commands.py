"""What can be typed about records: `headrace verify`, `lineage`, `replay` and `records`. Imports what does the work
only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Address, Config, Home, Json, ModelOption, Threads

records_app = typer.Typer(
    help="Signed records of answers: list, show, fetch, erase.", no_args_is_help=True, rich_markup_mode=None
)

RecordId = Annotated[str, typer.Argument(help="The record's id, as the header x-headrace-record says it.")]
AuditKey = Annotated[str | None, typer.Option("--key", help="Key of the tenant, or of scope audit.")]
Trust = Annotated[Path, typer.Option("--trust", help="Trust file: node, log and witnesses that you believe.")]


def verify(
    response: Annotated[Path, typer.Argument(help="The answer as it was saved: a body, or a stream as it came.")],
    *,
    trust: Trust,
    record: Annotated[Path | None, typer.Option(help="Its record's bundle, from `headrace records fetch`.")] = None,
    request: Annotated[Path | None, typer.Option(help="The request's body, to verify that it was this one.")] = None,
    rewritten: Annotated[
        bool, typer.Option("--rewritten", help="A program wrote the file anew: compare what it says, not its bytes.")
    ] = False,
    level: Annotated[
        str | None, typer.Option(help="signed, logged or witnessed; less is no success. [default: the trust file's]")
    ] = None,
    json: Json = False,
) -> None:
    """Verify a saved answer against its record, offline. Leaves with 0, 1 (it does not hold) or 3 (a lower level)."""
    from headrace.cli.verify import Given, run_verify

    given = Given(response=response, trust=trust, record=record, request=request, is_rewritten=rewritten, wanted=level)
    run_verify(given, json=json)


def lineage(
    record_id: RecordId,
    *,
    trust: Annotated[Path | None, typer.Option("--trust", help="Verify every record with this trust file.")] = None,
    url: Address = None,
    key: AuditKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """What an answer comes from: records, models, adapters, documents, tools, as a tree."""
    from headrace.cli.lineage import run_lineage
    from headrace.cli.record_books import open_records_of

    run_lineage(open_records_of(url, key, {"home": home}, config), record_id, trust, json=json)


def replay(
    record_id: RecordId,
    *,
    request: Annotated[Path | None, typer.Option(help="The request's body, where content was not kept.")] = None,
    model: ModelOption = None,
    threads: Threads = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Run a recorded request again on the same model and compare. Leaves with 3 if something else comes out."""
    from headrace.cli.replay import run_replay

    run_replay(record_id, request, {"model": model, "threads": threads, "home": home}, config, json=json)


@records_app.command("list")
def records_list(
    *,
    tenant: Annotated[str | None, typer.Option(help="Whose. [default: everybody's]")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many.")] = 20,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """The newest records in the state directory."""
    from headrace.cli.record_show import run_list

    run_list({"home": home}, config, tenant=tenant, limit=limit, json=json)


@records_app.command("show")
def records_show(
    record_id: RecordId,
    *,
    content: Annotated[
        bool, typer.Option("--content", help="What was kept of request and answer, as JSON; of the state directory.")
    ] = False,
    url: Address = None,
    key: AuditKey = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """What a record says, unverified."""
    from headrace.cli.record_books import open_records_of
    from headrace.cli.record_show import run_content, run_show

    if content:
        run_content(record_id, {"home": home}, config)
        return
    run_show(open_records_of(url, key, {"home": home}, config), record_id, json=json)


@records_app.command("fetch")
def records_fetch(
    record_id: RecordId, *, url: Address = None, key: AuditKey = None, home: Home = None, config: Config = None
) -> None:
    """Print a record's bundle: all that verifies it offline."""
    from headrace.cli.record_books import open_records_of

    typer.echo(open_records_of(url, key, {"home": home}, config).bundle(record_id).encode().decode())


@records_app.command("erase")
def records_erase(
    record_id: RecordId, *, url: Address = None, key: AuditKey = None, home: Home = None, config: Config = None
) -> None:
    """Erase what opens a record, and its content; that something was recorded, the log says for ever."""
    from headrace.cli.record_books import open_records_of

    open_records_of(url, key, {"home": home}, config).erase(record_id)
    typer.echo(f"Erased {record_id}.")


@records_app.command("revoke")
def records_revoke(
    key_id: Annotated[str, typer.Argument(help="The record key's id, from `headrace verify` or a signature's keyid.")],
    *,
    since: Annotated[
        int | None, typer.Option(help="Unix time from which it is not believed. [default: now]", min=0)
    ] = None,
    reason: Annotated[str, typer.Option(help="Why, for the log.")] = "",
    home: Home = None,
    config: Config = None,
) -> None:
    """Take a record key back: log that the node does, and print the line for trust files. The server is stopped first,
    since whoever took its key was in it."""
    from headrace.cli.revoke import run_revoke

    run_revoke(key_id, since, reason, {"home": home}, config)
