"""`headrace monitors show` and `reset`, of a running server. Knows no monitor."""

import json as jsonlib
from datetime import UTC, datetime

import typer

from headrace.cli.residents import Server


def run_show(server: Server, *, json: bool) -> None:
    """List what is held against accounts."""
    answer = server.ask("/v1/monitors")
    if json:
        typer.echo(jsonlib.dumps(answer, indent=2))
        return
    if answer["num_unwatched"]:
        typer.echo(f"{answer['num_unwatched']} inputs were not compared: more came than could be.", err=True)
    typer.echo(f"{'ACCOUNT':<32} {'MONITOR':<14} {'ACTION':<9} {'TIMES':>5} {'LAST':<16} REASON")
    for one in answer["data"]:
        last = datetime.fromtimestamp(one["last"], UTC).strftime("%Y-%m-%d %H:%M")
        action = f"({one['action']})" if one["is_shadow"] else one["action"]
        typer.echo(
            f"{one['account']:<32} {one['monitor']:<14} {action:<9} {one['count']:>5} {last:<16} {one['reason']}"
        )


def run_reset(server: Server, account: str) -> None:
    """Take back what is held against one."""
    answer = server.ask("/v1/monitors/clear", {"account": account})
    typer.echo(f"{account}: {len(answer['data'])} taken back: {', '.join(one['monitor'] for one in answer['data'])}")
