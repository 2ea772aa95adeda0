"""Every field of Ollama's routes that run a model (https://docs.ollama.com/api), and the table of its options.

Tables only: a field is typed in a struct (supported), a row of an INERT table (known, accepted with values that ask for
nothing we would leave undone), or nowhere (unknown). What Ollama's loader is told (threads, layers on a GPU, sizes of
batches) changes no answer and is not our request's business: it is taken and left unread. Nothing here raises.
"""

from typing import Any, Final

import msgspec

Json = dict[str, Any]


class OllamaCalledFunction(msgspec.Struct, forbid_unknown_fields=True):
    """What an assistant called; `arguments` is an object and not text. `index` is its place among the calls."""

    name: str
    arguments: Json = msgspec.field(default_factory=dict)
    index: int | None = None


class OllamaCalledTool(msgspec.Struct, forbid_unknown_fields=True):
    """A call of an earlier turn."""

    function: OllamaCalledFunction
    id: str | None = None
    type: str | None = None


class OllamaMessage(msgspec.Struct, forbid_unknown_fields=True):
    """A turn of a conversation."""

    role: str
    content: str | None = None
    thinking: str | None = None
    images: list[Any] | None = None
    tool_calls: list[OllamaCalledTool] | None = None
    tool_name: str | None = None
    tool_call_id: str | None = None
    name: str | None = None


class OllamaFunction(msgspec.Struct, forbid_unknown_fields=True):
    """What may be called."""

    name: str
    description: str | None = None
    parameters: Json | None = None
    strict: bool | None = None


class OllamaTool(msgspec.Struct, forbid_unknown_fields=True):
    """A tool; only functions are known."""

    function: OllamaFunction
    type: str | None = None


class OllamaRunBody(msgspec.Struct, forbid_unknown_fields=True, kw_only=True):
    """What all of these routes take. `truncate` and `shift` say what becomes of an input that is too long: here it is
    always refused, never cut."""

    model: str
    options: Json | None = None
    keep_alive: float | str | None = None
    truncate: bool | None = None


class OllamaAnswerBody(OllamaRunBody, forbid_unknown_fields=True, kw_only=True):
    """What both routes that answer take."""

    stream: bool | None = None
    format: str | Json | None = None
    think: bool | str | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    shift: bool | None = None


class OllamaChatBody(OllamaAnswerBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/chat`."""

    messages: list[OllamaMessage] | None = None
    tools: list[OllamaTool] | None = None


class OllamaGenerateBody(OllamaAnswerBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/generate`."""

    prompt: str | None = None
    suffix: str | None = None
    system: str | None = None
    raw: bool | None = None
    template: str | None = None
    context: list[int] | None = None
    images: list[Any] | None = None
    width: Any = None
    height: Any = None
    steps: Any = None


class OllamaEmbedBody(OllamaRunBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/embed`."""

    input: str | list[str] | None = None
    dimensions: int | None = None


class OllamaEmbeddingsBody(OllamaRunBody, forbid_unknown_fields=True, kw_only=True):
    """`POST /api/embeddings`, the older one."""

    prompt: str | None = None


INERT_GENERATE: Final[dict[str, tuple[Any, ...] | None]] = {
    "template": ("",),  # the model's own is the one that its tokens were trained with
    "context": ([],),  # Ollama's tokens of an earlier answer; /api/chat carries a conversation
    "images": ([],),
    "width": (),
    "height": (),
    "steps": (),
}

INERT_OPTIONS: Final[dict[str, tuple[Any, ...] | None]] = {
    "draft_num_predict": None,
    "embedding_only": (False,),
    "f16_kv": None,
    "logits_all": None,
    "low_vram": None,
    "main_gpu": None,
    "mirostat": (0,),
    "mirostat_eta": None,
    "mirostat_tau": None,
    "num_batch": None,
    "num_ctx": None,  # the context is the model's or --context; /api/show says it
    "num_gpu": None,
    "num_gqa": None,
    "num_keep": None,  # nothing is ever cut out of the middle
    "num_thread": None,
    "numa": None,
    "penalize_newline": None,
    "rope_frequency_base": (),
    "rope_frequency_scale": (),
    "tfs_z": (1, 1.0),
    "use_mlock": None,
    "use_mmap": None,
    "vocab_only": (False,),
}

# Option -> the field of `Sampling` that it is.
SAMPLING_OPTIONS: Final[dict[str, str]] = {
    "temperature": "temperature",
    "top_k": "top_k",
    "top_p": "top_p",
    "min_p": "min_p",
    "typical_p": "typical_p",
    "repeat_penalty": "repetition_penalty",
    "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty",
    "seed": "seed",
}
WHOLE_OPTIONS: Final = frozenset({"top_k", "seed"})
OTHER_OPTIONS: Final = ("num_predict", "repeat_last_n", "stop")

# What Ollama's server draws with unless it is told otherwise. Its repeat_penalty of 1.1 looks at 64 tokens and ours at
# all of them, where it would do harm: it is 1 unless it is asked for.
DEFAULTS: Final[dict[str, Any]] = {"temperature": 0.8, "top_k": 40, "top_p": 0.9}

FIELDS_AT: Final[dict[str, tuple[str, ...]]] = {
    "messages[]": OllamaMessage.__struct_fields__,
    "messages[].tool_calls[]": OllamaCalledTool.__struct_fields__,
    "messages[].tool_calls[].function": OllamaCalledFunction.__struct_fields__,
    "tools[]": OllamaTool.__struct_fields__,
    "tools[].function": OllamaFunction.__struct_fields__,
}
