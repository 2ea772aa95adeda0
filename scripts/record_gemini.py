"""Record what Google's own SDK says to a server, and what it makes of answers.

    python -m venv .peers/genai && .peers/genai/bin/pip install google-genai
    .peers/genai/bin/python scripts/record_gemini.py          writes tests/oracle/vectors/gemini.json

Each case is a call of the SDK against a server on loopback that answers with JSON written here. Recorded are the path,
the headers that carry the key, the body as the SDK wrote it, and what it heard: the oracle of `api/outbound/gemini*`.
The API forbids nothing here: the SDK's types do (a field that they do not know is an error).
"""

import importlib.metadata
import json
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

from google import genai
from google.genai import types

MODEL = "gemini-3-flash"
KEY = "test-key"
VECTORS = Path(__file__).resolve().parent.parent / "tests" / "oracle" / "vectors" / "gemini.json"

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER = types.FunctionDeclaration(name="get_weather", description="The weather.", parameters_json_schema=SCHEMA)
TIME = types.FunctionDeclaration(name="get_time")
USAGE = {"promptTokenCount": 9, "candidatesTokenCount": 3, "totalTokenCount": 12}


@dataclass(frozen=True, slots=True)
class Case:
    """A call, and the chunks that answer it; `call` gives what was heard."""

    name: str
    call: Callable[[genai.Client], Any]
    answer: list[dict[str, Any]]


def text(words: str, **fields: Any) -> dict[str, Any]:
    """A chunk that says something."""
    return {"candidates": [{"content": {"role": "model", "parts": [{"text": words}]}, **fields}]}


def stream(contents: Any, **config: Any) -> Callable[[genai.Client], Any]:
    """A streamed question, and what was heard of each candidate."""

    def call(client: genai.Client) -> Any:
        settings = types.GenerateContentConfig(**config) if config else None
        return hear(client.models.generate_content_stream(model=MODEL, contents=contents, config=settings))

    return call


def hear(chunks: Iterable[types.GenerateContentResponse]) -> dict[str, Any]:
    """What a stream says, in a form that our own events can be brought into."""
    candidates: dict[int, dict[str, Any]] = {}
    counts: dict[str, Any] = {}
    blocked = None
    for chunk in chunks:
        if chunk.prompt_feedback is not None and chunk.prompt_feedback.block_reason is not None:
            blocked = chunk.prompt_feedback.block_reason.value
        if chunk.usage_metadata is not None:
            counts = chunk.usage_metadata.model_dump(exclude_none=True, mode="json")
        for one in chunk.candidates or ():
            heard = candidates.setdefault(
                one.index or 0, {"text": "", "thoughts": "", "calls": [], "reason": None, "logprobs": []}
            )
            for part in (one.content and one.content.parts) or ():
                if part.function_call is not None:
                    heard["calls"].append([part.function_call.name, part.function_call.args or {}])
                elif part.text:
                    heard["thoughts" if part.thought else "text"] += part.text
            if one.finish_reason is not None:
                heard["reason"] = one.finish_reason.value
            for token in (one.logprobs_result and one.logprobs_result.chosen_candidates) or ():
                heard["logprobs"].append([token.token, token.log_probability])
    return {"candidates": {str(index): one for index, one in candidates.items()}, "counts": counts, "blocked": blocked}


def talk() -> list[types.Content]:
    """A conversation with calls that were made together, and their results."""
    part, content = types.Part, types.Content
    calls = [
        part(
            function_call=types.FunctionCall(id="a", name="get_weather", args={"city": "Paris"}),
            thought_signature=b"signed",
        ),
        part(function_call=types.FunctionCall(id="b", name="get_time", args={})),
    ]
    results = [
        part(function_response=types.FunctionResponse(id="a", name="get_weather", response={"output": "Sunny"})),
        part(function_response=types.FunctionResponse(id="b", name="get_time", response={"output": "12:00"})),
    ]
    return [
        content(role="user", parts=[part(text="Weather and time?")]),
        content(role="model", parts=[part(text="Let me see."), *calls]),
        content(role="user", parts=results),
        content(role="user", parts=[part(text="And?")]),
    ]


def choose(mode: str, *names: str) -> dict[str, Any]:
    """Tools, and what may be done with them."""
    config = types.FunctionCallingConfig(mode=mode, allowed_function_names=list(names) or None)
    return {
        "tools": [types.Tool(function_declarations=[WEATHER, TIME])],
        "tool_config": types.ToolConfig(function_calling_config=config),
    }


def count(client: genai.Client) -> Any:
    """A count of tokens."""
    return client.models.count_tokens(model=MODEL, contents="Hi").total_tokens


def embed(client: genai.Client) -> Any:
    """Two vectors, cut to two numbers."""
    told = client.models.embed_content(
        model="gemini-embedding-001", contents=["a", "b"], config=types.EmbedContentConfig(output_dimensionality=2)
    )
    return [one.values for one in told.embeddings or ()]


CASES = [
    Case(
        "plain",
        stream("Hi"),
        [text("Hel"), text("lo", finishReason="STOP", index=0) | {"usageMetadata": USAGE, "modelVersion": MODEL}],
    ),
    Case(
        "settings",
        stream(
            "Hi",
            system_instruction=types.Content(parts=[types.Part(text="Be brief."), types.Part(text="Be kind.")]),
            temperature=0.5,
            top_p=0.75,
            top_k=4,
            candidate_count=2,
            max_output_tokens=9,
            stop_sequences=["END"],
            presence_penalty=0.5,
            frequency_penalty=-0.5,
            seed=7,
            response_logprobs=True,
            logprobs=2,
            response_mime_type="application/json",
            response_json_schema=SCHEMA,
            thinking_config=types.ThinkingConfig(include_thoughts=True, thinking_level="HIGH"),
        ),
        [
            {
                "candidates": [
                    {
                        "index": 1,
                        "content": {"parts": [{"text": "Other."}], "role": "model"},
                        "finishReason": "MAX_TOKENS",
                    },
                    {
                        "content": {"parts": [{"text": "Hm", "thought": True}, {"text": "Yes"}], "role": "model"},
                        "finishReason": "STOP",
                        "logprobsResult": {
                            "chosenCandidates": [{"token": "Yes", "tokenId": 5, "logProbability": -0.25}],
                            "topCandidates": [
                                {
                                    "candidates": [
                                        {"token": "Yes", "tokenId": 5, "logProbability": -0.25},
                                        {"token": "No", "tokenId": 6, "logProbability": -2.5},
                                    ]
                                }
                            ],
                        },
                    },
                ],
                "usageMetadata": USAGE
                | {
                    "cachedContentTokenCount": 4,
                    "thoughtsTokenCount": 2,
                    "promptTokensDetails": [{"modality": "TEXT"}],
                },
            }
        ],
    ),
    Case(
        "tools",
        stream(talk(), **choose("AUTO")),
        [
            {
                "candidates": [
                    {
                        "content": {
                            "role": "model",
                            "parts": [
                                {
                                    "functionCall": {"name": "get_weather", "args": {"city": "Rome"}},
                                    "thoughtSignature": "c2ln",
                                },
                                {"functionCall": {"name": "get_time", "args": {}}},
                            ],
                        }
                    }
                ],
                "usageMetadata": USAGE,
            },
            {"candidates": [{"content": {"parts": [{"text": ""}]}, "finishReason": "STOP"}], "usageMetadata": USAGE},
        ],
    ),
    Case("any_tool", stream("Hi", **choose("ANY")), [text("", finishReason="STOP")]),
    Case("one_tool", stream("Hi", **choose("ANY", "get_time")), [text("", finishReason="STOP")]),
    Case("some_tools", stream("Hi", **choose("VALIDATED", "get_time")), [text("", finishReason="STOP")]),
    Case("no_tool", stream("Hi", **choose("NONE")), [text("No.", finishReason="SAFETY")]),
    Case(
        "choice",
        stream("Hi", response_mime_type="text/x.enum", response_schema=types.Schema(type="STRING", enum=["yes", "no"])),
        [text("yes", finishReason="STOP")],
    ),
    Case("blocked", stream("Hi"), [{"promptFeedback": {"blockReason": "PROHIBITED_CONTENT"}, "usageMetadata": USAGE}]),
    Case("count", count, [{"totalTokens": 12, "promptTokensDetails": [{"modality": "TEXT", "tokenCount": 12}]}]),
    Case("embed", embed, [{"embeddings": [{"values": [3.0, 4.0]}, {"values": [0.0, 2.0]}]}]),
]


class Server(BaseHTTPRequestHandler):
    """Writes down what comes and says what it was told to."""

    answer: list[dict[str, Any]]
    seen: dict[str, Any]

    def do_POST(self) -> None:
        """Answer one request."""
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        keys = [name.lower() for name, value in self.headers.items() if value == KEY]
        type(self).seen = {"path": self.path, "key_headers": keys, "body": body}
        is_stream = "alt=sse" in self.path
        said = [json.dumps(one).encode() for one in self.answer]
        self.send_response(200)
        self.send_header("content-type", "text/event-stream" if is_stream else "application/json")
        self.end_headers()
        self.wfile.write(b"".join(b"data: " + one + b"\r\n\r\n" for one in said) if is_stream else said[0])

    def log_message(self, format: str, *args: Any) -> None:  # noqa: A002 - as it is inherited
        """Say nothing."""


def main() -> None:
    """Record all cases."""
    server = HTTPServer(("127.0.0.1", 0), Server)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    client = genai.Client(
        api_key=KEY, http_options=types.HttpOptions(base_url=f"http://127.0.0.1:{server.server_port}")
    )
    recorded = {}
    for case in CASES:
        Server.answer = case.answer
        heard = case.call(client)
        recorded[case.name] = {**Server.seen, "answer": case.answer, "heard": heard}
    server.shutdown()
    whole = {"google-genai": importlib.metadata.version("google-genai"), "cases": recorded}
    VECTORS.write_text(json.dumps(whole, indent=1, ensure_ascii=False) + "\n", "utf-8")


if __name__ == "__main__":
    main()
