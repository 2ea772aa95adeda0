"""How much two questions mean the same: the cosine between what an encoder model makes of them.

The model runs in this process, so that no question leaves it to be compared. Questions that the model cannot read to
their end have no meaning here. Knows no answers.
"""

import contextlib
from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray

from headrace.core.backend import Backend
from headrace.core.errors import HeadraceError
from headrace.core.events import Embedding
from headrace.core.request import Input, Limits, Principal, Request, Task
from headrace.core.shape import Shape

DEADLINE_S: Final = 2.0
"""For the encoder; a request does not wait longer to find out whether it was asked before."""


class EncoderLikeness:
    """Implements `cache.Likeness` by an encoder model of a backend. `threshold` is a cosine."""

    def __init__(self, encoder: Backend, model: str, threshold: float) -> None:
        self._encoder = encoder
        self._model = model
        self._threshold = threshold

    async def meaning(self, question: str, shape: Shape) -> bytes | None:
        """The meaning of a question as float32, None if the model is not there, has no time, or cannot read it all."""
        principal = shape.principal
        request = Request(
            id=f"{shape.id}-meaning",
            model=self._model,
            task=Task.EMBED,
            inputs=(Input(question),),
            limits=Limits(deadline_s=DEADLINE_S),
            principal=Principal(tenant=principal.tenant, priority=principal.priority, share=principal.share),
        )
        with contextlib.suppress(HeadraceError):
            async with contextlib.aclosing(self._encoder.run(request)) as events:
                async for event in events:
                    if isinstance(event, Embedding):
                        return event.vector
        return None

    def alike(self, meaning: bytes, others: Sequence[bytes]) -> list[int]:
        """Which of the others are as alike as the threshold asks, the most alike first."""
        found = [index for index, other in enumerate(others) if len(other) == len(meaning)]
        if not found:
            return []
        table = np.stack([_unit(others[index]) for index in found])
        cosines = table @ _unit(meaning)
        order = np.argsort(-cosines, kind="stable")
        return [found[place] for place in order if cosines[place] >= self._threshold]


def _unit(vector: bytes) -> NDArray[np.float32]:
    values = np.frombuffer(vector, dtype="<f4").astype(np.float32)
    length = np.float32(np.linalg.norm(values))
    return values / length if length else values
