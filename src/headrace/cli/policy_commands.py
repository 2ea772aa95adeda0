"""What can be typed behind `headrace policy`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated

import typer

from headrace.cli.options import Config, Json

policy_app = typer.Typer(help="Check and try out policies.", no_args_is_help=True, rich_markup_mode=None)

Files = Annotated[
    list[Path] | None, typer.Option("--file", "-f", help="Policies to use instead of the settings' files; repeatable.")
]
Sets = Annotated[
    list[str] | None, typer.Option("--set", help="Sets that ship to use with them; repeatable. [default: all]")
]


@policy_app.command("check")
def policy_check(
    files: Annotated[list[Path] | None, typer.Argument(help="Files of policies. [default: the settings']")] = None,
    *,
    json: Json = False,
) -> None:
    """Read policies as a server would, and say all that is wrong by file and line."""
    from headrace.cli.policy import run_check

    run_check(files or (), json=json)


@policy_app.command("test")
def policy_test(
    cases: Annotated[Path, typer.Argument(help="Questions with what is to be decided, TOML or JSON.")],
    *,
    file: Files = None,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Ask the questions of a file and compare the decisions; exits with 1 if one differs."""
    from headrace.cli.policy import chosen, run_test

    run_test(cases, chosen(file, sets, config), json=json)


@policy_app.command("explain")
def policy_explain(
    *,
    action: Annotated[str, typer.Option(help="request, route or tool.")],
    resource: Annotated[str, typer.Option(help="Name of a model, BACKEND/MODEL, or name of a tool.")],
    subject: Annotated[str, typer.Option(help="Who would ask: key:NAME, user:ISSUER#ID, a SPIFFE ID.")] = "local",
    tenant: Annotated[str, typer.Option(help="Its tenant.")] = "local",
    agent: Annotated[str | None, typer.Option(help="The agent that it would be.")] = None,
    label: Annotated[list[str] | None, typer.Option(help="What its requests hold; repeatable.")] = None,
    attribute: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the resource; repeatable.")] = None,
    context: Annotated[list[str] | None, typer.Option(help="NAME=VALUE of the moment; repeatable.")] = None,
    file: Files = None,
    sets: Sets = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what would be decided, by which policies, and which others hold; nothing is asked of a server."""
    from headrace.cli.policy import chosen, parse_values, run_explain
    from headrace.core.policy import Question
    from headrace.core.request import Principal

    asker = Principal(subject=subject, tenant=tenant, agent=agent, labels=frozenset(label or ()))
    given = parse_values(context or (), "--context")
    if label:
        given.setdefault("labels", tuple(label))
    question = Question(
        principal=asker,
        action=action,
        resource=resource,
        attributes=parse_values(attribute or (), "--attribute"),
        context=given,
    )
    run_explain(question, chosen(file, sets, config), json=json)


@policy_app.command("schema")
def policy_schema() -> None:
    """Print what policies can speak of, as a Cedar schema."""
    from headrace.cli.policy import run_schema

    run_schema()


@policy_app.command("show")
def policy_show(name: Annotated[str, typer.Argument(help="default or agents.")]) -> None:
    """Print a set of policies that ships with the program."""
    from headrace.cli.policy import run_show

    run_show(name)
