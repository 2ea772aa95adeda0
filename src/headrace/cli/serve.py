"""`headrace serve`: models behind one HTTP server, from reading the settings to the last answer.

The order is: settings, keys, port, model, engine, server. What can be refused is refused before anything slow happens,
and the port is taken before the model is loaded, so that two servers cannot both load and then collide.
"""

import asyncio
import functools
import gc
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import typer

from headrace.cli.config import Settings, compose
from headrace.cli.keys import load_keys
from headrace.models.store import Layout

# What a form has around its file.
FORM_BYTES = 1_000_000


def run_serve(flags: Mapping[str, Any], config: Path | None, *, print_config: bool) -> None:
    """Serve until a signal says stop."""
    resolved = compose(flags, os.environ, config)
    if print_config:
        typer.echo(resolved.toml(), nl=False)
        return
    _serve(resolved.settings)


def _serve(settings: Settings) -> None:
    # Imported here so that --print-config and a wrong setting answer at once.
    import uvloop

    from headrace import __version__
    from headrace.cli.assembly import assemble, engine_config
    from headrace.cli.served_models import served_paths
    from headrace.cli.services import open_services
    from headrace.gateway.foreground import Foreground
    from headrace.observe.logs import configure_logs
    from headrace.server.app import Surroundings, build_app
    from headrace.server.config import ServerConfig, check_bind
    from headrace.server.keys import KeyRing
    from headrace.server.serve import listen, serve

    engine_config(settings)
    keys_file = keys_in_force(settings)
    keys = None if keys_file is None else KeyRing(functools.partial(load_keys, keys_file))
    server_config = ServerConfig(
        host=settings.host,
        port=settings.port,
        request_timeout_s=settings.request_timeout,
        prices=settings.prices,
        max_upload_bytes=settings.file_bytes + FORM_BYTES,
    )
    check_bind(server_config, has_keys=keys is not None)
    served_paths(settings)
    configure_logs(settings.log_level)
    with listen(server_config) as listener:
        assembled = assemble(settings, with_guests=True)
        name, guests = assembled.name, assembled.guests

        # What is there now stays as long as the server: the collector need not look at it again. A full collection over
        # a vocabulary's objects holds the interpreter for 30 to 40 ms, for which every stream waits.
        gc.collect()
        gc.freeze()

        async def run() -> None:
            assembled.engine.start()
            try:
                backend = Foreground(assembled.engine)
                async with open_services(settings, assembled.engine, backend) as services:
                    app = build_app(
                        backend,
                        server_config,
                        keys=keys,
                        services=services,
                        metrics=assembled.metrics,
                        surroundings=Surroundings(version=__version__),
                    )
                    greet = functools.partial(greeting, model=name, guests=guests, needs_key=keys is not None)
                    await serve(app, listener, lambda url: _say(greet(url)))
            finally:
                await assembled.engine.close()

        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(run())


def keys_in_force(settings: Settings) -> Path | None:
    """The keys file that the server must obey: the named one, else the state directory's if there is one."""
    own = Layout(settings.home).keys
    return settings.keys or (own if own.exists() else None)


def greeting(url: str, model: str, guests: Sequence[str] = (), *, needs_key: bool) -> str:
    """How to call the server, ready to be copied."""
    others = f"Loaded when asked for: {', '.join(guests)}\n" if guests else ""
    key = "YOUR-KEY" if needs_key else "none"
    header = ' -H "Authorization: Bearer YOUR-KEY"' if needs_key else ""
    return f"""\
Serving {model} on {url}
{others}
  curl {url}/v1/chat/completions{header} -H "Content-Type: application/json" -d '{{
    "model": "{model}",
    "messages": [{{"role": "user", "content": "What is the capital of France?"}}],
    "temperature": 0
  }}'

  from openai import OpenAI
  client = OpenAI(base_url="{url}/v1", api_key="{key}")
  answer = client.chat.completions.create(
      model="{model}",
      messages=[{{"role": "user", "content": "What is the capital of France?"}}],
      temperature=0,
  )
  print(answer.choices[0].message.content)

Ctrl-C stops the server after running answers have finished.
"""


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
