"""What can be typed behind `headrace delegate`. Imports what does the work only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import Config, Home, Json, Key

delegate_app = typer.Typer(
    help="Let agents act for somebody, within bounds.", no_args_is_help=True, rich_markup_mode=None
)

Token = Annotated[str, typer.Argument(help="The token; - reads it from standard input.")]
Models = Annotated[
    list[str] | None, typer.Option("--model", help="A model that may be asked for; repeatable. none: none.")
]
Tools = Annotated[list[str] | None, typer.Option("--tool", help="A tool that may be called; repeatable. none: none.")]
Effects = Annotated[
    list[str] | None, typer.Option("--effect", help="What tools may do: read, write, egress; repeatable.")
]
Labels = Annotated[list[str] | None, typer.Option("--label", help="A label that may be read; repeatable. none: none.")]
MaxCost = Annotated[float | None, typer.Option(help="What may be spent, in the unit of the prices.")]
MaxCalls = Annotated[int | None, typer.Option(help="How many requests may be made.")]
MaxDepth = Annotated[int | None, typer.Option(help="How often it may be handed on; 0: not at all.")]
_TIME = "Such as 90s, 15m, 8h, 7d."


@delegate_app.command("grant")
def delegate_grant(
    *,
    to: Annotated[str, typer.Option(help="Whose it is to be: a SPIFFE ID, or an agent's name.")],
    subject: Annotated[str, typer.Option(help="Who grants it: key:NAME, user:ISSUER#ID, a SPIFFE ID.")],
    tenant: Annotated[str, typer.Option(help="The tenant of whoever grants it.")] = "local",
    scope: Annotated[
        list[str] | None, typer.Option(help="generate, logprobs, ...; repeatable. [default: generate]")
    ] = None,
    model: Models = None,
    tool: Tools = None,
    effect: Effects = None,
    label: Labels = None,
    max_cost: MaxCost = None,
    max_calls: MaxCalls = None,
    max_depth: MaxDepth = None,
    expires: Annotated[str, typer.Option("--for", help=f"How long it holds. {_TIME}")] = "1h",
    fact: Annotated[list[str] | None, typer.Option(help="NAME=TEXT that records tell; repeatable.")] = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Make a token with this house's root key; it is printed, and kept nowhere."""
    from headrace.cli.delegation import Granting, Wish, parse_facts, parse_time, run_grant

    wish = Wish(
        models=model,
        tools=tool,
        effects=effect,
        labels=label,
        cost=max_cost,
        calls=max_calls,
        depth=max_depth,
        seconds=parse_time(expires),
    )
    granting = Granting(
        subject=subject,
        tenant=tenant,
        holder=to,
        scopes=tuple(scope or ("generate",)),
        facts=parse_facts(fact or ()),
        wish=wish,
    )
    run_grant(granting, {"home": home}, config, json=json)


@delegate_app.command("attenuate")
def delegate_attenuate(
    token: Token,
    *,
    to: Annotated[str | None, typer.Option(help="To whom it is handed on.")] = None,
    model: Models = None,
    tool: Tools = None,
    effect: Effects = None,
    label: Labels = None,
    max_cost: MaxCost = None,
    max_calls: MaxCalls = None,
    max_depth: MaxDepth = None,
    expires: Annotated[str | None, typer.Option("--for", help=f"How long it holds at most. {_TIME}")] = None,
    json: Json = False,
) -> None:
    """Narrow a token, for a sub-agent. Needs no key and no server."""
    from headrace.cli.delegation import Wish, parse_time, run_attenuate

    wish = Wish(
        models=model,
        tools=tool,
        effects=effect,
        labels=label,
        cost=max_cost,
        calls=max_calls,
        depth=max_depth,
        seconds=None if expires is None else parse_time(expires),
    )
    run_attenuate(token, to, wish, json=json)


@delegate_app.command("inspect")
def delegate_inspect(
    token: Token,
    *,
    root: Annotated[
        list[str] | None, typer.Option(help="Public key that must have signed it; repeatable. [default: the settings']")
    ] = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Say what a token allows and whether it holds here; exits with 1 if it does not."""
    from headrace.cli.delegation import run_inspect

    run_inspect(token, root or (), {"home": home}, config, json=json)


@delegate_app.command("revoke")
def delegate_revoke(
    ids: Annotated[list[str], typer.Argument(help="Ids of blocks, as inspect tells them.")],
    *,
    reason: Annotated[str, typer.Option(help="Why.")] = "",
    url: Annotated[str | None, typer.Option("--url", help="Tell this server, too, at once.")] = None,
    key: Key = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Take a delegation back, and all that was made of it. Without --url, SIGHUP tells a running server."""
    if url is not None:
        from headrace.cli.delegation import run_revoke_there
        from headrace.cli.residents import Server

        run_revoke_there(ids, reason, Server(url, key, config))
        return
    from headrace.cli.delegation import run_revoke

    run_revoke(ids, reason, {"home": home}, config)


@delegate_app.command("key")
def delegate_key(*, home: Home = None, config: Config = None) -> None:
    """Print the public half of this house's root key, for others to trust."""
    from headrace.cli.delegation import run_key

    run_key({"home": home}, config)
