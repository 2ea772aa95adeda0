"""What of a gateway's settings does not go together: names that lead nowhere, circles, budgets that cannot hold.

One function a rule, in a table; each says what is wrong at the key whose fault it is. Knows no files and no secrets.
"""

import ipaddress
from collections.abc import Callable, Iterable
from typing import Final
from urllib.parse import urlsplit

from headrace.cli.kinds import Spot, unknown
from headrace.gateway.settings import (
    ENGINE,
    BudgetSettings,
    GatewaySettings,
    LimitSettings,
    Policy,
    RouteSettings,
    Target,
)


def check_gateway(gateway: GatewaySettings, spot: Spot, *, served: Iterable[str] | None) -> None:
    """Say everything that does not go together at places below `spot`. `served` are the models of the engine by name,
    empty without an engine, None if they are not known yet."""
    names = None if served is None else frozenset(served)
    for rule in RULES:
        rule(gateway, spot, names)


_Rule = Callable[[GatewaySettings, Spot, frozenset[str] | None], None]


def _check_targets(gateway: GatewaySettings, spot: Spot, served: frozenset[str] | None) -> None:
    for name, route in gateway.routes.items():
        at = spot.at("routes", name)
        seen: set[Target] = set()
        for index, candidate in enumerate(route.candidates):
            _check_target(gateway, candidate.target, at.at("candidates", index), served)
            if candidate.target in seen:
                at.at("candidates", index).say(f"{candidate.target} is there twice; raise its weight instead.")
            seen.add(candidate.target)
        for key in ("canary", "shadow"):
            target = getattr(route, key)
            if target is not None:
                _check_target(gateway, target, at.at(key), served)


def _check_target(gateway: GatewaySettings, target: Target, spot: Spot, served: frozenset[str] | None) -> None:
    is_engine = target.backend == ENGINE
    if is_engine and served == frozenset():
        spot.say(f'{target} is a model of the engine, and there is none (model = "none"); name a model to serve.')
    elif is_engine:
        # An adapter is named behind its model.
        if served is not None and served.isdisjoint({target.model, target.model.rpartition(":")[0]}):
            spot.say(f"{target} " + unknown(target.model, sorted(served), "model that is served here"))
    elif target.backend not in gateway.backends:
        spot.say(f"{target} " + unknown(target.backend, [*gateway.backends, ENGINE], "backend"))
    else:
        backend = gateway.backends[target.backend]
        if target.model not in backend.models and not backend.is_open:
            spot.say(
                f"{target} "
                + unknown(target.model, backend.models, f"model of {target.backend}")
                + f' (or write [backends.{target.backend}.models."{target.model}"])'
            )


def _check_fallbacks(gateway: GatewaySettings, spot: Spot, served: frozenset[str] | None) -> None:
    for name, route in gateway.routes.items():
        for index, fallback in enumerate(route.fallbacks):
            at = spot.at("routes", name, "fallbacks", index)
            if fallback in gateway.routes:
                continue
            if "/" in fallback:
                backend, _, model = fallback.partition("/")
                _check_target(gateway, Target(backend, model), at, served)
            else:
                at.say(f"{fallback} " + unknown(fallback, gateway.routes, "route, nor a target"))


def _check_circles(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    """Each circle is told once, at the first of its routes in the file."""
    told: set[frozenset[str]] = set()
    for start in gateway.routes:
        circle = _circle_from(gateway, start)
        if circle and frozenset(circle) not in told:
            told.add(frozenset(circle))
            way = " -> ".join([*circle, circle[0]])
            spot.at("routes", start, "fallbacks").say(f"they go round in a circle: {way}; take one of them out.")


def _circle_from(gateway: GatewaySettings, start: str) -> list[str] | None:
    """The routes of a circle through `start`, which comes first."""
    way: list[str] = [start]
    ways = [iter(gateway.routes[start].fallbacks)]
    seen = {start}
    while ways:
        following = next(ways[-1], None)
        if following is None:
            ways.pop()
            way.pop()
        elif following == start:
            return way
        elif following in gateway.routes and following not in seen:
            seen.add(following)
            way.append(following)
            ways.append(iter(gateway.routes[following].fallbacks))
    return None


def _check_names(gateway: GatewaySettings, spot: Spot, served: frozenset[str] | None) -> None:
    """A name means one thing: a route hides a model of that name, and `backend/model` is how targets are written."""
    for name, route in gateway.routes.items():
        backend, mark, model = name.partition("/")
        if mark and (backend in gateway.backends or backend == ENGINE):
            spot.at("routes", name).say(
                f"{name} reads as the model {model} of the backend {backend}; rename the route."
            )
            continue
        owners = [one.name for one in gateway.backends.values() if name in one.models]
        owners += [ENGINE] if served and name in served else []
        missed = [one for one in owners if Target(one, name) not in {each.target for each in route.candidates}]
        if missed:
            spot.at("routes", name).say(
                f"{name} is a model of {' and '.join(missed)}, too, which this route does not lead to; requests for "
                f"{name} take the route.",
                is_warning=True,
            )


def _check_weights(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    for name, route in gateway.routes.items():
        if Policy.WEIGHTED in route.policies and not any(one.weight for one in route.candidates):
            spot.at("routes", name, "candidates").say("all weights are 0, so nobody would be asked; give one a weight.")


def _check_policies(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    for name, route in gateway.routes.items():
        at = spot.at("routes", name)
        if len(set(route.policies)) < len(route.policies):
            at.at("policies").say("one of them is there twice; name each once.")
        if not route.policies:
            at.at("policies").say(f"is empty; leave it out, or name some of {', '.join(Policy)}.")
        if Policy.COMPLEXITY in route.policies:
            _check_tiers(route, at)


def _check_tiers(route: RouteSettings, spot: Spot) -> None:
    tiers = sorted({one.tier for one in route.candidates})
    if len(tiers) < 2:
        spot.at("policies").say(
            'complexity needs candidates of two tiers at least; write {target = "backend/model", tier = 0} and so on.'
        )
    elif tiers != list(range(len(tiers))):
        spot.at("candidates").say(f"their tiers are {', '.join(map(str, tiers))}; count them 0, 1, 2 without a gap.")
    elif len(route.escalation.max_difficulty) != len(tiers) - 1:
        spot.at("escalation", "max_difficulty").say(
            f"has {len(route.escalation.max_difficulty)} numbers; {len(tiers)} tiers need {len(tiers) - 1}, one for "
            "each but the last."
        )
    elif list(route.escalation.max_difficulty) != sorted(route.escalation.max_difficulty):
        spot.at("escalation", "max_difficulty").say("falls; each tier takes what is harder than the one before.")


def _check_prices(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    """A budget of money holds only where every answer has a price. The engine's cost nothing without one."""
    budget = next((one for one in gateway.budgets if one.money is not None), None)
    if budget is None:
        return
    for backend in gateway.backends.values():
        at = spot.at("backends", backend.name)
        for name, model in backend.models.items():
            if model.prices is None:
                at.at("models", name).say(
                    f"has no price, so the budget {budget.name!r} cannot hold; write "
                    "prices = {input = X, output = Y} for a million tokens each, or 0 where it costs nothing."
                )
        if backend.is_open:
            at.at("open").say(
                f"lets models be asked for that have no price, so the budget {budget.name!r} cannot hold; name the "
                "models with their prices instead."
            )


def _check_accounts(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    lists: tuple[tuple[str, Iterable[BudgetSettings | LimitSettings]], ...] = (
        ("budgets", gateway.budgets),
        ("limits", gateway.limits),
    )
    for key, entries in lists:
        seen: set[str] = set()
        for index, one in enumerate(entries):
            if one.name in seen:
                spot.at(key, index).say(f"there are two with the name {one.name!r}; give each a name of its own.")
            seen.add(one.name)
            subject = one.subject
            if subject.kind == "route" and subject.name != "*" and subject.name not in gateway.routes:
                known = [f"route:{name}" for name in gateway.routes]
                spot.at(key, index, "subject").say(f"{subject} " + unknown(str(subject), known, "route"))


def _check_tenants(gateway: GatewaySettings, spot: Spot, served: frozenset[str] | None) -> None:
    own = served or frozenset()
    known = {*gateway.routes, *own, *(f"{ENGINE}/{model}" for model in own)}
    for backend in gateway.backends.values():
        known |= {*backend.models, *(f"{backend.name}/{model}" for model in backend.models)}
    is_sure = served is not None and not any(one.is_open for one in gateway.backends.values())
    backends = gateway.backends.values()
    for tenant, rule in gateway.tenants.items():
        at = spot.at("tenants", tenant)
        adapters = {name for name in rule.routes if name.rpartition(":")[0] in known}
        for name in sorted(rule.routes - known - adapters) if is_sure else ():
            at.at("routes").say(f"{name} " + unknown(name, sorted(known), "route or model"))
        for key, asked in (("regions", "region"), ("retentions", "retention")):
            wanted = getattr(rule, key)
            # The engine answers everybody: nothing leaves for it.
            if wanted and served == frozenset() and not any(getattr(one, asked) in wanted for one in backends):
                at.at(key).say(f"no backend has one of {', '.join(sorted(wanted))}; nothing could answer {tenant}.")


def _check_breakers(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    for backend in gateway.backends.values():
        breaker = backend.breaker
        at = spot.at("backends", backend.name, "breaker")
        if breaker.min_attempts > breaker.window:
            at.at("min_attempts").say(
                f"{breaker.min_attempts} is more than the window of {breaker.window} attempts, so it never opens."
            )
        if breaker.max_open_s < breaker.open_s:
            at.at("max_open").say(f"{breaker.max_open_s:g} s is shorter than open, {breaker.open_s:g} s.")


def _check_answers(gateway: GatewaySettings, spot: Spot, served: frozenset[str] | None) -> None:
    cache = gateway.cache
    if not cache.is_on or cache.semantic_threshold is None or served is None or cache.semantic_model in served:
        return
    spot.at("answer_cache", "semantic_threshold").say(
        f"questions are compared by the model {cache.semantic_model!r} in this process, and it is not served; add it "
        "to guests, name another as semantic_model, or take semantic_threshold out."
    )


def _check_plain_secrets(gateway: GatewaySettings, spot: Spot, _: frozenset[str] | None) -> None:
    for backend in gateway.backends.values():
        if backend.secret is not None and backend.url.startswith("http://") and not is_near(backend.url):
            spot.at("backends", backend.name, "url").say(
                f"{backend.url} is not https, so the key of {backend.name} and every prompt are sent in the clear.",
                is_warning=True,
            )


def is_near(url: str) -> bool:
    """Whether an address is this machine's or of a private network. A name may be anybody's."""
    host = urlsplit(url).hostname or ""
    try:
        return ipaddress.ip_address(host).is_private
    except ValueError:
        return host == "localhost" or host.endswith((".localhost", ".local", ".internal")) or "." not in host


RULES: Final[tuple[_Rule, ...]] = (
    _check_targets,
    _check_fallbacks,
    _check_circles,
    _check_names,
    _check_weights,
    _check_policies,
    _check_prices,
    _check_accounts,
    _check_tenants,
    _check_breakers,
    _check_answers,
    _check_plain_secrets,
)
