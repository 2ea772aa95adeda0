"""Whatever the settings, the policies, the failures and the loads: nobody is asked who may not see the request.

The oracle reads the settings alone and shares nothing with the filters but their types.
"""

import random

import hypothesis.strategies as st
from hypothesis import given, settings
from tests.doubles_routing import Hand, backend, card, shape

from headrace.core.errors import HeadraceError, NotCleared
from headrace.core.request import Principal
from headrace.core.shape import Need, Shape
from headrace.gateway.settings import (
    BackendSettings,
    CandidateSettings,
    GatewaySettings,
    ModelSettings,
    Policy,
    RouteSettings,
    Target,
    TenantRule,
)

LABELS = ("restricted", "health", "legal")
REGIONS, RETENTIONS = ("", "eu", "us"), ("", "none", "30d")
NAMES = [f"b{place}" for place in range(5)]
ROUTES = [f"r{place}" for place in range(4)]
TENANTS = ("anna", "bob", "local")

some_labels = st.frozensets(st.sampled_from(LABELS))
targets = st.builds(Target, st.sampled_from([*NAMES, "local"]), st.just("m"))


@st.composite
def backends(draw: st.DrawFn, name: str) -> BackendSettings:
    """One backend of any kind, which may be full."""
    can = draw(st.frozensets(st.sampled_from(list(Need))))
    return backend(
        name,
        "m",
        entry=ModelSettings(can=can, context_length=draw(st.sampled_from([10, 1000, 100_000]))),
        clearance=draw(some_labels),
        region=draw(st.sampled_from(REGIONS)),
        retention=draw(st.sampled_from(RETENTIONS)),
        max_concurrency=draw(st.sampled_from([None, 1, 2])),
        is_open=draw(st.booleans()),
    )


@st.composite
def routes(draw: st.DrawFn, name: str) -> RouteSettings:
    """One route, with fallbacks that may go round in circles, and trials."""
    ways = st.one_of(st.sampled_from([*ROUTES, "local/m"]), st.sampled_from([f"{one}/m" for one in NAMES]))
    candidates = draw(st.lists(targets, min_size=1, max_size=6, unique=True))
    weights = st.sampled_from([0.0, 0.5, 1.0, 3.0])
    return RouteSettings(
        name=name,
        candidates=tuple(
            CandidateSettings(target=one, weight=draw(weights), tier=draw(st.integers(0, 2))) for one in candidates
        ),
        policies=tuple(draw(st.lists(st.sampled_from(list(Policy)), min_size=1, max_size=3, unique=True))),
        fallbacks=tuple(draw(st.lists(ways, max_size=3))),
        canary=draw(st.one_of(st.none(), targets)),
        canary_share=draw(st.sampled_from([0.0, 0.5, 1.0])),
        shadow=draw(st.one_of(st.none(), targets)),
        shadow_share=1.0,
    )


@st.composite
def worlds(draw: st.DrawFn) -> GatewaySettings:
    """Everything an operator may write."""
    subsets = (st.frozensets(st.sampled_from(names[1:])) for names in (REGIONS, RETENTIONS))
    regions, retentions = subsets
    rules = {
        tenant: TenantRule(tenant=tenant, labels=draw(some_labels), regions=draw(regions), retentions=draw(retentions))
        for tenant in draw(st.sets(st.sampled_from(TENANTS)))
    }
    return GatewaySettings(
        backends={name: draw(backends(name)) for name in NAMES},
        routes={name: draw(routes(name)) for name in ROUTES},
        tenants=rules,
    )


def may_see(world: GatewaySettings, asked: Shape, target: Target) -> bool:
    """The rule in its plainest words."""
    if target.backend == "local":
        return True
    one = world.backends[target.backend]
    rule = world.tenants.get(asked.principal.tenant)
    labels = set(asked.labels)
    if rule is not None:
        labels |= rule.labels
        if rule.regions and one.region not in rule.regions:
            return False
        if rule.retentions and one.retention not in rule.retentions:
            return False
    return all(label in one.clearance for label in labels)


def reachable(world: GatewaySettings, name: str) -> set[Target]:
    """All targets behind a name, fallbacks included."""
    found: set[Target] = set()
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        now = waiting.pop()
        if now in seen:
            continue
        seen.add(now)
        if now in world.routes:
            one = world.routes[now]
            found |= {candidate.target for candidate in one.candidates}
            waiting += one.fallbacks
        else:
            found.add(Target(*now.split("/")))
    return found


shapes = st.builds(
    lambda model, tenant, labels, needs, num_bytes: shape(
        model,
        principal=Principal(tenant=tenant),
        labels=labels,
        needs=needs,
        num_bytes=num_bytes,
        prefix=lambda: (1, 2, 3),
    ),
    st.one_of(st.sampled_from(ROUTES), st.sampled_from([f"{name}/m" for name in NAMES])),
    st.sampled_from(TENANTS),
    some_labels,
    st.frozensets(st.sampled_from([Need.TOOLS, Need.VISION]), max_size=1),
    st.sampled_from([10, 2_000, 500_000]),
)


@settings(max_examples=150, deadline=None)
@given(worlds(), st.lists(shapes, min_size=1, max_size=12), st.sets(st.sampled_from([*NAMES, "local"])), st.randoms())
def test_no_plan_ever_holds_a_target_that_may_not_see_the_request(
    world: GatewaySettings, asked: list[Shape], out: set[str], chance: random.Random
) -> None:
    it = Hand(world, cards=[card("m")], out=dict.fromkeys(out, "its breaker is open"), seed=chance.randrange(2**32))
    under_way: list[int] = []
    for one in asked:
        try:
            plan = it.planner.plan(one)
        except NotCleared:
            assert not any(may_see(world, one, target) for target in reachable(world, one.model))
        except HeadraceError:
            pass
        else:
            chosen = [candidate.target for candidate in plan.candidates]
            assert len(chosen) == len(set(chosen)) > 0
            assert all(may_see(world, one, target) for target in chosen)
            assert not {target.backend for target in chosen} & out
            assert plan.shadow is None or may_see(world, one, plan.shadow.target)
            under_way.append(it.sightings.begin(chosen[0], one))
        if under_way and chance.random() < 0.4:
            it.sightings.end(under_way.pop(), None, None)
