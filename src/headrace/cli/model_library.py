"""The models of this machine for a running server: what their files say, and fetching those of the catalog.

Joins `models/describe.py` and `cli/pull.py` with threads of their own, because both wait for disks and networks.
"""

import asyncio
import io
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path

from rich.console import Console

from headrace.cli.pull import install
from headrace.core.errors import HeadraceError, InvalidRequest, NotFound
from headrace.core.model_library import ModelDetails, PullStep
from headrace.models.catalog import CATALOG, canonical_name
from headrace.models.describe import describe
from headrace.models.pull import Order


class ServedLibrary:
    """The library of a server that serves models at `paths`, by name; pulled ones go into the state directory."""

    def __init__(self, paths: Mapping[str, Path], home: Path) -> None:
        self._paths = paths
        self._home = home
        self._known: dict[str, ModelDetails] = {}

    async def describe(self, model: str) -> ModelDetails:
        """What the files of a served model say; a file is read once. Raises NotFound, ModelFileError."""
        path = self._paths.get(model)
        if path is None:
            raise NotFound(f"model: {model[:100]!r} has no files of its own here.", param="model")
        if model not in self._known:
            self._known[model] = await asyncio.to_thread(describe, path)
        return self._known[model]

    async def pull(self, name: str) -> AsyncGenerator[PullStep, None]:
        """Fetch a model of the catalog; see `core.model_library.Library`."""
        wanted = canonical_name(name)
        if wanted not in CATALOG:
            raise InvalidRequest(
                f"model: {name[:100]!r} is not in the catalog; it has {', '.join(sorted(CATALOG))}. Models from "
                "elsewhere are installed by `headrace pull`.",
                param="model",
            )
        loop = asyncio.get_running_loop()
        steps: asyncio.Queue[PullStep | HeadraceError | None] = asyncio.Queue()

        def tell(what: str, num_done: int, num_bytes: int | None) -> None:
            loop.call_soon_threadsafe(steps.put_nowait, PullStep(what, num_done, num_bytes))

        def fetch() -> None:
            end: HeadraceError | None = None
            try:
                install(Order(wanted=wanted), self._home, Console(file=io.StringIO()), tell)
            except HeadraceError as error:
                end = error
            finally:
                loop.call_soon_threadsafe(steps.put_nowait, end)

        task = loop.run_in_executor(None, fetch)
        while (step := await steps.get()) is not None:
            if isinstance(step, HeadraceError):
                raise step
            yield step
        await task
