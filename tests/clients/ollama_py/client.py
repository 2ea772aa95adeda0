"""Ollama's client for Python against Headrace: chat whole and streamed, a tool exchange, generate, embed, models."""

import os

import ollama

client = ollama.Client(host=os.environ["HEADRACE_URL"], timeout=20)


def did(what: str) -> None:
    print(f"did {what}", flush=True)


def get_weather(city: str) -> str:
    """The weather in a city.

    Args:
        city: its name
    """
    return f"21 degrees in {city}"


names = [model.model for model in client.list().models]
assert any(name.split(":")[0] == "scripted" for name in names), names
did("list")
assert client.show("scripted").capabilities
did("show")
assert client.ps().models is not None
did("ps")

hello = [{"role": "user", "content": "Hello"}]
whole = client.chat("scripted", hello)
assert whole.message.content == "Hello from the script.", whole
assert (whole.done, whole.done_reason, whole.eval_count) == (True, "stop", 4), whole
did("chat")
pieces = list(client.chat("scripted", hello, stream=True))
assert "".join(piece.message.content for piece in pieces) == "Hello from the script."
assert [piece.done for piece in pieces] == [False] * (len(pieces) - 1) + [True]
did("chat streamed")

messages = [{"role": "user", "content": "What is the weather in Paris?"}]
call = client.chat("scripted", messages, tools=[get_weather])
(wanted,) = call.message.tool_calls
assert (wanted.function.name, wanted.function.arguments) == ("get_weather", {"city": "Paris"})
result = get_weather(**wanted.function.arguments)
messages += [call.message, {"role": "tool", "tool_name": wanted.function.name, "content": result}]
answer = client.chat("scripted", messages, tools=[get_weather])
assert answer.message.content == "It is 21 degrees in Paris.", answer
did("tool exchange")

assert client.generate("scripted", "Hello").response == "Hello from the script."
did("generate")
assert [len(vector) for vector in client.embed("scripted", ["a", "b"]).embeddings] == [16, 16]
did("embed")
try:
    client.chat("none", hello)
except ollama.ResponseError as error:
    assert error.status_code == 404, error
else:
    raise AssertionError("an unknown model was served")
did("errors")
