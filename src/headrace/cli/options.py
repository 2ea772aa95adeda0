"""Options and arguments that several commands have: how each is typed and what its help says. Knows no commands."""

from pathlib import Path
from typing import Annotated

import typer

ModelArgument = Annotated[str | None, typer.Argument(help="Name, alias or path. [default: smollm2-135m-instruct]")]
ModelsArgument = Annotated[
    list[str] | None,
    typer.Argument(
        help="Names, aliases or paths. The first is loaded at once, the others when they are asked for. "
        "[default: smollm2-135m-instruct]"
    ),
]
Memory = Annotated[
    str | None,
    typer.Option(help="What loaded models may hold, weights, keys and values, such as 6GiB. [default: no bound]"),
]
ModelTtl = Annotated[
    float | None, typer.Option(help="Seconds after which an unused model leaves; the first stays. [default: 600]")
]
ModelOption = Annotated[str | None, typer.Option("--model", "-m", help="Name, alias or path of the model.")]
Home = Annotated[Path | None, typer.Option(help="State directory: models, database, keys.")]
Config = Annotated[Path | None, typer.Option(help="TOML file with settings. [default: ./headrace.toml if it is there]")]
Url = Annotated[str | None, typer.Option(help="Address of the server. [default: the one that the settings name]")]
Key = Annotated[str | None, typer.Option(help="Key of scope admin. [default: HEADRACE_API_KEY]")]
Address = Annotated[str | None, typer.Option("--url", help="Ask this server instead of using the state directory.")]
AccountsKey = Annotated[str | None, typer.Option("--key", help="Key of scope accounts. [default: HEADRACE_API_KEY]")]
ServedName = Annotated[str, typer.Argument(help="Name of a model that the server serves.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Threads = Annotated[int | None, typer.Option(help="Compute threads. [default: one per core]")]
KvMemory = Annotated[str | None, typer.Option(help="Memory for keys and values, such as 2GiB. [default: auto]")]
KvType = Annotated[
    str | None,
    typer.Option(help="How keys and values are stored: fp16, int8, or auto: int8 where it costs no quality."),
]
CacheMinTokens = Annotated[
    int | None, typer.Option(help="Tokens below which a cache breakpoint keeps nothing. [default: 0]")
]
DiskCacheDays = Annotated[int | None, typer.Option(help="Erase what was not used for so long. [default: 7]")]
Aging = Annotated[float | None, typer.Option(help="Seconds of waiting that count as one priority more. [default: 30]")]
DiskCache = Annotated[
    str | None,
    typer.Option(
        help="Keep pages of prompts between runs: on (in the state directory), off, or a directory. [default: off]"
    ),
]
ResponsesDays = Annotated[
    int | None, typer.Option(help="Forget responses and conversations not used for so long. [default: 30]")
]
ResponsesBytes = Annotated[
    str | None, typer.Option(help="What a tenant may store of them, such as 1GiB. [default: 4GiB]")
]
Speculation = Annotated[
    str | None, typer.Option(help="Guess tokens where that pays: auto or off; alters no answer. [default: auto]")
]
AdapterMemory = Annotated[str | None, typer.Option(help="Memory for adapters, such as 512MiB. [default: 512MiB]")]
CachedTenant = Annotated[str | None, typer.Option(help="Only pages of this tenant.")]
CachedModel = Annotated[
    str | None, typer.Option("--model", "-m", help="Only pages of this model: name, path or digest.")
]
SystemTurn = Annotated[
    str | None,
    typer.Option(
        help="System turn for conversations without one; an empty text keeps the template's. [default: the model's]"
    ),
]
Context = Annotated[int | None, typer.Option(help="Longest prompt and answer, in tokens. [default: the model's]")]
MaxTokens = Annotated[int, typer.Option(help="Longest answer, in tokens.")]
Temperature = Annotated[float, typer.Option(help="0 always takes the likeliest token.")]
TopP = Annotated[float, typer.Option(help="Keep the likeliest tokens that together have this probability.")]
TopK = Annotated[int, typer.Option(help="Keep that many of the likeliest tokens; 0 keeps all.")]
MinP = Annotated[float, typer.Option(help="Drop tokens less likely than this share of the likeliest one.")]
Seed = Annotated[int | None, typer.Option(help="The same seed gives the same answer.")]
System = Annotated[str | None, typer.Option(help="Instructions that come before the conversation.")]
