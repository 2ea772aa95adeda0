"""What Claude Code sent: its tools, marks worth keeping, the thinking that it was given, and what its tools found."""

from typing import Any


def check(ran: Any) -> None:
    """Raises AssertionError."""
    assert len(ran.requests) == 9, len(ran.requests)
    for request in ran.requests:
        assert {"Read", "Edit", "Bash"} <= {tool["name"] for tool in request["tools"]}
        assert request["cache"]["breakpoints"]
        assert request["session"]
    last = ran.requests[3]["messages"]
    thoughts = [message["reasoning"] for message in last if message["reasoning"]]
    assert thoughts == ["I have to see the file first."], thoughts
    results = ["".join(part["text"] for part in message["parts"]) for message in last if message["role"] == "tool"]
    assert "Hello" in results[0]
    assert "Good day" in results[2]
    before, after = ([tool["name"] for tool in request["tools"]] for request in ran.requests[-2:])
    assert after == [*before, "WebFetch"], "the tool that was looked up does not stand behind the others"
