"""What routes reach that run no model: small protocols, implemented below and joined in `cli`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from headrace.core.backend import ModelCard
from headrace.core.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterState:
    """An adapter that there is for a model in memory. `num_bytes` is what it takes, 0 while it is not in memory."""

    name: str
    model: str
    is_loaded: bool = False
    num_bytes: int = 0


class Adapters(Protocol):
    """Adapters of served models. Names are `model:adapter`, or `adapter` where one model is served."""

    async def load_adapter(self, name: str) -> ModelCard:
        """Hold an adapter in memory, if it is not there; its card. Raises NotFound, ModelFileError, Unavailable."""
        ...

    async def unload_adapter(self, name: str) -> None:
        """Take it out of memory; requests that use it end as they would. Raises NotFound if it is not there."""
        ...

    def adapters(self) -> tuple[AdapterState, ...]:
        """Those of every model in memory, in memory themselves or not."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Residence:
    """A served model and what it holds.

    `state`: absent, waiting (for memory), loading, ready or leaving. `bytes_held`: weights and pages together, 0 while
    absent. `idle_s`: since its last request ended, None while one runs or none has. `unloads_in_s`: when it leaves if
    nobody asks for it, None if it stays.
    """

    name: str
    state: str
    bytes_held: int = 0
    num_requests: int = 0
    idle_s: float | None = None
    unloads_in_s: float | None = None


class Residents(Protocol):
    """Served models, of which some are in memory."""

    @property
    def memory_bytes(self) -> int | None:
        """What they may hold together, None without a bound."""
        ...

    async def load_model(self, name: str) -> Residence:
        """Hold a model in memory, if it is not there. Raises NotFound, ModelFileError, Overloaded, Unavailable."""
        ...

    async def unload_model(self, name: str, *, waits: bool = True) -> Residence:
        """Take it out of memory, after its running requests have ended.

        Raises NotFound, InvalidRequest if it could not be loaded again, and without `waits` Conflict if it is in use.
        """
        ...

    def residences(self) -> tuple[Residence, ...]:
        """Every served model and what it holds."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Reloaded:
    """Settings were read again and hold. `warnings` are sentences; `waiting` are names of settings that changed, too,
    and hold after a restart only."""

    warnings: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()


class Reloading(Protocol):
    """Reads the server's own settings again, from where it read them at its start and from nowhere else."""

    async def reload(self) -> Reloaded:
        """Go on as they say now; running answers end as they began. Raises InvalidRequest with file, line and remedy if
        they are wrong, and then nothing has changed."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelState:
    """One model of a backend as requests have found it. `breaker` is closed, open, trying or resting; `retry_in_s`:
    when it may be asked again, None if it may be now. Averages are None where nothing was seen lately."""

    name: str
    breaker: Literal["closed", "open", "trying", "resting"] = "closed"
    num_failed: int = 0
    retry_in_s: float | None = None
    num_in_flight: int = 0
    seconds_per_token: float | None = None
    output_tokens: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendState:
    """One backend of a gateway. `health` is well, failing, warming or unchecked; `share` what part of its usual
    requests it may get. `num_running` have a place there, `num_waiting` wait for one."""

    name: str
    kind: str
    is_draining: bool
    health: Literal["well", "failing", "warming", "unchecked"]
    share: float
    last_error: str = ""
    num_running: int = 0
    num_waiting: int = 0
    max_concurrency: int | None = None
    models: tuple[ModelState, ...] = ()


class Operations(Protocol):
    """What an operator sees of a gateway's backends, and can do to one."""

    def backends(self) -> tuple[BackendState, ...]:
        """Every backend as it stands now."""
        ...

    def drain(self, backend: str) -> BackendState:
        """Give it no new requests; those that run end as they would. Raises NotFound."""
        ...

    def resume(self, backend: str) -> BackendState:
        """Give it requests again. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredCompletion:
    """An answer that is kept, with what it was asked: `messages` and `answer` are JSON as the wire has it. `created` is
    Unix time in seconds."""

    id: str
    created: int
    model: str
    messages: bytes
    answer: bytes
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class CompletionQuery:
    """Which of a tenant's completions: `limit` of those `after` an id that a model gave and whose metadata has these
    pairs, oldest first unless `is_newest_first`."""

    after: str | None = None
    limit: int = 20
    is_newest_first: bool = False
    model: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CompletionPage:
    """Completions, and whether there are more behind them."""

    completions: tuple[StoredCompletion, ...]
    has_more: bool


class Completions(Protocol):
    """Chat completions that are kept, each its tenant's. One of another tenant is not found."""

    async def check_room(self, tenant: str) -> None:
        """Raise RateLimited if a tenant may keep no more."""
        ...

    async def add_completion(self, tenant: str, completion: StoredCompletion) -> None:
        """Keep one. Raises Unavailable if there is no room."""
        ...

    async def find_completion(self, tenant: str, completion_id: str) -> StoredCompletion:
        """One by its id. Raises NotFound."""
        ...

    async def list_completions(self, tenant: str, query: CompletionQuery) -> CompletionPage:
        """Those that a query asks for. Raises NotFound if there is none with the id `after`."""
        ...

    async def update_completion(self, tenant: str, completion_id: str, metadata: Mapping[str, str]) -> StoredCompletion:
        """Give one other metadata. Raises NotFound."""
        ...

    async def delete_completion(self, tenant: str, completion_id: str) -> None:
        """Forget one. Raises NotFound."""
        ...


@dataclass(frozen=True, slots=True)
class Tokenized:
    """Token ids of an input and the bytes that each adds to a text; a control token's are its name. `max_tokens`: how
    many the model's context holds."""

    tokens: tuple[int, ...]
    pieces: tuple[bytes, ...]
    max_tokens: int


class Tokens(Protocol):
    """Texts and conversations as a served model's token ids, and back. Models are loaded as for other requests."""

    async def tokenize(self, request: Request, *, adds_special: bool, opens_answer: bool) -> Tokenized:
        """The input of a request that counts tokens. `adds_special`: with what the model puts around a text;
        `opens_answer`: with what its template puts before the answer of a conversation. Raises NotFound and
        InvalidRequest."""
        ...

    async def detokenize(self, request: Request) -> str:
        """What the token ids of a request that counts tokens read as. Raises NotFound and InvalidRequest."""
        ...
