"""Where the server stands between start and stop, and every answer in flight.

Knows no sockets: `serve.py` moves the phase on signals, `app.py` reads it, `feed.py` registers what runs.
"""

from enum import Enum
from typing import Protocol

from headrace.core.errors import HeadraceError, Unavailable


class Phase(Enum):
    """The server's life, in this order and never back."""

    STARTING = "starting"
    READY = "ready"
    DRAINING = "draining"


class Running(Protocol):
    """An answer in flight that can be ended from outside."""

    def fail(self, error: HeadraceError) -> None:
        """End the answer with an error its client gets to see."""
        ...


class Lifecycle:
    """The phase and the answers in flight; `running` is empty when every client has its end."""

    def __init__(self) -> None:
        self.phase = Phase.STARTING
        self.running: set[Running] = set()

    def mark_ready(self) -> None:
        """The server accepts work from now on, unless it is already told to stop."""
        if self.phase is Phase.STARTING:
            self.phase = Phase.READY

    def start_draining(self) -> None:
        """No new work from now on; what runs goes on."""
        self.phase = Phase.DRAINING

    def fail_running(self) -> None:
        """End every running answer with Unavailable: the time to drain is over."""
        for running in list(self.running):
            running.fail(Unavailable("the server is stopping and cannot finish this answer; send the request again."))

    def check_accepting(self) -> None:
        """Raise Unavailable unless the server is ready for new work."""
        if self.phase is not Phase.READY:
            raise Unavailable(f"the server is {self.phase.value}; try again in a moment.", retry_after_s=1.0)
