"""A conversation made shorter: the model itself says in a few words what somebody who goes on with it has to know.

Saves nothing and knows no wire shapes; what becomes of the summary is the affair of whoever asks for it.
"""

import contextlib
from dataclasses import replace
from typing import Final

from headrace.core.backend import Backend
from headrace.core.errors import EngineFault
from headrace.core.events import Finished, TextDelta, Usage
from headrace.core.request import (
    Effort,
    Limits,
    Message,
    Reasoning,
    Request,
    ResponseFormat,
    Role,
    TextPart,
    ToolChoice,
)
from headrace.gateway.response_run import Prepared, shortened

LONGEST_SUMMARY: Final = 1024
# Of a small context a summary takes no more than this part.
SUMMARY_PART: Final = 4
_WISH: Final = (
    "Summarize the conversation so far for somebody who has to go on with it and sees nothing else of it: what "
    "was asked, what was decided and done, what tools returned that still matters, and what is open. Write nothing "
    "but the summary."
)


async def summarize(backend: Backend, prepared: Prepared) -> tuple[str, Usage]:
    """What the model says of a conversation, of whose beginning as much is left out as does not fit.

    Raises HeadraceError.
    """
    wish = Message(role=Role.USER, parts=(TextPart(_WISH),))
    longest = _longest(backend, prepared.request.model)

    def asking(request: Request) -> Request:
        return replace(
            request,
            messages=(*(request.messages or ()), wish),
            tools=(),
            tool_choice=ToolChoice(),
            reasoning=Reasoning(effort=Effort.NONE),
            response_format=ResponseFormat(),
            limits=Limits(max_tokens=longest, deadline_s=request.limits.deadline_s),
        )

    request = asking(prepared.request)
    if not (await backend.probe(request)).fits:
        request = asking(await shortened(backend, prepared, asking))
    pieces: list[str] = []
    async with contextlib.aclosing(backend.run(request)) as events:
        async for event in events:
            if isinstance(event, TextDelta):
                pieces.append(event.text)
            elif isinstance(event, Finished):
                return "".join(pieces), event.usage
    raise EngineFault("the backend ended the answer without saying that it was finished; send it again.")


def _longest(backend: Backend, model: str) -> int:
    """Tokens that a summary may have."""
    contexts = [card.context_length for card in backend.models() if model in (card.id, *card.aliases)]
    return min([LONGEST_SUMMARY, *(max(1, length // SUMMARY_PART) for length in contexts)])
