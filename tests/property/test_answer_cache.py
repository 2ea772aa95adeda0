"""Kept answers against a naive twin: a plain list, read from one end to the other."""

from dataclasses import dataclass, field

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.core.events import Finished, Started, TextDelta, Usage
from headrace.gateway.answer_cache.identity import Identity, Owner
from headrace.gateway.answer_cache.store import _ENTRY_BYTES, AnswerStore, Entry, num_bytes_of
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
@settings(max_examples=300)
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
            gone = store.forget(owner.tenant)
            twin.entries = [one for one in twin.entries if one.identity.owner.tenant != owner.tenant]
            assert gone == num_before - len(twin.entries)
        assert (len(store), store.num_bytes) == (len(twin.entries), twin.num_bytes)
        assert store.num_bytes <= MAX_BYTES


@given(st.lists(st.text(max_size=50), max_size=20))
def test_an_answer_weighs_at_least_its_words(texts: list[str]) -> None:
    events = (Started("id", "m", 3), *[TextDelta(0, text, 1) for text in texts], Finished(Usage(3, 4)))
    assert num_bytes_of(events) > sum(len(text.encode()) + 50 for text in texts)
