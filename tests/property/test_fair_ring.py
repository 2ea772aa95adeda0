"""A bounded ring of many holders beside a slow one that is obvious: what stays, what goes, and who pays.

The oracle keeps lists: when there is no room it looks for whoever holds most, the one who adds before others.
"""

from collections import defaultdict

from hypothesis import given, settings
from hypothesis import strategies as st

from headrace.gateway.fair_ring import FairRing

HOLDERS = st.sampled_from("abcdefgh")
STEPS = st.lists(st.one_of(HOLDERS, st.integers(0, 12)), max_size=200)


@given(st.integers(0, 12), STEPS)
@settings(max_examples=300, deadline=None)
def test_whoever_holds_most_pays_with_the_oldest_and_an_even_share_is_never_lost(
    room: int, steps: list[str | int]
) -> None:
    ring: FairRing[tuple[str, int]] = FairRing(room)
    held: dict[str, list[tuple[str, int]]] = defaultdict(list)
    for number, step in enumerate(steps):
        before = {holder: list(ones) for holder, ones in held.items() if ones}
        if isinstance(step, int):
            room = step
            gone = ring.resize(step)
        else:
            entry = (step, number)
            held[step].append(entry)
            left = ring.push(step, entry)
            gone = [] if left is None else [left]
        for one in gone:
            holder = one[0]
            assert held[holder].pop(0) == one, "what goes is its holder's oldest"
            if not isinstance(step, int) and room:
                most = max(map(len, before.values()))
                assert len(before[holder]) == most, "who pays held most"
                assert holder == step or len(before.get(step, [])) < most, "who adds pays first"
                fair = room // len(before)
                assert holder == step or len(before[holder]) >= fair, "an even share is kept"
        assert len(ring) == sum(map(len, held.values())) <= room
        assert sorted(ring) == sorted(one for ones in held.values() for one in ones)


def test_one_who_never_stops_leaves_the_others_what_they_have() -> None:
    ring: FairRing[tuple[str, int]] = FairRing(1000)
    for holder in "abc":
        for number in range(100):
            ring.push(holder, (holder, number))
    for number in range(100_000):
        ring.push("loud", ("loud", number))
    kept = list(ring)
    assert len(kept) == 1000
    for holder in "abc":
        assert [one for one in kept if one[0] == holder] == [(holder, number) for number in range(100)]
    assert [number for holder, number in kept if holder == "loud"] == list(range(99_300, 100_000))
