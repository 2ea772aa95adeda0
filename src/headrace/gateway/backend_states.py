"""How every target stands, for those who watch: settings, breakers and lines put side by side. Decides nothing."""

from collections.abc import Iterator, Mapping

from headrace.gateway.admission import Admission
from headrace.gateway.settings import BackendSettings, Target
from headrace.gateway.standing import StandingBook
from headrace.observe.gateway_metrics import BackendState


def backend_states(
    backends: Mapping[str, BackendSettings], standings: StandingBook, admission: Admission
) -> Iterator[BackendState]:
    """Each model that settings name, and each other that was asked for."""
    for name, backend in backends.items():
        line = admission.line(name)
        for model in dict.fromkeys((*backend.models, *standings.breakers(name))):
            yield BackendState(
                backend=name,
                model=model,
                share=standings.standing(Target(name, model)).share,
                num_running=line.num_running,
                num_waiting=line.num_waiting,
            )
