"""Why a plan is as it is: every target of a route and of its fallbacks, with what each policy measured of it.

The order is the one that a plan made now would have, by the same filters and policies; only chance may differ. Decides
nothing itself.
"""

from collections.abc import Callable, Mapping, Sequence

from headrace.core.errors import HeadraceError, InvalidRequest
from headrace.core.explanation import Explanation, Question, Verdict
from headrace.core.request import Message, Principal, Request, Role, Task, TextPart
from headrace.core.shape import Need, Shape
from headrace.gateway.routing.draft import SPARE, Draft
from headrace.gateway.routing.measures import scores_of
from headrace.gateway.routing.option import Route
from headrace.gateway.routing.scene import Scene
from headrace.gateway.routing.sightings import BYTES_PER_TOKEN


def shape_of(question: Question) -> Shape:
    """The shape of a request that nobody makes. Raises InvalidRequest for a need that does not exist."""
    if unknown := question.needs - set(Need):
        known = ", ".join(sorted(Need))
        raise InvalidRequest(f"needs: {', '.join(sorted(unknown))} is none of {known}.", param="needs")
    principal = Principal(tenant=question.tenant, user=question.user, labels=question.labels)
    return Shape(
        id="",
        model=question.model,
        task=Task.GENERATE,
        principal=principal,
        num_bytes=question.prompt_tokens * BYTES_PER_TOKEN,
        max_tokens=question.max_tokens,
        needs=frozenset(map(Need, question.needs)),
        labels=question.labels,
        session=question.session,
    )


def decoded(question: Question) -> Callable[[], Request] | None:
    """The request's text, if the question has some."""
    if question.text is None:
        return None
    message = Message(Role.USER, (TextPart(question.text),))
    return lambda: Request(id="", model=question.model, messages=(message,))


def explanation_of(
    question: Question, routes: Sequence[Route], draft: Draft, scenes: Mapping[str, Scene], error: HeadraceError | None
) -> Explanation:
    """The answer. `routes` are the route and its fallbacks, in the order that `draft` took them."""
    route = routes[0]
    most = len(draft.candidates) if route.has_tiers else route.settings.retry.max_attempts + SPARE
    used = min(len(draft.candidates), most)
    return Explanation(
        model=question.model,
        route=route.name,
        policies=tuple(route.policies),
        reason="" if not draft.candidates else draft.candidates[0].reason or route.reason,
        verdicts=tuple(_verdicts(routes, draft, scenes)),
        num_used=used,
        shadow=None if route.shadow is None else str(route.shadow.target),
        refusal=None if error is None else f"{error.status} {error.code}: {error}",
    )


def _verdicts(routes: Sequence[Route], draft: Draft, scenes: Mapping[str, Scene]) -> list[Verdict]:
    owners = {
        option.target: (route, option)
        for route in reversed(routes)
        for option in (*route.options, *([route.canary] if route.canary is not None else []))
    }
    verdicts = []
    for place, candidate in enumerate(draft.candidates, 1):
        route, option = owners[candidate.target]
        scene = scenes[route.name]
        verdicts.append(
            Verdict(
                target=str(candidate.target),
                route=route.name,
                place=place,
                reason=candidate.reason,
                scores=scores_of(scene, option),
                num_tokens=candidate.bound.tokens,
                cost_nanos=candidate.bound.nanos,
                max_tokens=candidate.max_tokens,
                is_fallback=candidate.is_fallback,
            )
        )
    asked = {candidate.target for candidate in draft.candidates}
    for target, text in draft.texts.items():
        if target not in asked:
            verdicts.append(Verdict(target=str(target), route=owners[target][0].name, place=None, reason=text))
    return verdicts
