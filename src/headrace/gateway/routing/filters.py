"""What rules a target out for a request, always and before any policy: clearance, what the model can do, its context.

What depends on the kind of a request alone (its labels, tenant, needs, task) is decided once for a kind. Knows no
health, no load and no order.
"""

from collections.abc import Iterable
from typing import Final

from headrace.core.request import Task
from headrace.core.shape import Need, Shape
from headrace.gateway.routing.option import CANNOT, NOT_CLEARED, TOO_LONG, Option, Refusal, Route, Sieved
from headrace.gateway.routing.sightings import BYTES_PER_TOKEN
from headrace.gateway.settings import Target, TenantRule

MAX_KINDS: Final = 256
"""Of requests that a route remembers: labels come from clients."""

MOST_BYTES_PER_TOKEN: Final = 32
"""More of them a token, on average over a whole prompt, has nothing but runs of one character: what is certain."""


def clear(option: Option, labels: frozenset[str], rule: TenantRule | None) -> Refusal | None:
    """Whether a backend may see a request with these labels, of a tenant with this rule.

    The engine may see all: what it is asked is in this process already.
    """
    if option.is_engine:
        return None
    backend = option.backend
    wanted = labels if rule is None else labels | rule.labels
    if missing := wanted - backend.clearance:
        return Refusal(NOT_CLEARED, f"not cleared for {', '.join(sorted(missing))}")
    if rule is not None and rule.regions and backend.region not in rule.regions:
        return Refusal(NOT_CLEARED, f"its region {backend.region or 'is not told'} is not one of the tenant's")
    if rule is not None and rule.retentions and backend.retention not in rule.retentions:
        return Refusal(NOT_CLEARED, f"its retention {backend.retention or 'is not told'} is not one of the tenant's")
    return None


def can(option: Option, needs: frozenset[Need], task: Task) -> Refusal | None:
    """Whether the model does what is asked."""
    if option.says_itself:
        return None
    if task not in option.model.tasks:
        return Refusal(CANNOT, f"does not {task}", (f"to {task}",))
    if missing := needs - option.model.can:
        lacks = tuple(sorted(missing))
        return Refusal(CANNOT, f"has no {', '.join(lacks)}", lacks)
    return None


def sieve(route: Route, shape: Shape, rule: TenantRule | None) -> Sieved:
    """The options that requests like this one may go to."""
    kind = (shape.labels, None if rule is None else rule.tenant, shape.needs, shape.task)
    known = route.sieved.get(kind)
    if known is None:
        if len(route.sieved) >= MAX_KINDS:
            route.sieved.clear()
        known = route.sieved[kind] = _sieve(route.options, shape, rule)
    return known


def refuse(option: Option, shape: Shape, rule: TenantRule | None) -> Refusal | None:
    """Why one option is not for a request."""
    return clear(option, shape.labels, rule) or can(option, shape.needs, shape.task) or outgrow(option, shape)


def outgrow(option: Option, shape: Shape) -> Refusal | None:
    """Whether the prompt can surely not fit the model's context."""
    context = option.model.context_length
    # Inputs are read one by one, so their sum says little.
    if shape.num_bytes <= context or shape.num_inputs or option.says_itself or least_tokens(shape) <= context:
        return None
    return Refusal(TOO_LONG, f"the prompt has {least_tokens(shape)} tokens or more, and its context {context}")


def least_tokens(shape: Shape) -> int:
    """Tokens that the prompt has at least."""
    return shape.num_bytes // MOST_BYTES_PER_TOKEN


def likely_tokens(shape: Shape) -> int:
    """Tokens that prompt and answer will need."""
    return shape.prompt_bound // BYTES_PER_TOKEN + (shape.max_tokens or 0)


def fit(options: tuple[Option, ...], shape: Shape) -> tuple[list[Option], list[Option], dict[Target, Refusal]]:
    """Those of the options that the request likely fits, those that it may not fit, longest context first, and those
    that it cannot fit."""
    roomy, tight, refused = [], [], {}
    likely = likely_tokens(shape)
    for option in options:
        if (refusal := outgrow(option, shape)) is not None:
            refused[option.target] = refusal
        elif shape.num_inputs or likely <= option.model.context_length:
            roomy.append(option)
        else:
            tight.append(option)
    tight.sort(key=lambda option: -option.model.context_length)
    return roomy, tight, refused


def _sieve(options: Iterable[Option], shape: Shape, rule: TenantRule | None) -> Sieved:
    left, refused = [], {}
    for option in options:
        refusal = clear(option, shape.labels, rule) or can(option, shape.needs, shape.task)
        if refusal is None:
            left.append(option)
        else:
            refused[option.target] = refusal
    prices = {(option.rate.dearest, option.rate.output) for option in left}
    cheapest = min(left, key=lambda one: one.rate.dearest + one.rate.output) if len(prices) > 1 else None
    return Sieved(
        tuple(left),
        refused,
        {target: refusal.text for target, refusal in refused.items()},
        min((option.model.context_length for option in left), default=0),
        cheapest,
    )
