"""Neutral requests with a prompt of text or tokens as bodies of OpenAI's Completions.

Chat's forms and tools do not exist here; a form is told by a provider's own fields. Streams are read by
`chat_reader.py`.
"""

from typing import Any, Final

from headrace.api.outbound.chat_body import finish_call, forms, limits, sampling, unsupported
from headrace.api.outbound.codec import OutboundCall, Quirks
from headrace.core.request import Request

PATH: Final = "/completions"
MAX_TOKENS: Final = "max_tokens"
"""What this route calls the bound of an answer, whatever chats call it."""


def encode_completion(request: Request, model: str, quirks: Quirks) -> OutboundCall:
    """The call that asks for a continuation. Raises UnsupportedField for what the provider cannot be told."""
    if request.prompt_logprobs is not None:
        raise unsupported("prompt_logprobs")
    if request.sampling.best_of is not None and request.sampling.best_of > request.sampling.num_choices:
        raise unsupported("best_of")  # a stream cannot begin before the best is known
    if request.tools:
        raise unsupported("tools")
    prompt = request.prompt if request.tokens is None else list(request.tokens)
    body: dict[str, Any] = {"model": model, "prompt": prompt}
    if request.suffix is not None:
        body["suffix"] = request.suffix
    if request.logprobs is not None:
        body["logprobs"] = request.logprobs
    body |= sampling(request, quirks) | limits(request, quirks, MAX_TOKENS) | forms(request.response_format, quirks)
    return finish_call(PATH, body, quirks)
