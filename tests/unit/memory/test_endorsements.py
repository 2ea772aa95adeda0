"""What is kept of endorsements: what is counted is given out once, what is not as long as it holds."""

from dataclasses import replace
from pathlib import Path

from headrace.core.endorsing import Endorsement
from headrace.memory.database import Database
from headrace.memory.endorsements import MIGRATIONS, erase, remove, save, take

FREE = Endorsement(
    id="free",
    tenant="t",
    by="key:k",
    tool="pay",
    made_s=2.0,
    until_s=10.0,
    argument="to",
    value='"x"',
    uses=None,
    under=("a", "b"),
)
COUNTED = replace(FREE, id="counted", made_s=1.0, uses=3, num_used=4)


def database(folder: Path) -> Database:
    return Database(folder / "endorsements.db", MIGRATIONS)


def test_what_is_counted_is_the_caller_s_alone_once_it_was_taken(tmp_path: Path) -> None:
    with database(tmp_path) as opened:
        opened.transact(save, [FREE, COUNTED], 0.0)
    with database(tmp_path) as opened:
        assert opened.transact(take, 5.0) == [COUNTED, FREE]
        # The process is killed here.
    with database(tmp_path) as opened:
        assert opened.transact(take, 5.0) == [FREE]


def test_what_has_ended_was_removed_or_erased_is_gone(tmp_path: Path) -> None:
    with database(tmp_path) as opened:
        opened.transact(save, [FREE, replace(FREE, id="other", tenant="u"), replace(FREE, id="late", until_s=9.0)], 0.0)
        assert [one.id for one in opened.transact(take, 9.5)] == ["free", "other"]
        opened.transact(remove, "free")
        assert [one.id for one in opened.transact(take, 9.5)] == ["other"]
        assert opened.transact(erase, "t") == 0
        assert opened.transact(erase, "u") == 1
        assert opened.transact(take, 0.0) == []
