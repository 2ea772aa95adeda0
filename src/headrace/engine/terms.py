"""On what terms the engine takes a request: its piece of work, and what is refused by name before there is one.

Decided here: a grammar allows the end where the answer may end and nowhere else, so there is nothing to ignore under
it; where nothing is to be generated, one token is drawn and dropped, for it costs nothing that reading does not. Knows
no thread and no mailbox.
"""

import math
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import InvalidRequest, UnsupportedField
from headrace.core.request import Request, Task
from headrace.engine.grammar.budget import Budget
from headrace.engine.grammar.matcher import Grammar
from headrace.engine.idiom import has_tools
from headrace.engine.sequence import Keep, Work
from headrace.engine.served import Served


def make_work(
    served: Served,
    request: Request,
    tokens: NDArray[np.int32],
    *,
    seed: int,
    room: int,
    arrived: float,
    keeps: tuple[Keep, ...] = (),
) -> Work:
    """The work of a request whose input is `tokens`; `room`: tokens of an answer that fills the context.

    Raises InvalidRequest for a bias of a token that the model does not have.
    """
    limits, sampling = request.limits, request.sampling
    _check_bias(request, served.model.plan.vocab_size)
    stop_ids = frozenset(limits.stop_token_ids)
    if not limits.ignore_eos:
        stop_ids |= served.model.tokenizer.eos_ids
    if request.suffix is not None:
        stop_ids |= served.model.tokenizer.filling_ends
    logprobs = request.logprobs
    if logprobs is None and sampling.num_drawn > sampling.num_choices:
        logprobs = 0  # to know which are best
    max_tokens = room if limits.max_tokens is None else max(1, limits.max_tokens)
    return Work(
        model=served.model.name,
        tokens=tokens,
        sampling=sampling,
        seed=seed,
        max_tokens=min(room, max_tokens) if limits.fits_context else max_tokens,
        stop_ids=stop_ids,
        salt=served.salt(request),
        priority=request.principal.priority,
        tenant=request.principal.tenant,
        share=request.principal.share,
        logprobs=logprobs,
        prompt_logprobs=request.prompt_logprobs,
        session=request.session,
        parent=request.parent,
        adapter=None if served.adapter is None else served.adapter.bound,
        keeps=keeps,
        explains=request.cache.explain,
        deadline=math.inf if limits.deadline_s is None else arrived + limits.deadline_s,
        field="prompt" if request.messages is None else "messages",
    )


def held_to(work: Work, grammar: Grammar | None, served: Served, request: Request) -> Work:
    """The same work, held to a grammar, under which the answer can end, and to the tokens its thoughts may have."""
    if grammar is not None:
        work = replace(work, grammar=grammar, stop_ids=work.stop_ids | served.model.tokenizer.eos_ids)
    idiom, limit = served.idiom, served.idiom.thought_limit(request.reasoning)
    if limit is None or idiom.marks is None or request.messages is None:
        return work
    return replace(
        work,
        grammar=Budget(
            limit,
            idiom.marks,
            served.encode_text(f"\n{idiom.marks.close}\n\n"),
            served.marked_table(frozenset(idiom.marks))[: served.model.tokenizer.vocab_size],
            -(-served.model.plan.vocab_size // 32),
            is_open=served.has_open_thought(work.tokens),
            inner=grammar,
        ),
    )


def refuse_unsupported(request: Request, served: Served) -> None:
    """Refuse by name what the protocol knows and this backend does not do yet. Raises InvalidRequest."""
    if request.task is Task.EMBED and served.adapter is not None:
        raise InvalidRequest(f"model: adapters do not embed; ask for {served.model.name}.", param="model")
    if has_tools(request) and request.messages is None:
        raise UnsupportedField("tools: go with messages only; leave them out of a raw prompt.", param="tools")
    check_deadline(request.limits.deadline_s)


def check_deadline(deadline_s: float | None) -> None:
    """Raise InvalidRequest for a time limit that is none."""
    if deadline_s is not None and not 0 < deadline_s < math.inf:
        raise InvalidRequest(f"deadline_s: {deadline_s!r} is not above 0; give seconds.", param="deadline_s")


def _check_bias(request: Request, vocab_size: int) -> None:
    """Raise InvalidRequest for a token that the model does not have."""
    seen = set()
    for token, _ in request.sampling.logit_bias:
        if not 0 <= token < vocab_size:
            raise InvalidRequest(
                f"logit_bias: {token} is not in [0, {vocab_size - 1}], the model's vocabulary.", param="logit_bias"
            )
        if token in seen:
            raise InvalidRequest(f"logit_bias: {token} is given twice; give each token once.", param="logit_bias")
        seen.add(token)
