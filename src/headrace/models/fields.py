"""Typed reading of a model file's metadata, with errors that name the field and the value.

Knows neither GGUF nor `config.json`: whoever reads says which keys exist. A missing key without a default is an error.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from headrace.core.errors import ModelFileError

MAX_SIZE = 2**31 - 1
"""No size in a model file is larger; kernels index with 32 bits."""


@dataclass(frozen=True, slots=True)
class Fields:
    """Metadata values by key; `prefix` is put before every key (`llama.` in GGUF files)."""

    values: Mapping[str, Any]
    prefix: str = ""

    def get(self, key: str) -> Any:
        """The raw value, or None when it is absent or null."""
        return self.values.get(self.prefix + key)

    def fault(self, key: str, reason: str) -> ModelFileError:
        """An error about `key` that shows its value."""
        name = self.prefix + key
        return ModelFileError(f"{name} = {self.values.get(name)!r}: {reason}", param=name)

    def integer(self, key: str, default: int | None = None, *, low: int = 1, high: int = MAX_SIZE) -> int:
        """A whole number within [low, high]."""
        value = self.get(key)
        if value is None:
            value = self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, int):
            raise self.fault(key, "a whole number is needed here (per-layer lists are not supported).")
        if not low <= value <= high:
            raise self.fault(key, f"must be within [{low}, {high}].")
        return value

    def number(self, key: str, default: float | None = None, *, low: float = 0.0) -> float:
        """A finite number above `low`."""
        value = self.get(key)
        if value is None:
            value = self._default(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise self.fault(key, "a number is needed here.")
        if not (math.isfinite(value) and value > low):
            raise self.fault(key, f"must be finite and above {low}.")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self.get(key)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.fault(key, "true or false is needed here.")
        return value

    def refuse(self, key: str, *harmless: object) -> None:
        """Raise if the field holds anything but null or one of the harmless values."""
        value = self.get(key)
        if value is not None and value not in harmless:
            allowed = " or ".join(repr(each) for each in (None, *harmless))
            raise self.fault(key, f"not supported by this version, which knows only {allowed}.")

    def _default(self, key: str, default: float | None) -> float:
        if default is None:
            raise ModelFileError(f"{self.prefix}{key} is missing from the model file's metadata.", param=key)
        return default
