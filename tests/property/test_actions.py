"""Whatever is begun, ended and cut off by restarts: the book of actions tells all of it, in order, and nothing else."""

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.doubles_actions import begun, book, until_logged
from tests.log_in_memory import MemoryLog

from headrace.core.actions import ActionQuery, Outcome
from headrace.core.errors import Unavailable

STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("begin"), st.sampled_from(["POST /a", "POST /ab", "DELETE /c"])),
        st.tuples(st.just("end"), st.integers(0, 9), st.sampled_from(sorted(Outcome)[1:])),
        st.tuples(st.just("restart")),
        st.tuples(st.just("refuse"), st.booleans()),
    ),
    max_size=25,
)


@settings(max_examples=40, deadline=None)
@given(steps=STEPS)
def test_every_action_ends_once_goes_on_or_is_unknown_in_the_order_in_which_they_began(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[object, ...]]
) -> None:
    """Against a plain model, with restarts in between and a log that takes nothing in for a while."""
    path = tmp_path_factory.mktemp("book")

    async def main() -> None:
        log, model = MemoryLog(), dict[str, tuple[str, Outcome | None]]()
        left = list(steps)
        while left or not model:
            running: list[str] = []
            async with book(path, log, start=len(model)) as (keeper, _):
                while left and (step := left.pop(0))[0] != "restart":
                    if step[0] == "begin":
                        one = await keeper.begin(begun(str(step[1])))
                        model[one] = (str(step[1]), None)
                        running.append(one)
                    elif step[0] == "end" and running:
                        one = running.pop(int(str(step[1])) % len(running))
                        outcome = Outcome(str(step[2]))
                        await keeper.end(one, outcome)
                        model[one] = (model[one][0], outcome)
                    elif step[0] == "refuse":
                        log.refusal = Unavailable("full") if step[1] else None
                told = {}
                for one in reversed((await keeper.actions(ActionQuery(limit=1000))).actions):
                    told[one.id] = (one.begun.name, one.outcome)
                wanted = {
                    key: (name, outcome or (Outcome.BEGUN if key in running else Outcome.UNKNOWN))
                    for key, (name, outcome) in model.items()
                }
                assert list(told.items()) == list(wanted.items())
                some = (await keeper.actions(ActionQuery(limit=1000, name="POST /a"))).actions
                assert [one.id for one in some] == [k for k, (name, _) in reversed(wanted.items()) if "/a" in name]
            if not left:
                break
        log.refusal = None
        async with book(path, log, start=len(model)) as (keeper, _):
            await until_logged(keeper, len(model) + sum(outcome is not None for _, outcome in model.values()))
        assert len(log.items) == len({item.id for item in log.items})

    asyncio.run(asyncio.wait_for(main(), 60))
