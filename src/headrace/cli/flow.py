"""Joins what guards tools: settings and a judge -> the overseer, and the overseer anew. Decides nothing."""

from collections.abc import Callable

from headrace.cli.config import Settings
from headrace.core.policy import Judge
from headrace.gateway.oversight.tools import ToolOverseer
from headrace.trust.flow.tools import ToolBook


class OpenFlow:
    """What a running server has of it."""

    def __init__(self, settings: Settings, judge: Judge) -> None:
        self.overseer = ToolOverseer(judge, settings.trust.flow, ToolBook(settings.trust.tools))

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """What is returned puts other settings in force; answers under way go on as they began."""
        book = ToolBook(settings.trust.tools)

        def put_in_force() -> None:
            self.overseer.settings, self.overseer.book = settings.trust.flow, book

        return put_in_force


def open_flow(settings: Settings, judge: Judge) -> OpenFlow:
    """The guard of a server's settings; `judge` is asked about each call."""
    return OpenFlow(settings, judge)
