"""A server whose answers wait for their records is killed under load a few times; fifty times: `make records-soak`."""

import asyncio
from pathlib import Path

from tests.soak.records_killed import missing, run

TIMES = 3


def test_whoever_holds_a_whole_answer_of_a_killed_server_holds_one_whose_record_is_on_the_disk(tmp_path: Path) -> None:
    seen = asyncio.run(run(tmp_path, TIMES, 11))
    assert len(seen.whole) >= TIMES
    assert missing(tmp_path / "home", seen) == {}
