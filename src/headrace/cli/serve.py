"""`headrace serve`: a gateway, and maybe models of its own, behind one HTTP server, from settings to the last answer.

The order is: settings, secrets, keys, port, model, engine, gateway, server. What can be refused is refused before
anything slow happens, and the port is taken before the model is loaded, so that two servers cannot both load and then
collide. Without an engine nothing of it is imported.
"""

import asyncio
import functools
import gc
import os
import sys
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from headrace.cli.config import Resolved, Settings, compose

if TYPE_CHECKING:
    import socket
    import ssl

    from headrace.cli.assembly import Assembled
    from headrace.cli.reload import Reloader
    from headrace.cli.surroundings import Surroundings
    from headrace.cli.trust import Trust
    from headrace.core.request import Principal
    from headrace.core.tracing import Tracer
    from headrace.observe.metrics import Metrics
    from headrace.server.app import App
    from headrace.server.keys import KeyRing


def run_serve(flags: Mapping[str, Any], config: Path | None, *, print_config: bool) -> None:
    """Serve until a signal says stop."""
    compose_again = functools.partial(compose, flags, os.environ, config)
    resolved = compose_again()
    if print_config:
        typer.echo(resolved.toml(), nl=False)
        return
    # Imported here so that --print-config and a wrong setting answer at once.
    from headrace.cli.key_source import KeySource
    from headrace.cli.reload import server_config
    from headrace.cli.surroundings import look_around
    from headrace.observe.logs import configure_logs
    from headrace.server.config import check_bind
    from headrace.server.serve import listen

    settings = resolved.settings
    if settings.has_engine:
        from headrace.cli.assembly import engine_config

        engine_config(settings)
    config_of_server = server_config(settings)
    has_keys = KeySource(settings, {}).has_keys or settings.trust.names_callers
    check_bind(config_of_server, has_keys=has_keys)
    around = look_around(resolved, os.environ)
    for problem in resolved.report.problems:
        typer.echo(f"warning: {problem}", err=True)
    configure_logs(settings.log_level, form=settings.log_format)
    with listen(config_of_server) as listener:
        _serve(Start(compose_again, settings, os.environ, around), listener)


@dataclass(frozen=True, slots=True)
class Start:
    """What a server starts from. `compose_again` reads its settings as they were read before."""

    compose_again: Callable[[], Resolved]
    settings: Settings
    environ: Mapping[str, str]
    around: "Surroundings"
    assembled: "Assembled | None" = None


def _serve(start: Start, listener: "socket.socket") -> None:
    import uvloop

    if start.settings.has_engine:
        from headrace.cli.assembly import assemble

        start = replace(start, assembled=assemble(start.settings, with_guests=True))
    # What is there now stays as long as the server: the collector need not look at it again. A full collection over
    # a vocabulary's objects holds the interpreter for 30 to 40 ms, for which every stream waits.
    gc.collect()
    gc.freeze()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_run(start, listener))
    finally:
        gc.unfreeze()  # or what the kernels hold is never let go, and the process leaves complaining of leaks


async def _run(start: Start, listener: "socket.socket") -> None:
    from headrace.server.serve import serve

    async with open_app(start) as (app, reloader):
        assembled = start.assembled
        greet = functools.partial(
            greeting,
            model=_model_to_show(start.settings, None if assembled is None else assembled.name),
            guests=() if assembled is None else assembled.guests,
            needs_key=app.credentials.is_needed,
            has_console=app.config.console is not None,
        )

        def tell(url: str) -> None:
            _say(greet(url))

        await serve(app, listener, tell, on_reload=reloader.on_signal, tls=reloader.tls)


@asynccontextmanager
async def open_app(start: Start) -> "AsyncIterator[tuple[App, Reloader]]":
    """The application with everything behind it, and what has its settings read again."""
    from headrace import __version__
    from headrace.cli.gateway import Ground, open_gateway
    from headrace.cli.key_source import KeySource
    from headrace.cli.reload import Reloader, server_config, wanted_gateway
    from headrace.cli.running_keys import RunningKeys
    from headrace.cli.services import Base, open_services, open_store
    from headrace.cli.trust import TrustGround, open_trust
    from headrace.core.clock import SystemClock
    from headrace.gateway.accounts.service import AccountService
    from headrace.gateway.foreground import Foreground
    from headrace.models.store import open_home
    from headrace.observe.metrics import Metrics
    from headrace.server.app import Surroundings as AppSurroundings
    from headrace.server.app import build_app
    from headrace.server.keys import KeyRing

    settings, around, assembled = start.settings, start.around, start.assembled
    async with AsyncExitStack() as stack:
        engine = None if assembled is None else assembled.engine
        metrics = Metrics() if assembled is None else assembled.metrics
        if engine is not None:
            engine.start()
            stack.push_async_callback(engine.close)
        tracer = stack.enter_context(_open_tracer(start, metrics))
        source = KeySource(settings, around.secrets)
        keys = KeyRing(source.load) if source.has_keys else None
        layout = open_home(settings.home)
        store = await stack.enter_async_context(open_store(layout))
        foreground = None if engine is None else Foreground(engine)
        trust = await stack.enter_async_context(
            open_trust(settings, TrustGround(layout, engine, metrics.registry, granter_of(keys)))
        )
        ground = Ground(store, layout.accounts, foreground, metrics.registry, trust.overseers, trust.workload)
        joined = await stack.enter_async_context(open_gateway(wanted_gateway(settings, around), ground))
        waiting, may = foreground or Foreground(joined.gate), key_check(keys)
        base = Base(layout, store, joined.gate, waiting, metrics, may, trust.label_of, trust.action_log, tracer)
        services = await stack.enter_async_context(open_services(settings, base, engine))
        reloader = Reloader(start.compose_again, start.environ, source, joined, trust.reloads, services.actions)
        app = build_app(
            joined.gate,
            server_config(settings),
            keys=keys,
            services=replace(
                services,
                reloading=reloader,
                operations=joined.operations,
                explaining=joined,
                paths=joined.paths,
                accounts=AccountService(joined.accounts, store, SystemClock()),
                key_book=RunningKeys(source, keys),
                **trust.services,
            ),
            authenticators=trust.authenticators,
            metrics=metrics,
            surroundings=AppSurroundings(version=__version__, tracer=tracer),
        )
        reloader.attach(app, _server_tls(start, trust))
        yield app, reloader


def _open_tracer(start: Start, metrics: "Metrics") -> "AbstractContextManager[Tracer | None]":
    """What gives requests their places in traces, if traces are on."""
    from headrace import __version__
    from headrace.cli.traces import open_traces, plan_traces
    from headrace.core.clock import SystemClock

    plan = plan_traces(start.settings.traces, start.environ, start.around.secrets, __version__)
    return open_traces(plan, metrics.registry, SystemClock())


def granter_of(keys: "KeyRing | None") -> "Callable[[str], Principal | None]":
    """What whoever hands its rights on may do itself: keys are known here, by their names."""

    def find(subject: str) -> "Principal | None":
        return None if keys is None else keys.named(subject.removeprefix("key:"))

    return find


def key_check(keys: "KeyRing | None") -> "Callable[[Principal], None]":
    """Raises Unauthenticated for whoever asked with a key that was taken back since."""
    from headrace.core.errors import Unauthenticated

    def check(principal: "Principal") -> None:
        if keys is None or principal.key is None:
            return
        now = keys.named(principal.key)
        if now is None or now.tenant != principal.tenant or "generate" not in now.scopes:
            raise Unauthenticated(
                f"the key {principal.key!r} that ordered this is not valid any more; order it with another one."
            )

    return check


def _server_tls(start: Start, trust: "Trust") -> "ssl.SSLContext | None":
    """What the server's socket is secured with: its own SVID, or files."""
    tls = start.settings.tls
    if tls is None or tls.identity is None:
        return start.around.tls
    assert trust.spiffe is not None
    return trust.spiffe.server_context(tls)


def _model_to_show(settings: Settings, own: str | None) -> str:
    """A name that a request can have: a route's, else the engine's model, else a backend's."""
    gateway = settings.gateway
    for name in gateway.routes:
        return name
    if own is not None:
        return own
    for backend in gateway.backends.values():
        for model in backend.models:
            return f"{backend.name}/{model}"
    return "MODEL"


def greeting(url: str, model: str, guests: Sequence[str] = (), *, needs_key: bool, has_console: bool = False) -> str:
    """How to call the server, ready to be copied."""
    others = f"Loaded when asked for: {', '.join(guests)}\n" if guests else ""
    console = f"Console: {url}/console\n" if has_console else ""
    key = "YOUR-KEY" if needs_key else "none"
    header = ' -H "Authorization: Bearer YOUR-KEY"' if needs_key else ""
    return f"""\
Serving {model} on {url}
{console}{others}
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
