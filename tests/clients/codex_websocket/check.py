"""What Codex sent back over its WebSocket: each run is a lane that is warmed first and then brings what is new."""

from itertools import groupby

from tests.clients.__main__ import Ran


def check(ran: Ran) -> None:
    """Every request of a run came over one lane, the first of each read and answered nothing, and results came back."""
    runs = [list(requests) for _, requests in groupby(ran.requests, lambda request: request["session"])]
    assert len(runs) == 2, [len(run) for run in runs]
    assert all(run[0]["session"].startswith("socket_") for run in runs), ran.requests
    assert [run[0]["limits"]["max_tokens"] for run in runs] == [0, 0], runs
    messages = runs[0][-1]["messages"]
    results = ["".join(part["text"] for part in message["parts"]) for message in messages if message["role"] == "tool"]
    assert ["The sky is blue." in results[0], "The sky is green." in results[1]] == [True, True], results
