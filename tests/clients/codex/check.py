"""What Codex sent back: the file's text as a tool's result, and the thoughts that it got sealed."""

from tests.clients.__main__ import Ran


def check(ran: Ran) -> None:
    """Both results of the tool came back, and what the model thought went on with the conversation."""
    last = ran.requests[-1]["messages"]
    results = ["".join(part["text"] for part in message["parts"]) for message in last if message["role"] == "tool"]
    assert ["The sky is blue." in results[0], "The sky is green." in results[1]] == [True, True], results
    thoughts = [message["reasoning"] for message in last if message["role"] == "assistant"]
    assert thoughts[:2] == ["I should read the file first.", "Now I edit it."], thoughts
    assert last[-1]["parts"][0]["text"] == "Thank you"
