"""A process that runs a batch is killed, again and again: every line ends once, and none that had ended runs again."""

import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.doubles_files import line, opened
from tests.doubles_http import ScriptedBackend, Step, answer, run

from headrace.core.request import Request
from headrace.gateway.batches import BatchLimits

LINES = 12
# Runs batches in a folder and writes down each line that begins; hangs at the line that it is told to.
PROGRAM = """
import asyncio, sys
from pathlib import Path
from tests.doubles_files import opened
from tests.doubles_http import Pause, ScriptedBackend, answer
from headrace.gateway.batches import BatchLimits

home, stop_at = Path(sys.argv[1]), sys.argv[2]

def script(request):
    name = request.messages[0].text
    with (home / "begun").open("a") as log:
        log.write(name + "\\n")
    if name == stop_at:
        print("here", flush=True)
        return [Pause()]
    return answer(f"from {stop_at}")(request)

async def main():
    async with opened(home, ScriptedBackend(script), limits=BatchLimits(max_running=1)):
        await asyncio.Event().wait()

asyncio.run(main())
"""


def test_a_batch_survives_processes_that_are_killed_in_the_middle_of_it(tmp_path: Path) -> None:
    def last(request: Request) -> list[Step]:
        return answer("from the end")(request)

    async def main() -> None:
        async with opened(tmp_path, ScriptedBackend(answer()), starts=False) as shelf:
            data = b"".join(line(f"l{number}", str(number)) for number in range(LINES))
            batch = await shelf.order(data)
        for stop_at in ("3", "4", "9"):
            _kill_at(tmp_path, stop_at)
        async with opened(tmp_path, ScriptedBackend(last), limits=BatchLimits(max_running=1)) as shelf:
            batch = await shelf.until(batch)
            assert (batch.status, batch.num_ended, batch.num_failed) == ("completed", LINES, 0)
            results: list[Any] = await shelf.lines_of(batch.output_file_id)
        said = {one["custom_id"]: one["response"]["body"]["choices"][0]["message"]["content"] for one in results}
        origins = {**dict.fromkeys("012", "3"), "3": "4", **dict.fromkeys("45678", "9")}
        expected = {f"l{n}": f"from {origins.get(str(n), 'the end')}" for n in range(LINES)}
        assert said == expected
        begun = (tmp_path / "begun").read_text().split()
        # Only what was cut off began twice.
        assert sorted(begun, key=int) == sorted([*map(str, range(10)), "3", "4"], key=int)

    run(main(), limit_s=60)


def _kill_at(home: Path, stop_at: str) -> None:
    root = Path(__file__).resolve().parents[2]
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(home), stop_at], stdout=subprocess.PIPE, cwd=root, text=True
    )
    try:
        assert process.stdout is not None
        assert process.stdout.readline() == "here\n"
    finally:
        process.kill()
        process.communicate()
