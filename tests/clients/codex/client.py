"""Codex in its non-interactive mode: reads a file, edits it with its shell tool, answers, goes on the next time."""

import json
import os
import pathlib
import subprocess

HOME = pathlib.Path(os.environ["HOME"]) / ".codex"
TASK = pathlib.Path("task").resolve()
HOME.mkdir()
TASK.mkdir()
(HOME / "config.toml").write_text(f"""\
model = "scripted"
model_provider = "headrace"

[model_providers.headrace]
name = "Headrace"
base_url = "{os.environ["HEADRACE_URL"]}/v1"
wire_api = "responses"
env_key = "HEADRACE_KEY"
{os.environ.get("CODEX_PROVIDER", "")}
""")
# The sandbox of a throwaway folder in a container is the container.
OPTIONS = ["--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox", "--json"]


def codex(*arguments: str) -> list[dict]:
    done = subprocess.run(
        ["codex", "exec", *arguments],
        cwd=TASK,
        env={**os.environ, "HEADRACE_KEY": "unused"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    events = [json.loads(line) for line in done.stdout.splitlines()]
    assert not [event for event in events if event["type"] in ("turn.failed", "error")], done.stdout
    return events


def said(events: list[dict]) -> list[str]:
    items = [event["item"] for event in events if event["type"] == "item.completed"]
    return [item["text"] for item in items if item["type"] == "agent_message"]


def did(what: str) -> None:
    print(f"did {what}", flush=True)


(TASK / "notes.txt").write_text("The sky is blue.\n")
events = codex(*OPTIONS, "Change blue to green in notes.txt")
assert (TASK / "notes.txt").read_text() == "The sky is green.\n"
assert said(events)[-1] == "The colour in notes.txt is now green.", events
did("task: read a file, edit it, answer")
usage = events[-1]["usage"]
assert usage["input_tokens"] > usage["cached_input_tokens"] > 0, usage
assert usage["reasoning_output_tokens"] > 0, usage
did("usage with cached and reasoning tokens")
events = codex("resume", "--last", *OPTIONS, "Thank you")
assert said(events) == ["You are welcome."], events
did("resumed session")
