"""The monitor of hijacking from its settings, and anew at a reload. Reads the file of canaries; decides nothing."""

from collections.abc import Callable
from pathlib import Path
from typing import Final

from headrace.cli.config import Settings
from headrace.core.errors import InvalidRequest
from headrace.gateway.oversight.hijack import HijackOverseer
from headrace.trust.flow.tools import ToolBook
from headrace.trust.monitors.hijack.canaries import MAX_SECRET, MIN_SECRET
from headrace.trust.monitors.hijack.settings import HijackSettings, Mode

MAX_CANARIES: Final = 256


class OpenHijack:
    """What a running server has of it."""

    def __init__(self, settings: Settings, hijack: HijackSettings) -> None:
        self.overseer = HijackOverseer(hijack, ToolBook(settings.trust.tools), read_canaries(hijack.canaries))

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """What is returned puts other settings in force; habits stay. Raises InvalidRequest."""
        hijack = settings.trust.hijack or HijackSettings(mode=Mode.OFF)
        book, canaries = ToolBook(settings.trust.tools), read_canaries(hijack.canaries)

        def put_in_force() -> None:
            overseer = self.overseer
            overseer.settings, overseer.book, overseer.canaries = hijack, book, canaries

        return put_in_force


def open_hijack(settings: Settings, hijack: HijackSettings) -> OpenHijack:
    """Raises InvalidRequest for canaries that cannot be read."""
    return OpenHijack(settings, hijack)


def read_canaries(path: Path | None) -> tuple[str, ...]:
    """The texts of a file, one a line. Raises InvalidRequest."""
    if path is None:
        return ()
    try:
        lines = [line.strip() for line in path.expanduser().read_text("utf-8").splitlines()]
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"hijack.canaries: {path} cannot be read ({error}).", param="hijack.canaries") from error
    canaries = tuple(dict.fromkeys(line for line in lines if line))
    for number, canary in enumerate(canaries, 1):
        if not MIN_SECRET <= len(canary) <= MAX_SECRET:
            raise InvalidRequest(
                f"hijack.canaries: number {number} in {path} has {len(canary)} characters; "
                f"give each from {MIN_SECRET} to {MAX_SECRET}.",
                param="hijack.canaries",
            )
    if len(canaries) > MAX_CANARIES:
        raise InvalidRequest(
            f"hijack.canaries: {path} has {len(canaries)} texts; at most {MAX_CANARIES} are looked for.",
            param="hijack.canaries",
        )
    return canaries
