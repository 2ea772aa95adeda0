"""What can never run, however long it waited, so that it is refused at once. Values in, an error out."""

from headrace.core.errors import ContextTooLong
from headrace.engine.sequence import Work
from headrace.kernels.plan import PAGE_TOKENS


def check_fits(work: Work, context_length: int, num_pages: int) -> None:
    """Refuse what could never run, however long it waited. Raises ContextTooLong."""
    prompt = len(work.tokens)
    total = prompt + work.max_tokens
    longest = context_length - min(1, work.max_tokens)
    if prompt > longest:
        what = "prompt" if work.max_tokens else "input"
        raise ContextTooLong(
            f"The {what} has {prompt} tokens and the model's context {context_length}; "
            f"shorten it to {longest} tokens at most.",
            param=work.field,
        )
    if total > context_length:
        raise ContextTooLong(
            f"max_tokens: {work.max_tokens} tokens after a prompt of {prompt} exceed the model's context of "
            f"{context_length}; at most {context_length - prompt} are possible.",
            param="max_tokens",
        )
    if total > num_pages * PAGE_TOKENS:
        raise ContextTooLong(
            f"Prompt ({prompt}) and max_tokens ({work.max_tokens}) need more than the {num_pages * PAGE_TOKENS} tokens "
            "that the page pool holds; ask for less, or start the server with more --kv-memory.",
            param="max_tokens",
        )
