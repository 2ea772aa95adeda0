"""Kept answers against a naive twin: a plain list, read from one end to the other."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles import ManualClock

from headrace.core.events import Finished, Started, TextDelta, Usage
from headrace.core.gateway import Ask
from headrace.core.request import Message, Principal, Request, Role, Sampling, TextPart
from headrace.core.shape import Shape
from headrace.gateway.answer_cache.cache import GatewayAnswerCache
from headrace.gateway.answer_cache.identity import Identity, Owner
from headrace.gateway.answer_cache.store import _ENTRY_BYTES, AnswerStore, Entry, num_bytes_of
from headrace.gateway.contract import Bound, Candidate, Keeper, Plan
from headrace.gateway.settings import Target

TTL_S = 10.0
MAX_BYTES = 40_000
OWNERS = [
    Owner(tenant, labels, route)
    for tenant in ("a", "b")
    for labels in (frozenset[str](), frozenset({"restricted"}))
    for route in ("r", "s")
]


@dataclass
class Twin:
    """Entries, the one that was used longest ago first."""

    entries: list[Entry] = field(default_factory=list)

    def find(self, identity: Identity, now_s: float) -> Entry | None:
        for entry in self.entries:
            if (entry.identity.owner, entry.identity.digest) == (identity.owner, identity.digest):
                self.entries.remove(entry)
                if now_s - entry.kept_s >= TTL_S:
                    return None
                self.entries.append(entry)
                return entry
        return None

    def alike(self, identity: Identity, now_s: float) -> list[Entry]:
        place = (identity.owner, identity.frame)
        mine = [one for one in self.entries if one.vector and (one.identity.owner, one.identity.frame) == place]
        for one in [one for one in mine if now_s - one.kept_s >= TTL_S]:
            self.entries.remove(one)
            mine.remove(one)
        return mine

    def keep(self, entry: Entry) -> None:
        if entry.num_bytes > MAX_BYTES // 8 - _ENTRY_BYTES:
            return
        self.entries = [one for one in self.entries if one.key != entry.key]
        self.entries.append(entry)
        while self.num_bytes > MAX_BYTES:
            self.entries.pop(0)

    @property
    def num_bytes(self) -> int:
        return sum(entry.num_bytes + _ENTRY_BYTES for entry in self.entries)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["keep", "keep", "find", "alike", "wait", "forget"]),
        st.sampled_from(OWNERS),
        st.integers(0, 5),
        st.integers(0, 6_000),
        st.booleans(),
    ),
    max_size=60,
)


@given(STEPS)
@settings(max_examples=300, deadline=None)
def test_what_is_found_is_what_the_twin_finds_and_nobody_elses(steps: list[tuple[str, Owner, int, int, bool]]) -> None:
    store, twin, now_s = AnswerStore(max_bytes=MAX_BYTES, ttl_s=TTL_S), Twin(), 0.0
    for what, owner, number, size, has_meaning in steps:
        identity = Identity(owner, b"%d" % number, b"frame %d" % (number % 2), "question")
        if what == "keep":
            made = Entry(
                identity=identity,
                target=Target("x", "m"),
                events=(),
                num_bytes=size,
                kept_s=now_s,
                vector=b"v" if has_meaning else None,
            )
            store.keep(made)
            twin.keep(made)
        elif what == "find":
            found = store.find(identity, now_s)
            assert found is twin.find(identity, now_s)
            assert found is None or found.identity.owner == owner
        elif what == "alike":
            alike = list(store.alike(identity, now_s))
            assert sorted(one.key[1] for one in alike) == sorted(one.key[1] for one in twin.alike(identity, now_s))
            assert all(one.identity.owner == owner for one in alike)
        elif what == "wait":
            now_s += number
        else:
            num_before = len(store)
            gone = store.keep_only({owner.tenant})
            twin.entries = [one for one in twin.entries if one.identity.owner.tenant == owner.tenant]
            assert gone == num_before - len(twin.entries)
        assert (len(store), store.num_bytes) == (len(twin.entries), twin.num_bytes)
        assert store.num_bytes <= MAX_BYTES


@given(st.lists(st.text(max_size=50), max_size=20))
@settings(deadline=None)
def test_an_answer_weighs_at_least_its_words(texts: list[str]) -> None:
    events = (Started("id", "m", 3), *[TextDelta(0, text, 1) for text in texts], Finished(Usage(3, 4)))
    assert num_bytes_of(events) > sum(len(text.encode()) + 50 for text in texts)


ROUTES = ("r", "s")
TARGETS = (Target("x", "m"), Target("y", "m"), Target("z", "m"))
QUESTIONS = ("Why is it blue?", "Why is it so blue?", "Why is it 5?", "How?")


class FirstWords:
    """Questions mean the same if they have the same first word."""

    async def meaning(self, question: str, shape: Shape) -> bytes | None:
        return question.partition(" ")[0].encode()

    def alike(self, meaning: bytes, others: Sequence[bytes]) -> list[int]:
        return [index for index, other in enumerate(others) if other == meaning]


@dataclass(frozen=True)
class Asked:
    """Who asks what, and who may be asked."""

    tenant: str
    labels: frozenset[str]
    model: str
    question: str
    before: str
    temperature: float
    targets: frozenset[Target]

    def ask(self) -> Ask:
        said = [Message(Role.USER, (TextPart(self.before),)), Message(Role.ASSISTANT, (TextPart("Yes."),))]
        request = Request(
            id="one id for all",  # callers choose them
            model=self.model,
            messages=(*said, Message(Role.USER, (TextPart(self.question),))),
            sampling=Sampling(temperature=self.temperature),
            principal=Principal(tenant=self.tenant),
        )
        return Ask(shape=replace(Shape.of(request), labels=self.labels), decode=lambda: request)

    def plan(self) -> Plan:
        candidates = [Candidate(target=one, bound=Bound(0, 0)) for one in TARGETS if one in self.targets]
        return Plan(route=self.model, candidates=tuple(candidates))

    def may_have(self, given: "Asked", target: Target, kind: str) -> bool:
        """Whether the answer that `target` gave to somebody may be given to this caller."""
        is_same = (self.tenant, self.labels, self.model, self.before) == (
            given.tenant,
            given.labels,
            given.model,
            given.before,
        )
        words = self.question == given.question or (kind == "semantic" and {self.question, given.question} < SHARED)
        return is_same and words and self.temperature == given.temperature == 0 and target in self.targets


SHARED = {*QUESTIONS[:2], ""}

ASKS = st.builds(
    Asked,
    tenant=st.sampled_from("ab"),
    labels=st.sets(st.sampled_from(["restricted", "eu"])).map(frozenset),
    model=st.sampled_from(ROUTES),
    question=st.sampled_from(QUESTIONS),
    before=st.sampled_from(["x", "y"]),
    temperature=st.sampled_from([0.0, 0.0, 0.0, 1.0]),
    targets=st.sets(st.sampled_from(TARGETS), min_size=1).map(frozenset),
)


@given(st.lists(st.tuples(ASKS, st.integers(0, 2), st.booleans()), max_size=40), st.booleans())
@settings(max_examples=200, deadline=None)
def test_no_answer_reaches_anybody_it_was_not_for(steps: list[tuple[Asked, int, bool]], compares: bool) -> None:
    clock = ManualClock()
    store = AnswerStore(max_bytes=200_000, ttl_s=1e9)
    cache = GatewayAnswerCache(store, clock, FirstWords() if compares else None)
    given: dict[str, tuple[Asked, Target]] = {}

    async def main() -> None:
        waiting: list[tuple[int, Asked, Keeper]] = []
        for number, (asked, choice, ends) in enumerate(steps):
            ask, plan = asked.ask(), asked.plan()
            kept = await cache.find(ask, plan)
            if kept is not None:
                (text,) = [event.text async for event in kept.events if isinstance(event, TextDelta)]
                before, target = given[text]
                assert kept.target == target
                assert asked.may_have(before, target, kept.kind)
                continue
            keeper = cache.keeper(ask, plan)
            assert (keeper is None) == (asked.temperature != 0)
            if keeper is not None:
                waiting.append((number, asked, keeper))
            while ends and waiting:  # several answers are under way at once, and end in another order
                begun, whose, one = waiting.pop(choice % len(waiting))
                target = min(whose.targets)
                given[str(begun)] = (whose, target)
                one.begin(target)
                for event in (Started("id", "m", 3), TextDelta(0, str(begun), 1), Finished(Usage(3, 4))):
                    one.add(event)

    asyncio.run(main())
