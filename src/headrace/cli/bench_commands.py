"""What can be typed behind `headrace bench`. Imports what does the work only when it is asked for."""

from pathlib import Path
from typing import Annotated, cast

import typer

bench_app = typer.Typer(
    help="Put load on any OpenAI-compatible server and report what it did.", no_args_is_help=True, rich_markup_mode=None
)

Report = Annotated[Path | None, typer.Option(help="Write a report here: one HTML file that needs no network.")]

Url = Annotated[str, typer.Argument(help="The server, such as http://127.0.0.1:8000; /v1 may be left out.")]
Rate = Annotated[
    str | None, typer.Option(help="Requests a second, one stage each: 1,2,4. They come whatever the server does.")
]
Concurrency = Annotated[str | None, typer.Option(help="Requests at once, one stage each: 1,8,32.")]
Duration = Annotated[float | None, typer.Option(help="Seconds of a stage. [default: 30, or no bound with --requests]")]
Requests = Annotated[int | None, typer.Option(help="Conversations of a stage at most.")]
Warmup = Annotated[int, typer.Option(help="Conversations at the start of each stage that are not counted.")]
Drain = Annotated[float, typer.Option(help="Seconds that answers may take after a stage's last request.")]
Timeout = Annotated[float, typer.Option(help="Seconds that one request may take.")]
MaxInFlight = Annotated[int, typer.Option(help="Requests under way at most; more wait, and that counts.")]
PromptTokens = Annotated[int, typer.Option(help="Tokens of a prompt's first turn.")]
OutputTokens = Annotated[int, typer.Option(help="Tokens of an answer at most.")]
PrefixTokens = Annotated[int, typer.Option(help="Of the prompt's tokens, those shared with others.")]
Prefixes = Annotated[int, typer.Option(help="Different shared beginnings.")]
Turns = Annotated[int, typer.Option(help="Turns of a conversation, one after the other's answer.")]
TurnTokens = Annotated[
    int | None, typer.Option(help="Tokens that a later turn adds. [default: as the first has of its own]")
]
Workload = Annotated[Path | None, typer.Option(help="Ask the requests of this file: a JSON body a line.")]
Model = Annotated[str | None, typer.Option("--model", "-m", help="[default: the first that the server lists]")]
Endpoint = Annotated[str, typer.Option(help="chat or completions.")]
Extra = Annotated[
    str | None,
    typer.Option(help='JSON object of fields for every request: {"ignore_eos": true}; null leaves one out.'),
]
Seed = Annotated[int, typer.Option(help="The same seed makes the same arrivals and prompts.")]
Slo = Annotated[str | None, typer.Option(help="Seconds that a good answer keeps: ttft=0.5,itl=0.05,tpot=0.04,e2e=10.")]
PriceInput = Annotated[float | None, typer.Option(help="US dollars per million prompt tokens.")]
PriceOutput = Annotated[float | None, typer.Option(help="US dollars per million tokens of answers.")]
PriceCached = Annotated[float | None, typer.Option(help="US dollars per million cached prompt tokens.")]
KeyEnv = Annotated[str, typer.Option(help="Environment variable that holds the key.")]
KeyFile = Annotated[Path | None, typer.Option(help="File that holds the key, in the variable's place.")]
CaFile = Annotated[Path | None, typer.Option(help="PEM of authorities instead of the system's.")]
Json = Annotated[Path | None, typer.Option(help="Write the run here as one JSON document.")]
Points = Annotated[bool, typer.Option("--points", help="With every request in that document.")]


@bench_app.command("run")
def bench_run(
    url: Url,
    *,
    rate: Rate = None,
    concurrency: Concurrency = None,
    duration: Duration = None,
    requests: Requests = None,
    warmup: Warmup = 0,
    drain: Drain = 60.0,
    timeout: Timeout = 600.0,
    max_in_flight: MaxInFlight = 4096,
    prompt_tokens: PromptTokens = 256,
    output_tokens: OutputTokens = 64,
    prefix_tokens: PrefixTokens = 0,
    prefixes: Prefixes = 1,
    turns: Turns = 1,
    turn_tokens: TurnTokens = None,
    workload: Workload = None,
    model: Model = None,
    endpoint: Endpoint = "chat",
    extra: Extra = None,
    seed: Seed = 0,
    slo: Slo = None,
    price_input: PriceInput = None,
    price_output: PriceOutput = None,
    price_cached: PriceCached = None,
    key_env: KeyEnv = "HEADRACE_API_KEY",
    key_file: KeyFile = None,
    ca_file: CaFile = None,
    json: Json = None,
    points: Points = False,
    report: Report = None,
) -> None:
    """Measure a server under load: latency, throughput, goodput, errors, cost. Ctrl-C ends it with what it has."""
    from headrace.cli.bench import Order, Places, run_bench
    from headrace.loadtest.plan import DURATION_S, Bounds, Plan, Prices, Protocol, read_goals, read_stages
    from headrace.loadtest.workload import Sizes

    bounds = Bounds(
        duration_s=DURATION_S if duration is None and requests is None else duration,
        max_requests=requests,
        num_warm=warmup,
        drain_s=drain,
        max_in_flight=max_in_flight,
        request_s=timeout,
    )
    goals, prices = read_goals(slo), Prices(input=price_input, output=price_output, cached=price_cached)
    protocol = cast("Protocol", endpoint)  # the plan refuses what is none
    stages = read_stages(rate, concurrency)
    plan = Plan(stages=stages, bounds=bounds, goals=goals, prices=prices, protocol=protocol, seed=seed)
    sizes = Sizes(prompt_tokens, output_tokens, prefix_tokens, prefixes, turns, turn_tokens)
    order = Order(url=url, plan=plan, sizes=sizes, workload=workload, model=model, extra=extra)
    places = Places(json=json, has_points=points, report=report, key_env=key_env, key_file=key_file, ca_file=ca_file)
    run_bench(order, places)


@bench_app.command("report")
def bench_report(
    run: Annotated[Path, typer.Argument(help="A run that --json wrote.")],
    peer: Annotated[Path | None, typer.Argument(help="Another to put beside it.")] = None,
    *,
    report: Report = None,
    json: Annotated[Path | None, typer.Option(help="Write the comparison here as one JSON document.")] = None,
) -> None:
    """Draw a run again, or beside another: ratios say how many times better the first is, for times too."""
    from headrace.cli.bench import run_report

    run_report(run, peer, report, json)
