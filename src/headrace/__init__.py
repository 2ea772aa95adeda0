"""Headrace: gateway, engine, cache, memory and notary for large language models in one program.

`Engine` embeds the engine in a program; it is imported on first use, so that `import headrace` stays cheap.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Engine", "__version__"]

if TYPE_CHECKING:
    from headrace.engine.embedded import Engine


def __getattr__(name: str) -> Any:
    if name == "Engine":
        from headrace.engine.embedded import Engine  # noqa: PLC0415 - importing the engine costs start-up time

        return Engine
    raise AttributeError(f"module 'headrace' has no attribute {name!r}")
