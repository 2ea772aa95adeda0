"""The `llm` command against Headrace, configured as its documentation says: a prompt, its stream, a tool."""

import os
import pathlib
import subprocess

HOME = pathlib.Path(os.environ["HOME"]) / "llm"
HOME.mkdir()
ENVIRON = {**os.environ, "LLM_USER_PATH": str(HOME)}
(HOME / "extra-openai-models.yaml").write_text(f"""\
- model_id: headrace
  model_name: scripted
  api_base: "{os.environ["HEADRACE_URL"]}/v1"
  api_key_name: headrace
  supports_tools: true
  supports_schema: true
""")
TOOL = '''
def get_weather(city: str) -> str:
    """The weather in a city."""
    return f"21 degrees in {city}"
'''


def llm(*arguments: str) -> str:
    done = subprocess.run(["llm", *arguments], env=ENVIRON, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def did(what: str) -> None:
    print(f"did {what}", flush=True)


llm("keys", "set", "headrace", "--value", "unused")
assert llm("-m", "headrace", "--no-stream", "Hello") == "Hello from the script."
did("prompt")
assert llm("-m", "headrace", "Hello") == "Hello from the script."
did("prompt streamed")
assert (
    llm("-m", "headrace", "--schema", "city, degrees int", "--no-stream", "JSON") == '{"city": "Paris", "degrees": 21}'
)
did("schema")
answer = llm("-m", "headrace", "--functions", TOOL, "What is the weather in Paris?")
assert answer.endswith("It is 21 degrees in Paris."), answer
did("tool exchange")
