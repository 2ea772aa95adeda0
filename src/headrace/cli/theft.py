"""Joins the monitor of theft: settings -> monitor -> overseer. Knows every constructor and decides nothing."""

from collections.abc import Callable
from secrets import token_bytes

from headrace.core.backend import Backend
from headrace.core.provenance import Notary
from headrace.core.request import Task
from headrace.core.trust import Verdict
from headrace.gateway.oversight.theft import TheftOverseer
from headrace.gateway.settings import ENGINE, Target
from headrace.trust.monitors.theft.monitor import TheftMonitor
from headrace.trust.monitors.theft.settings import Mode, TheftSettings


def open_theft(
    settings: TheftSettings | None,
    engine: Backend | None,
    *,
    notary: Notary | None = None,
    on_verdict: Callable[[Verdict], None] = lambda _: None,
) -> TheftOverseer | None:
    """The overseer, if there is to be one."""
    if settings is None or settings.mode is Mode.OFF:
        return None

    def generates(target: Target) -> bool:
        cards = () if engine is None or target.backend != ENGINE else engine.models()
        return any(Task.GENERATE in card.tasks for card in cards if target.model in (card.id, *card.aliases))

    monitor = TheftMonitor(settings, token_bytes(32))
    return TheftOverseer(monitor, generates=generates, notary=notary, on_verdict=on_verdict)
