"""What the routes over many texts share: common fields, results as they come in, and whose words a refusal uses.

Codecs of single routes (`openai_embeddings.py`, `rerank.py`) make an `InputsCall` of a body; the server runs its
request, fills a `ResultTable` with the events and sends what `encode` makes of it. Knows no sockets and no model.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol, TypeVar

import msgspec

from headrace.api.input_fields import Document, InputsBody
from headrace.api.openai import Caller, model_name, principal_of
from headrace.api.openai_fields import FIELDS_AT
from headrace.api.openai_input import cache_hints
from headrace.api.openai_refusal import refuse_body, show
from headrace.api.vectors import FLOAT_BYTES, is_finite
from headrace.core.errors import EngineFault, InvalidRequest, UnsupportedField
from headrace.core.events import Embedding, Event, Finished, Score, Started
from headrace.core.request import MAX_INPUTS, Input, Limits, Request, Task

_FIELDS_AT = FIELDS_AT | {"documents[]": Document.__struct_fields__}
Body = TypeVar("Body", bound=InputsBody)

# How `Request.check` and backends call what a body calls otherwise.
_INPUTS = ("inputs", "input")
_SPOKEN = re.compile(r"^inputs?\b")


class InputsCall(Protocol):
    """A decoded body: the neutral request, and how its results are written."""

    @property
    def request(self) -> Request:
        """What the backend is asked."""
        ...

    @property
    def field(self) -> str:
        """What the body calls the inputs of the request."""
        ...

    def encode(self, table: "ResultTable", created_s: int) -> Iterator[bytes]:
        """The answer's body in pieces, none of which takes long to make. `table` is complete."""
        ...


class ResultTable:
    """The results of a request, one for each input, whatever order they come in."""

    def __init__(self, request: Request) -> None:
        self._kind = Embedding if request.task is Task.EMBED else Score
        self._results: list[Embedding | Score | None] = [None] * len(request.inputs or ())
        self._num_missing = len(self._results)
        self.model = request.model
        self.prompt_tokens = 0
        self.is_begun = False
        self.is_done = False

    def add(self, events: Iterable[Event]) -> None:
        """Take in more results. Raises EngineFault for events that no backend may send here."""
        for event in events:
            if isinstance(event, self._kind) and self.is_begun:
                self._keep(event)
            elif isinstance(event, Started) and not self.is_begun:
                self.model, self.is_begun = event.model, True
            elif isinstance(event, Finished) and self.is_begun and not self._num_missing:
                self.prompt_tokens, self.is_done = event.usage.prompt_tokens, True
            else:
                name = type(event).__name__
                raise EngineFault(
                    f"the backend sent {name} where it may not, with {self._num_missing} results missing."
                )

    def embeddings(self) -> list[Embedding]:
        """The vectors, by input. Only of a complete table of a request that embeds."""
        return [result for result in self._results if isinstance(result, Embedding)]

    def scores(self) -> list[Score]:
        """The scores, by input. Only of a complete table of a request that scores."""
        return [result for result in self._results if isinstance(result, Score)]

    def _keep(self, result: Embedding | Score) -> None:
        if not 0 <= result.index < len(self._results) or self._results[result.index] is not None:
            raise EngineFault(f"the backend sent a result for input {result.index}, which is not awaited.")
        if isinstance(result, Embedding) and (len(result.vector) % FLOAT_BYTES or not is_finite(result.vector)):
            raise EngineFault(f"the vector of input {result.index} holds something that is no finite number.")
        if isinstance(result, Score) and not result.value < float("inf"):
            raise EngineFault(f"the score of input {result.index} is {result.value}, which is no score.")
        self._results[result.index] = result
        self._num_missing -= 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What a route's own fields say of a request."""

    task: Task
    field: str
    inputs: tuple[Input, ...]
    dimensions: int | None = None
    logprobs: int | None = None


def read_body(decoder: "msgspec.json.Decoder[Body]", data: bytes) -> Body:
    """The fields of a body. Raises InvalidRequest naming what is wrong."""
    try:
        return decoder.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError, ValueError) as error:
        refuse_body(error, data, decoder.type, _FIELDS_AT)


def input_request(body: InputsBody, caller: Caller, asked: Asked) -> Request:
    """The neutral request of a body. Raises InvalidRequest or UnsupportedField in the body's own words."""
    if caller.explains_cache:
        raise UnsupportedField(
            "x-headrace-explain: this route explains nothing; leave the header out.", param="x-headrace-explain"
        )
    check_count(asked.field, len(asked.inputs))
    request = Request(
        id=caller.request_id,
        model=model_name(body),
        task=asked.task,
        inputs=asked.inputs,
        dimensions=asked.dimensions,
        truncates=_truncates(body.truncate_prompt_tokens),
        limits=Limits(deadline_s=caller.deadline_s),
        logprobs=asked.logprobs,
        cache=cache_hints(body, explain=False, fresh=caller.is_fresh),
        principal=principal_of(body, caller.principal),
        session=caller.session,
        parent=caller.parent,
        labels=caller.labels,
        tags=caller.tags,
    )
    try:
        request.check()
    except InvalidRequest as error:
        raise reword(error, asked.field) from None
    return request


def reword(error: InvalidRequest, field: str) -> InvalidRequest:
    """A refusal that speaks of `inputs`, in the words of a body that calls them otherwise."""
    if error.param not in _INPUTS:
        return error
    message = _SPOKEN.sub(field, error.message, count=1)
    return type(error)(message, param=field, code=error.code)


def check_count(field: str, count: int) -> None:
    """Raise InvalidRequest unless a list has at least one entry, and no more than a request may bring."""
    if count == 0:
        raise InvalidRequest(f"{field}: is empty; give at least one text.", param=field)
    if count > MAX_INPUTS:
        raise InvalidRequest(
            f"{field}: {count} given; at most {MAX_INPUTS} are allowed, send several requests.", param=field
        )


def _truncates(limit: int | None) -> bool:
    if limit not in (None, -1):
        raise UnsupportedField(
            f"truncate_prompt_tokens: {show(limit)} is not supported; send -1 to cut inputs to what the model takes, "
            "or leave it out to have those that are too long refused.",
            param="truncate_prompt_tokens",
        )
    return limit == -1
