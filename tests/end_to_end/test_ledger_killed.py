"""A server is killed under load a few times: its books are whole. Two hundred times: `make ledger-soak`."""

import asyncio
from pathlib import Path

from tests.soak.ledger_killed import read_books, run
from tests.upstreams import upstream

TIMES = 3


def test_the_books_of_a_server_that_is_killed_under_load_are_whole(tmp_path: Path) -> None:
    async def main() -> None:
        async with upstream() as up:
            seen = await run(tmp_path, TIMES, 11, up, longest_s=0.3)
        books = read_books(tmp_path / "home", seen)
        assert seen.whole
        assert books["nanos"] <= TIMES * 0.02 * 1e9
        assert books["poor_nanos"] <= TIMES * 0.0004 * 1e9

    asyncio.run(main())
