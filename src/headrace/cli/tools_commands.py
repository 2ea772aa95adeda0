"""What can be typed behind `headrace tools`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Config, Json, Url

EndorseKey = Annotated[str | None, typer.Option("--key", help="Key of scope endorse. [default: HEADRACE_API_KEY]")]

tools_app = typer.Typer(
    help="See what tools are taken for, and let withheld calls pass.", no_args_is_help=True, rich_markup_mode=None
)


@tools_app.command("digest")
def tools_digest(
    file: Annotated[
        Path, typer.Argument(help="JSON: declarations of tools as a client sends them, or a whole request.")
    ],
    *,
    config: Config = None,
    json: Json = False,
) -> None:
    """Print the digest of each tool's declaration, for its `manifest`, and what it is taken for."""
    from headrace.cli.tools import run_digest

    run_digest(file, config, json=json)


@tools_app.command("endorse")
def tools_endorse(
    tool: Annotated[str, typer.Argument(help="The tool's name.")],
    *,
    call: Annotated[str | None, typer.Option(help="Digest of one exact call, as a refusal names it.")] = None,
    argument: Annotated[str | None, typer.Option(help="Path of an argument, in the place of --call.")] = None,
    value: Annotated[str | None, typer.Option(help="Its exact value; a number unless it is in quotes.")] = None,
    uses: Annotated[str, typer.Option(help="How many calls it lets pass, or any.")] = "1",
    lifetime: Annotated[str, typer.Option("--for", help="How long it holds, such as 10m or 8h.")] = "10m",
    session: Annotated[str | None, typer.Option(help="Only in this session.")] = None,
    subject: Annotated[str | None, typer.Option(help="Only for this caller, such as key:agent.")] = None,
    reason: Annotated[str | None, typer.Option(help="Why; it is logged.")] = None,
    url: Url = None,
    key: EndorseKey = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Let one exact call of a tool pass, or calls with one exact value."""
    from headrace.cli.delegation import parse_time
    from headrace.cli.endorsements import parse_uses, run_endorse
    from headrace.cli.residents import Server

    order = {
        "tool": tool,
        "call": call,
        "argument": argument,
        "uses": parse_uses(uses),
        "expires_in": int(parse_time(lifetime)),
        "session": session,
        "subject": subject,
        "reason": reason,
    }
    run_endorse(Server(url, key, config, "endorse"), order, value, json=json)


@tools_app.command("endorsements")
def tools_endorsements(*, url: Url = None, key: EndorseKey = None, config: Config = None, json: Json = False) -> None:
    """List the endorsements that hold."""
    from headrace.cli.endorsements import run_list
    from headrace.cli.residents import Server

    run_list(Server(url, key, config, "endorse"), json=json)


@tools_app.command("withheld")
def tools_withheld(*, url: Url = None, key: EndorseKey = None, config: Config = None, json: Json = False) -> None:
    """List the calls that were withheld in the last hour and could be endorsed."""
    from headrace.cli.endorsements import run_withheld
    from headrace.cli.residents import Server

    run_withheld(Server(url, key, config, "endorse"), json=json)


@tools_app.command("unendorse")
def tools_unendorse(
    endorsement: Annotated[str, typer.Argument(help="Its id, as `headrace tools endorsements` names it.")],
    *,
    url: Url = None,
    key: EndorseKey = None,
    config: Config = None,
) -> None:
    """Withdraw an endorsement: it lets nothing pass any more."""
    from headrace.cli.endorsements import run_withdraw
    from headrace.cli.residents import Server

    run_withdraw(Server(url, key, config, "endorse"), endorsement)
