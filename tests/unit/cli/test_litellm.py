"""LiteLLM's configurations: what comes out is a right settings file with the same meaning, and says what is missing."""

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from headrace.cli.config import Resolved, compose
from headrace.cli.litellm import import_litellm
from headrace.cli.main import app
from headrace.cli.surroundings import look_around
from headrace.core.errors import InvalidRequest
from headrace.core.ledger import Prices
from headrace.core.request import Task
from headrace.core.shape import Need
from headrace.gateway.settings import CandidateSettings, Policy, Secret, Target, Window

# As LiteLLM's documentation has them.
WHOLE = """
model_list:
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_key: os.environ/OPENAI_API_KEY
      rpm: 60
      tpm: 100000
    model_info:
      id: "1"
      max_input_tokens: 128000
      max_output_tokens: 16384
      input_cost_per_token: 0.0000025
      output_cost_per_token: 0.00001
      supports_vision: true
  - model_name: gpt-4o
    litellm_params:
      model: openai/gpt-4o
      api_base: http://10.0.0.5:8000/v1
      api_key: none
      rpm: 30
      weight: 2
      timeout: 20
      input_cost_per_token: 0
      output_cost_per_token: 0
  - model_name: claude
    litellm_params:
      model: anthropic/claude-sonnet-4-5
      api_key: sk-ant-written-in-the-file
      input_cost_per_token: 0.000003
      output_cost_per_token: 0.000015
  - model_name: local
    litellm_params:
      model: ollama_chat/llama3.1
      api_base: http://localhost:11434
      max_parallel_requests: 4
      input_cost_per_token: 0
      output_cost_per_token: 0
  - model_name: embed
    litellm_params:
      model: text-embedding-3-small
      api_key: os.environ/OPENAI_API_KEY
      input_cost_per_token: 0.00000002
      output_cost_per_token: 0
    model_info:
      mode: embedding
  - model_name: azure-gpt
    litellm_params:
      model: azure/gpt-4o-eu
      api_base: https://my-endpoint.openai.azure.com/
      api_key: os.environ/AZURE_API_KEY
      api_version: "2024-07-01"
litellm_settings:
  drop_params: true
  num_retries: 3
  fallbacks: [{"gpt-4o": ["claude"]}, {"claude": ["local", "gpt-4o", "nowhere"]}]
  cache: true
  cache_params:
    type: redis
    ttl: 600
    similarity_threshold: 0.9
    host: localhost
  max_budget: 100
  budget_duration: 30d
  success_callback: ["langfuse"]
router_settings:
  routing_strategy: simple-shuffle
  model_group_alias: {"gpt-4": "gpt-4o"}
  num_retries: 2
  timeout: 30
  cooldown_time: 60
  allowed_fails: 3
  redis_host: localhost
general_settings:
  master_key: os.environ/LITELLM_MASTER_KEY
  database_url: postgresql://user:password@host/db
"""


def read(text: str, folder: Path) -> tuple[Resolved, str]:
    """The settings that come out, checked as `headrace config check` does where all variables are set."""
    written = import_litellm(text, "config.yaml")
    file = folder / "headrace.toml"
    file.write_text(written, "utf-8")
    resolved = compose({}, {"HEADRACE_HOME": str(folder)}, file)
    look_around(resolved, {name: f"key-{name}" for name in re.findall(r'"env:(\w+)"', written)})
    return resolved, written


def test_a_whole_configuration_keeps_its_meaning(tmp_path: Path) -> None:
    resolved, _ = read(WHOLE, tmp_path)
    gateway = resolved.settings.gateway
    assert list(gateway.backends) == ["openai", "openai-compatible", "anthropic", "ollama"]
    openai, own = gateway.backends["openai"], gateway.backends["openai-compatible"]
    assert openai.secret == Secret("env:OPENAI_API_KEY") and own.secret is None
    assert list(openai.models) == ["gpt-4o", "text-embedding-3-small"]
    gpt = openai.models["gpt-4o"]
    assert gpt.prices == Prices(input=2.5, output=10) and gpt.context_length == 128_000
    assert gpt.max_output_tokens == 16_384 and Need.VISION in gpt.can and Need.TOOLS in gpt.can
    assert openai.models["text-embedding-3-small"].tasks == frozenset({Task.EMBED, Task.COUNT})
    assert own.url == "http://10.0.0.5:8000/v1" and own.timeouts.first_event_s == own.timeouts.whole_s == 20
    assert openai.timeouts.first_event_s == openai.timeouts.whole_s == 30 and openai.breaker.open_s == 60
    ollama = gateway.backends["ollama"]
    assert (ollama.url, ollama.max_concurrency) == ("http://localhost:11434/v1", 4)
    route = gateway.routes["gpt-4o"]
    assert route.candidates == (
        CandidateSettings(target=Target("openai", "gpt-4o"), weight=60),
        CandidateSettings(target=Target("openai-compatible", "gpt-4o"), weight=2),
    )
    assert route.policies == (Policy.WEIGHTED,) and route.retry.max_attempts == 3
    assert route.fallbacks == ("claude",) and gateway.routes["claude"].fallbacks == ("local",)
    assert gateway.routes["gpt-4"].candidates == route.candidates
    limits = {str(one.subject): (one.requests_per_minute, one.tokens_per_minute) for one in gateway.limits}
    assert limits["route:gpt-4o"] == (90, None)
    (budget,) = gateway.budgets
    assert (str(budget.subject), budget.window, budget.money) == ("all", Window.MONTH, 100)
    assert (gateway.cache.is_on, gateway.cache.ttl_s, gateway.cache.semantic_threshold) == (True, 600, None)
    (key,) = resolved.settings.issued
    assert key.secret == Secret("env:LITELLM_MASTER_KEY") and "admin" in key.scopes


def test_what_has_no_counterpart_is_listed_and_no_secret_is_written(tmp_path: Path) -> None:
    _, written = read(WHOLE, tmp_path)
    notes = written.partition("# Not carried over:\n")[2]
    for name in (
        "azure/gpt-4o-eu): its provider is none that is known here",
        "its key stands in the file; put it into the variable ANTHROPIC_API_KEY",
        "fallback claude -> gpt-4o: goes round in a circle",
        "fallback claude -> nowhere: there is no route nowhere",
        "tokens_per_minute of gpt-4o: not all of its deployments have one",
        "allowed_fails 3",
        "litellm_settings.drop_params has no counterpart",
        "litellm_settings.success_callback has no counterpart",
        "in [answer_cache] semantic_threshold = 0.9",
        "cache_params.host has no counterpart",
        "router_settings.redis_host has no counterpart",
        "general_settings.database_url has no counterpart",
    ):
        assert name in notes
    assert "sk-ant-written" not in written and "password" not in written


@pytest.mark.parametrize(
    ("strategy", "policy"),
    [
        ("least-busy", Policy.LEAST_LOADED),
        ("latency-based-routing", Policy.LOWEST_LATENCY),
        ("cost-based-routing", Policy.LOWEST_COST),
        ("usage-based-routing-v2", Policy.LEAST_LOADED),
        ("of-the-future", Policy.LEAST_LOADED),
    ],
)
def test_strategies_become_policies(strategy: str, policy: Policy, tmp_path: Path) -> None:
    text = "model_list: [{model_name: m, litellm_params: {model: groq/llama}}]\nrouter_settings: {routing_strategy: %s}"
    resolved, _ = read(text % strategy, tmp_path)
    assert resolved.settings.gateway.routes["m"].policies == (policy,)


def test_a_budget_without_prices_is_listed_because_it_could_not_hold(tmp_path: Path) -> None:
    text = "model_list: [{model_name: m, litellm_params: {model: groq/llama}}]\nlitellm_settings: {max_budget: 5}"
    resolved, written = read(text, tmp_path)
    assert resolved.settings.gateway.budgets == ()
    assert "max_budget: it cannot hold before groq/llama have prices" in written and "# - money = 5.0" in written


def test_a_wildcard_opens_a_backend(tmp_path: Path) -> None:
    text = 'model_list: [{model_name: "*", litellm_params: {model: "openai/*", api_key: os.environ/K}}]'
    assert read(text, tmp_path)[0].settings.gateway.backends["openai"].is_open


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a: [", r"x\.yaml:1: is not valid YAML"),
        ("[]", "has no model_list"),
        ("model_list: 7", "has no model_list"),
        ("model_list: [7]", r"model_list\[1\]: is no mapping"),
        ("model_list: []\nrouter_settings: 7", "router_settings: is no mapping"),
        ("!!python/object/apply:os.system ['true']", "is not valid YAML"),
    ],
)
def test_what_is_no_such_configuration_is_refused(text: str, sentence: str) -> None:
    with pytest.raises(InvalidRequest, match=sentence):
        import_litellm(text, "x.yaml")


def test_names_are_written_so_that_they_mean_themselves(tmp_path: Path) -> None:
    text = 'model_list: [{model_name: "a\\"]\\n[x", litellm_params: {model: "groq/b\\"c.d"}}]'
    gateway = read(text, tmp_path)[0].settings.gateway
    assert list(gateway.backends["groq"].models) == ['b"c.d'] and list(gateway.routes) == ['a"]\n[x']


def test_the_command_prints_the_file(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(WHOLE, "utf-8")
    result = CliRunner().invoke(app, ["config", "import-litellm", str(file)])
    assert result.exit_code == 0 and result.stdout == import_litellm(WHOLE, "config.yaml")
    assert CliRunner().invoke(app, ["config", "import-litellm", str(tmp_path / "no")]).exit_code == 1
