"""What the OpenAPI document says of each route: one row, with the struct of its body and of its answer.

Tables and shapes only. A shape of an answer is what clients may rely on; answers may have more fields. A route without
a row is in the document too, as one that nothing is known of.
"""

from typing import Annotated, Any, Final, Literal

import msgspec

from headrace.api.actions import QUERY as ACTION_QUERY
from headrace.api.actions import ActionAnswerList
from headrace.api.anthropic_fields import MessagesBody, PromptBody
from headrace.api.backends import BackendAnswer, BackendsAnswer
from headrace.api.console import CONSOLE_OPERATIONS
from headrace.api.delegations import DelegateBody, DelegatedAnswer, RevokeBody, RevokedList
from headrace.api.endorsements import EndorseBody, EndorsementAnswer, EndorsementList, WithheldList
from headrace.api.explanation import ExplainAnswer, ExplainBody
from headrace.api.input_fields import EmbeddingBody, RerankBody, ScoreBody
from headrace.api.live import LiveFrame
from headrace.api.lora import AdapterAnswerList
from headrace.api.metadata import MetadataBody
from headrace.api.monitors import ClearAnswer, ClearBody, MonitorsAnswer
from headrace.api.openai_fields import ChatBody, CompletionBody
from headrace.api.openai_stored import MAX_PAGE
from headrace.api.openapi_accounts import ACCOUNT_OPERATIONS
from headrace.api.openapi_answers import (
    Card,
    CardList,
    ChatAnswer,
    ChatAnswerList,
    CompletionAnswer,
    CountTokensAnswer,
    DeletedAnswer,
    DetokenizeAnswer,
    EmbeddingAnswer,
    MessagesAnswer,
    RerankAnswer,
    ScoreAnswer,
    StoredMessageList,
    TokenizeAnswer,
)
from headrace.api.openapi_caches import CACHE_OPERATIONS
from headrace.api.openapi_files import FILE_OPERATIONS
from headrace.api.openapi_messages import MESSAGE_BATCH_OPERATIONS
from headrace.api.openapi_ollama import OLLAMA_OPERATIONS
from headrace.api.openapi_operation import EVENTS, Operation
from headrace.api.openapi_records import RECORD_OPERATIONS
from headrace.api.openapi_responses import RESPONSES_OPERATIONS
from headrace.api.paths import PATH_FILTERS, PathAnswer, PathPageAnswer, RoutesAnswer
from headrace.api.policy import DecideAnswer, DecideBody, PoliciesAnswer
from headrace.api.reload import ReloadAnswer
from headrace.api.tokens import DetokenizeBody, TokenizeBody


class LoraBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which adapter is meant."""

    lora_name: str


class LoadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is meant."""

    model: str


class UnloadBody(msgspec.Struct, forbid_unknown_fields=True):
    """Which model is meant, and whether its requests may end first."""

    model: str
    wait: bool = True


class Unloaded(msgspec.Struct):
    """What is not in memory any more."""

    id: str
    object: Literal["model"]
    unloaded: Literal[True]


class Status(msgspec.Struct):
    """llama.cpp's word for where a model is."""

    value: Literal["unloaded", "loading", "loaded"]


class ResidentCard(msgspec.Struct):
    """A served model and what it holds."""

    id: str
    object: Literal["model"]
    status: Status
    state: Literal["absent", "waiting", "loading", "ready", "leaving"]
    bytes_held: int
    num_requests: int
    idle_s: float | None
    unloads_in_s: float | None


class ResidentList(msgspec.Struct):
    """Every served model."""

    object: Literal["list"]
    data: list[ResidentCard]
    bytes_held: int
    memory_bytes: int | None


class Changed(msgspec.Struct):
    """A model after it was loaded or unloaded."""

    success: Literal[True]
    model: ResidentCard


class Version(msgspec.Struct):
    """What runs here."""

    name: Literal["headrace"]
    version: str


class Health(msgspec.Struct):
    """That it runs."""

    status: Literal["alive", "ready"]


class ErrorFields(msgspec.Struct):
    """OpenAI's error object; all four are always there."""

    message: str
    type: str
    param: str | None
    code: str | None


class OpenAIError(msgspec.Struct):
    """A refusal as OpenAI's clients know it."""

    error: ErrorFields


class AnthropicErrorFields(msgspec.Struct):
    """Anthropic's error object."""

    type: str
    message: str


class AnthropicError(msgspec.Struct):
    """A refusal as Anthropic's clients know it."""

    type: Literal["error"]
    error: AnthropicErrorFields
    request_id: str


class OllamaError(msgspec.Struct):
    """A refusal as Ollama's clients know it."""

    error: str


# A dialect's name -> the shape of its refusals.
ERRORS: Final[dict[str, Any]] = {"openai": OpenAIError, "anthropic": AnthropicError, "ollama": OllamaError}

UNKNOWN: Final = Operation("A route of this server.", answer=Any)

_PAGE: Final[dict[str, Any]] = {
    "after": str,
    "limit": Annotated[int, msgspec.Meta(ge=1, le=MAX_PAGE)],
    "order": Literal["asc", "desc"],
}
_SCORE: Final = Operation("How well pairs of texts go together.", ScoreBody, ScoreAnswer)
_RERANK: Final = Operation("Documents, the best for a query first.", RerankBody, RerankAnswer)

OPERATIONS: Final[dict[tuple[str, str], Operation]] = {
    ("POST", "/v1/chat/completions"): Operation("Answer a conversation.", ChatBody, ChatAnswer, (EVENTS,)),
    ("GET", "/v1/chat/completions"): Operation(
        "Answers that were stored.", answer=ChatAnswerList, query=_PAGE | {"model": str}
    ),
    ("GET", "/v1/chat/completions/{id}"): Operation("One stored answer.", answer=ChatAnswer),
    ("POST", "/v1/chat/completions/{id}"): Operation("Change its metadata.", MetadataBody, ChatAnswer),
    ("DELETE", "/v1/chat/completions/{id}"): Operation("Forget it.", answer=DeletedAnswer),
    ("GET", "/v1/chat/completions/{id}/messages"): Operation(
        "What it was asked for.", answer=StoredMessageList, query=_PAGE
    ),
    ("POST", "/v1/completions"): Operation("Continue a prompt.", CompletionBody, CompletionAnswer, (EVENTS,)),
    ("POST", "/v1/messages"): Operation("Answer a conversation.", MessagesBody, MessagesAnswer, (EVENTS,)),
    ("POST", "/v1/messages/count_tokens"): Operation("Count a conversation's tokens.", PromptBody, CountTokensAnswer),
    ("POST", "/v1/embeddings"): Operation("The vectors of texts.", EmbeddingBody, EmbeddingAnswer),
    ("POST", "/v1/score"): _SCORE,
    ("POST", "/score"): _SCORE,
    ("POST", "/v1/rerank"): _RERANK,
    ("POST", "/v2/rerank"): _RERANK,
    ("POST", "/rerank"): _RERANK,
    ("POST", "/tokenize"): Operation("The token ids of a text or a conversation.", TokenizeBody, TokenizeAnswer),
    ("POST", "/detokenize"): Operation("What token ids read as.", DetokenizeBody, DetokenizeAnswer),
    ("GET", "/v1/models"): Operation("The models that are served.", answer=CardList),
    ("GET", "/v1/models/{id*}"): Operation("One model.", answer=Card),
    ("GET", "/v1/adapters"): Operation("Every adapter of the models in memory.", answer=AdapterAnswerList),
    ("POST", "/v1/load_lora_adapter"): Operation("Load an adapter.", LoraBody, Card),
    ("POST", "/v1/unload_lora_adapter"): Operation("Unload an adapter.", LoraBody, Unloaded),
    ("GET", "/models"): Operation("Every served model and what it holds.", answer=ResidentList),
    ("POST", "/models/load"): Operation("Load a model.", LoadBody, Changed),
    ("POST", "/v1/gateway/reload"): Operation("Read the settings file again.", answer=ReloadAnswer),
    ("GET", "/v1/gateway/backends"): Operation("Every backend as it stands now.", answer=BackendsAnswer),
    ("POST", "/v1/gateway/backends/{name}/drain"): Operation("Give a backend no new requests.", answer=BackendAnswer),
    ("POST", "/v1/gateway/backends/{name}/resume"): Operation("Give it requests again.", answer=BackendAnswer),
    ("GET", "/v1/gateway/routes"): Operation("Every route and what was seen of it.", answer=RoutesAnswer),
    ("GET", "/v1/gateway/requests"): Operation(
        "The last requests, newest first.", answer=PathPageAnswer, query=PATH_FILTERS
    ),
    ("GET", "/v1/gateway/requests/{id*}"): Operation("Which way one went, and why.", answer=PathAnswer),
    ("GET", "/v1/monitors"): Operation("What monitors have against accounts.", answer=MonitorsAnswer),
    ("POST", "/v1/monitors/clear"): Operation("Take it back.", ClearBody, ClearAnswer),
    ("GET", "/v1/admin/actions"): Operation("What administrators did.", answer=ActionAnswerList, query=ACTION_QUERY),
    ("POST", "/v1/gateway/explain"): Operation("Why a request would go where.", ExplainBody, ExplainAnswer),
    ("GET", "/v1/policy"): Operation("The policies in force.", answer=PoliciesAnswer),
    ("POST", "/v1/policy/decide"): Operation("What the policies permit the caller.", DecideBody, DecideAnswer),
    ("POST", "/v1/delegations"): Operation("Hand on a part of one's own rights.", DelegateBody, DelegatedAnswer),
    ("GET", "/v1/delegations/revoked"): Operation("Every delegation that was taken back.", answer=RevokedList),
    ("POST", "/v1/delegations/revoked"): Operation("Take delegations back.", RevokeBody, RevokedList),
    ("POST", "/v1/endorsements"): Operation(
        "Let one call of a tool pass, or one value.", EndorseBody, EndorsementAnswer
    ),
    ("GET", "/v1/endorsements"): Operation("Endorsements that hold.", answer=EndorsementList),
    ("GET", "/v1/endorsements/withheld"): Operation("Calls that could be endorsed.", answer=WithheldList),
    ("DELETE", "/v1/endorsements/{id}"): Operation("Withdraw an endorsement.", answer=EndorsementAnswer),
    ("POST", "/models/unload"): Operation("Unload a model.", UnloadBody, Changed),
    ("GET", "/v1/live"): Operation(
        "What runs now, as events, one frame a second; with once=true one frame, with history=true what was before.",
        answer=LiveFrame,
        media=(EVENTS,),
        query={"once": bool, "history": bool},
    ),
    ("GET", "/health"): Operation("Whether the process lives.", answer=Health),
    ("GET", "/ready"): Operation("Whether requests are answered.", answer=Health),
    ("GET", "/version"): Operation("The version.", answer=Version),
    ("GET", "/metrics"): Operation("Prometheus text.", media=("text/plain",)),
    ("GET", "/openapi.json"): Operation("This document.", answer=dict[str, Any]),
    ("GET", "/log/checkpoint"): Operation("The transparency log's newest checkpoint.", media=("text/plain",)),
    ("GET", "/log/checkpoint.witnessed"): Operation(
        "Its newest checkpoint that enough witnesses cosigned.", media=("text/plain",)
    ),
    ("GET", "/log/tile/{path*}"): Operation("A tile of its hashes or entries.", media=("application/octet-stream",)),
    **RECORD_OPERATIONS,
    **CONSOLE_OPERATIONS,
    **RESPONSES_OPERATIONS,
    **CACHE_OPERATIONS,
    **ACCOUNT_OPERATIONS,
    **FILE_OPERATIONS,
    **MESSAGE_BATCH_OPERATIONS,
    **OLLAMA_OPERATIONS,
}
