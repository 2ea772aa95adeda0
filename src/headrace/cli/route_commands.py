"""What can be typed behind `headrace route`. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Json, Key, Url

route_app = typer.Typer(help="Say where requests go, and why.", no_args_is_help=True, rich_markup_mode=None)


@route_app.callback()
def route() -> None:
    """Say where requests go, and why."""


@route_app.command("explain")
def route_explain(
    *,
    model: Annotated[str, typer.Option("--model", "-m", help="Name that the request would ask for.")],
    tenant: Annotated[str, typer.Option(help="Tenant that would ask.")] = "local",
    user: Annotated[str | None, typer.Option(help="User that would ask; a canary goes by it.")] = None,
    session: Annotated[str | None, typer.Option(help="Session that the request would belong to.")] = None,
    labels: Annotated[str, typer.Option(help="Labels that it would carry, with commas.")] = "",
    needs: Annotated[str, typer.Option(help="What it would need: tools, schema, vision, logprobs, ...")] = "",
    tools: Annotated[bool, typer.Option("--tools", help="As --needs tools.")] = False,
    tokens: Annotated[int, typer.Option(min=0, help="Tokens of its input.")] = 100,
    max_tokens: Annotated[int | None, typer.Option(min=0, help="Tokens that its answer may have.")] = None,
    text: Annotated[str | None, typer.Option(help="What its user would say, for the policy complexity.")] = None,
    live: Annotated[
        bool, typer.Option("--live", help="Ask a running server, with its loads and breakers. [implied by --url]")
    ] = False,
    url: Url = None,
    key: Key = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say who would be asked, in which order, and why the others would not; nothing is sent to them."""
    from headrace.cli.residents import Server
    from headrace.cli.route import run_explain
    from headrace.core.explanation import Question

    question = Question(
        model=model,
        tenant=tenant,
        user=user,
        session=session,
        labels=frozenset(filter(None, labels.split(","))),
        needs=frozenset(filter(None, needs.split(","))) | ({"tools"} if tools else frozenset()),
        prompt_tokens=tokens,
        max_tokens=max_tokens,
        text=text,
    )
    run_explain(question, Server(url, key, config) if live or url else None, config, json=json)
