"""Every field of the routes that take many texts: embeddings (OpenAI's), scores (vLLM's), reranking (Jina's, Cohere's).

Tables only, as in `openai_fields.py`: a field is typed in a struct below (supported), a row of an INERT table (known,
accepted only with values that ask for nothing we would leave undone), or nowhere (unknown). Nothing here raises.
"""

from typing import Annotated, Any

import msgspec

from headrace.api.openai_fields import RoutedBody
from headrace.api.openai_input import MAX_TOKEN_ID

TokenId = Annotated[int, msgspec.Meta(ge=0, le=MAX_TOKEN_ID)]

# Field -> values that mean "off" (null always does). Everything else is refused by name.
INERT_INPUTS: dict[str, tuple[Any, ...] | None] = {
    "mm_processor_kwargs": ({},),
    "padding": ("do_not_pad",),
    "request_id": (),  # the header x-request-id does that
    "truncation_side": ("right",),
    "use_activation": (True,),
}

INERT_EMBEDDING: dict[str, tuple[Any, ...] | None] = INERT_INPUTS | {
    "add_special_tokens": (True,),
    "chat_template": (),
    "embed_dtype": ("float32",),
    "endianness": ("little", "native"),
    "messages": (),
    "normalize": (True,),
}

INERT_RERANK: dict[str, tuple[Any, ...] | None] = INERT_INPUTS | {
    "max_chunks_per_doc": (),
    "max_tokens_per_doc": (),
    "rank_fields": (),
}


class InputsBody(RoutedBody, forbid_unknown_fields=True, kw_only=True):
    """What all of these routes take."""

    truncate_prompt_tokens: int | None = None
    mm_processor_kwargs: Any = None
    padding: Any = None
    request_id: Any = None
    truncation_side: Any = None
    use_activation: Any = None


class EmbeddingBody(InputsBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/embeddings`. How `input` is spelt decides how it is read: `INPUT_KINDS`."""

    input: msgspec.Raw
    encoding_format: str | None = None
    dimensions: int | None = None
    add_special_tokens: Any = None
    chat_template: Any = None
    embed_dtype: Any = None
    endianness: Any = None
    messages: Any = None
    normalize: Any = None


# How an input begins -> what it can be; what begins otherwise is none, and is told what would be one.
INPUT_KINDS: dict[bytes, Any] = {b'"': str, b'["': list[str], b"[[": list[list[TokenId]]} | {
    b"[" + bytes([first]): list[TokenId] for first in b"-0123456789"
}
ANY_INPUT: Any = str | list[str | int | list[int]]


class ScoreBody(InputsBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/score`. `logprobs` is ours: what a model that generates says of each token."""

    text_1: str | list[str]
    text_2: str | list[str]
    logprobs: bool | None = None


class Document(msgspec.Struct, forbid_unknown_fields=True):
    """A document of a `documents` list that is an object."""

    text: str


class RerankBody(InputsBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /v1/rerank`."""

    query: str
    documents: list[str | Document]
    top_n: int | None = None
    return_documents: bool | None = None
    max_chunks_per_doc: Any = None
    max_tokens_per_doc: Any = None
    rank_fields: Any = None
