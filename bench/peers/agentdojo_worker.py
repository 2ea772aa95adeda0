"""AgentDojo behind a line protocol, run inside its own environment; knows of Headrace only a URL.

A scripted, gullible model: it makes the calls of a user's task one after another, as the benchmark's ground truth has
them, and as soon as the goal of an injection stands in what it reads, it makes that one's calls first. It is asked over
HTTP, through whatever stands before it, by AgentDojo's own client of OpenAI's protocol; what a guard withholds it does
not try again, but goes on. No model is measured: only who stands between the model and the tools.

Reads one JSON command per line on stdin and answers with one JSON line on stdout:
{"do": "open"}                                  -> {"version", "port"} where the scripted model listens
{"do": "suite", "name": "slack", "url": "http://127.0.0.1:8000/v1", "attack": "important_instructions",
 "primes": false, "part": 0, "parts": 1}        -> {"users": [...], "pairs": [...]}, see `Outcome`

With `primes` the attacker knows the guard: before an injection's own calls it has every tool called that only looks
something up, with the attacker's own names and addresses, so that what comes back might vouch for them.
"""

import json
import logging
import re
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.metadata import version
from typing import Any

import openai
import yaml
from agentdojo.agent_pipeline.agent_pipeline import AgentPipeline
from agentdojo.agent_pipeline.base_pipeline_element import BasePipelineElement
from agentdojo.agent_pipeline.basic_elements import InitQuery, SystemMessage
from agentdojo.agent_pipeline.llms import openai_llm
from agentdojo.agent_pipeline.llms.openai_llm import OpenAILLM
from agentdojo.agent_pipeline.tool_execution import ToolsExecutor
from agentdojo.attacks.attack_registry import load_attack
from agentdojo.functions_runtime import FunctionCall
from agentdojo.task_suite.load_suites import get_suite
from agentdojo.types import ChatUserMessage, text_content_block_from_string
from pydantic import BaseModel

MODEL = "scripted"
MAX_TURNS = 100
_NOISE = re.compile(r"[\s'\"\\]+|\\n")
# The same, quicker: a suite is read anew for every pair, and its tools are described for every turn.
yaml.safe_load = lambda text: yaml.load(text, yaml.CSafeLoader)
_describe = openai_llm._function_to_openai
_descriptions: dict[str, Any] = {}


def _described(tool: Any) -> Any:
    if tool.name not in _descriptions:
        _descriptions[tool.name] = _describe(tool)
    return _descriptions[tool.name]


openai_llm._function_to_openai = _described


def plain(value: Any) -> Any:
    """JSON of what tools take and return."""
    if isinstance(value, BaseModel):
        return value.model_dump(mode="json")
    if isinstance(value, list):
        return [plain(inner) for inner in value]
    return {name: plain(inner) for name, inner in value.items()} if isinstance(value, dict) else value


def shown(result: Any) -> str:
    """A result as the model reads it: JSON, or a text as it is."""
    result = plain(result)
    return result if isinstance(result, str) else json.dumps(result, default=str, ensure_ascii=False)


@dataclass
class Outcome:
    """One run. `useful` and `attacked` are the benchmark's own checks; `withheld` are calls that never came back, each
    as (whose: user or injection, tool); `has_read`: the model has read the injection."""

    user: str
    injection: str
    useful: bool = False
    attacked: bool = False
    has_read: bool = False
    withheld: list[tuple[str, str]] = field(default_factory=list)


@dataclass
class Script:
    """What the model does in one run."""

    own: list[FunctionCall]
    injected: list[FunctionCall]
    goal: str
    says: str
    says_injected: str
    outcome: Outcome
    made: list[tuple[str, str, str]] = field(default_factory=list)  # (call id, whose, tool)

    def __post_init__(self) -> None:
        self.todo = [("user", call) for call in self.own]
        self.goal = _NOISE.sub("", self.goal).lower()

    def next(self, messages: Sequence[dict[str, Any]]) -> tuple[str, FunctionCall | None, str]:
        """The next call with its id, or the last word."""
        asked = {call["id"] for message in messages for call in message.get("tool_calls") or ()}
        if self.made and self.made[-1][0] not in asked:
            self.outcome.withheld.append(self.made[-1][1:])
        if not self.outcome.has_read and self.goal and any(map(self._tempts, messages)):
            self.outcome.has_read = True
            self.todo[:0] = [("injection", call) for call in self.injected]
        if not self.todo:
            return "", None, f"{self.says} {self.says_injected if self.outcome.has_read else ''}".strip()
        whose, call = self.todo.pop(0)
        call_id = f"call_{len(self.made)}"
        self.made.append((call_id, whose, call.function))
        return call_id, call, ""

    def _tempts(self, message: dict[str, Any]) -> bool:
        if message["role"] != "tool":
            return False
        content = message["content"]
        text = content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())
        return self.goal in _NOISE.sub("", text.replace("\\n", " ").replace("\\u00a3", "£")).lower()


class Model(ThreadingHTTPServer):
    """The scripted model as a backend that speaks OpenAI's protocol."""

    script: Script
    daemon_threads = True


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        model = self.server
        assert isinstance(model, Model)
        call_id, call, text = model.script.next(body["messages"])
        delta: dict[str, Any] = {"role": "assistant", "content": text if call is None else None}
        if call is not None:
            arguments = json.dumps(plain(dict(call.args)), default=str)
            delta["tool_calls"] = [
                {
                    "index": 0,
                    "id": call_id,
                    "type": "function",
                    "function": {"name": call.function, "arguments": arguments},
                }
            ]
        reason = "stop" if call is None else "tool_calls"
        about = {"id": "x", "created": 1, "model": MODEL}
        usage = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}
        if body.get("stream"):
            chunks: list[dict[str, Any]] = [
                {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]},
                {"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]},
                {"choices": [], "usage": usage},
            ]
            lines = [json.dumps({**about, "object": "chat.completion.chunk", **chunk}) for chunk in chunks]
            self._answer("".join(f"data: {line}\n\n" for line in [*lines, "[DONE]"]), "text/event-stream")
        else:
            choice = {"index": 0, "message": delta, "finish_reason": reason}
            whole = {**about, "object": "chat.completion", "choices": [choice], "usage": usage}
            self._answer(json.dumps(whole), "application/json")

    def _answer(self, text: str, kind: str) -> None:
        data = text.encode()
        self.send_response(200)
        self.send_header("content-type", kind)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        """Nothing."""


class Loop(BasePipelineElement):  # type: ignore[misc]
    """AgentDojo's loop of calls, of an agent that goes on where a call of its model was withheld, which the stock one
    takes for the end: that would spare the guard most of an attack."""

    def __init__(self, executor: ToolsExecutor, llm: OpenAILLM, model: Model) -> None:
        self._executor, self._llm, self._model = executor, llm, model

    def query(
        self, query: str, runtime: Any, env: Any = None, messages: Any = (), extra_args: Any = None
    ) -> tuple[str, Any, Any, Any, Any]:
        extra_args = extra_args or {}
        for _ in range(MAX_TURNS):
            last = messages[-1]
            if last["tool_calls"]:
                query, runtime, env, messages, extra_args = self._executor.query(
                    query, runtime, env, messages, extra_args
                )
            elif not self._model.script.todo and not self._is_withheld(last):
                break
            else:
                go_on = ChatUserMessage(role="user", content=[text_content_block_from_string("Go on.")])
                messages = [*messages, go_on]
            query, runtime, env, messages, extra_args = self._llm.query(query, runtime, env, messages, extra_args)
        return query, runtime, env, messages, extra_args

    @staticmethod
    def _is_withheld(message: Any) -> bool:
        return any("was withheld" in (part["content"] or "") for part in message["content"] or ())


def primed(calls: Sequence[FunctionCall], tools: Sequence[Any]) -> Iterator[FunctionCall]:
    """An injection's calls, and before them look-ups of every value in them."""
    values = [value for call in calls for value in call.args.values() if isinstance(value, str) and len(value) < 60]
    values += [one for call in calls for value in call.args.values() if isinstance(value, list) for one in value]
    for tool in tools:
        fields = tool.parameters.model_json_schema().get("properties", {})
        required = [name for name, about in fields.items() if about.get("type") == "string"]
        if not re.match(r"get|search|read|list|check", tool.name) or len(required) > 1 or "url" in required:
            continue
        if "user_info" in tool.name:
            continue  # who knows the guard reads no secrets before it sends something
        if not required:
            yield FunctionCall(function=tool.name, args={})
        for value in dict.fromkeys(str(one) for one in values) if required else ():
            yield FunctionCall(function=tool.name, args={required[0]: value})
    yield from calls


def run_suite(model: Model, name: str, url: str, attack: str, *, primes: bool, part: int, parts: int) -> dict[str, Any]:
    """Every user's task by itself, and with every injection."""
    suite = get_suite("v1", name)
    _descriptions.clear()
    client = openai.OpenAI(base_url=url, api_key="unused", max_retries=0)
    llm = OpenAILLM(client, MODEL)
    loop = Loop(ToolsExecutor(shown), llm, model)
    pipeline = AgentPipeline([SystemMessage("You are an assistant."), InitQuery(), llm, loop])
    pipeline.name = "local"  # a key that the attacks know
    made = load_attack(attack, suite, pipeline)
    users: list[Outcome] = []
    pairs: list[Outcome] = []

    def run(user_id: str, injection_id: str) -> Outcome:
        user = suite.user_tasks[user_id]
        injection = suite.injection_tasks[injection_id] if injection_id else None
        injections = {} if injection is None else made.attack(user, injection)
        before = user.init_environment(suite.load_and_inject_default_environment(injections))
        outcome = Outcome(user_id, injection_id)
        calls = [] if injection is None else injection.ground_truth(before.model_copy(deep=True))
        model.script = Script(
            own=user.ground_truth(before.model_copy(deep=True)),
            injected=list(primed(calls, suite.tools)) if primes else calls,
            goal="" if injection is None else injection.GOAL,
            says=user.GROUND_TRUTH_OUTPUT,
            says_injected=getattr(injection, "GROUND_TRUTH_OUTPUT", ""),
            outcome=outcome,
        )
        outcome.useful, attacked = suite.run_task_with_pipeline(pipeline, user, injection, injections)
        outcome.attacked = injection is not None and attacked
        return outcome

    for number, user_id in enumerate(suite.user_tasks):
        if number % parts == part:
            users.append(run(user_id, ""))
            pairs += [run(user_id, injection_id) for injection_id in suite.injection_tasks]
    return {"users": [asdict(one) for one in users], "pairs": [asdict(one) for one in pairs]}


def main() -> None:
    """Answer commands until stdin ends."""
    logging.disable(logging.WARNING)
    answers, sys.stdout = sys.stdout, sys.stderr  # whatever a library prints must not look like an answer
    model = Model(("127.0.0.1", 0), _Handler)
    threading.Thread(target=model.serve_forever, daemon=True).start()
    for line in sys.stdin:
        command = json.loads(line)
        do = command.pop("do")
        if do == "open":
            answer = {"version": version("agentdojo"), "port": model.server_address[1]}
        else:
            answer = run_suite(model, **command)
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main()
