"""The table `[traces]` of a settings file, as a value. Knows no file, no environment and no secret."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from headrace.gateway.settings import Secret


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceTable:
    """Where spans go and what is in them; everything that is not said may be said by OpenTelemetry's own variables.

    `endpoint` is the URL of a collector that takes OTLP over HTTP; one without a path gets `/v1/traces`. `secret` is
    sent in `secret_header`, a header's name and maybe what stands before the secret in it. Of traces that no caller has
    decided on, the share `sample_ratio` is told. `max_queue` spans may wait; a batch goes out after `delay_s` and is
    given up after `timeout_s`.
    """

    is_on: bool = True
    endpoint: str = ""
    secret: Secret | None = None
    secret_header: str = "authorization: Bearer"  # noqa: S105 - where it goes, not what it is
    headers: Mapping[str, str] = field(default_factory=dict)
    service: str = ""
    sample_ratio: float | None = None
    captures_content: bool = False
    max_queue: int = 4096
    delay_s: float = 1.0
    timeout_s: float | None = None
