"""What can be typed about what is kept on disk: `headrace cache` and `headrace responses`. Imports what does the work
only when it is asked for."""

from typing import Annotated

import typer

from headrace.cli.options import CachedModel, CachedTenant, Config, DiskCache, Home, Json

cache_app = typer.Typer(
    help="Show and erase what the prefix cache keeps on disk.", no_args_is_help=True, rich_markup_mode=None
)
responses_app = typer.Typer(
    help="What is stored of responses and conversations.", no_args_is_help=True, rich_markup_mode=None
)


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
