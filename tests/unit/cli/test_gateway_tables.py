"""A gateway in a settings file: what is read, and that every mistake is told with its line, key, value and remedy."""

from pathlib import Path

import pytest

from headrace.cli.config import Resolved, compose
from headrace.cli.kinds import WrongSettings
from headrace.core.errors import InvalidRequest
from headrace.core.ledger import Prices
from headrace.core.request import Task
from headrace.core.shape import Need
from headrace.gateway.settings import (
    CandidateSettings,
    Dialect,
    Policy,
    Secret,
    Subject,
    Target,
    Window,
)

WHOLE = """\
usage_days = 30
max_in_flight = 100

[backends.near]
kind = "openai-compatible"
url = "http://127.0.0.1:9000/v1/"
secret = "file:/run/near.key"
clearance = ["restricted"]
region = "eu"
retention = "none"
max_concurrency = 64
headers = {"x-team" = "search"}
timeouts = {connect = "500ms", first_event = 30}
health = {path = "/health", every = "5s", warm_up = "1m"}
breaker = {window = 10, failure_share = 0.3}

[backends.near.models.small]
context_length = 32768
max_output_tokens = 2048
can = ["tools"]
tasks = ["generate", "embed"]
prices = {input = 0.1, output = 0.4, cache_read = 0}

[backends.far]
kind = "anthropic"
secret = "env:FAR_KEY"
[backends.far.models."big/one"]
prices.input = 3
prices.output = 15

[routes.chat]
candidates = ["near/small", {target = "far/big/one", weight = 2, tier = 1}]
policies = ["cache_affinity", "lowest_cost"]
fallbacks = ["backup", "near/small"]
hedge_after = "1.5s"
canary = "far/big/one"
canary_share = 0.05
shadow = "near/small"
shadow_share = 1
max_queue = 0
[routes.chat.retry]
max_attempts = 2
on = ["upstream_timeout"]
backoff = "50ms"

[routes.backup]
candidates = ["far/big/one"]
policies = "ordered"

[[budgets]]
name = "a day"
subject = "user:anna/bob"
window = "day"
money = 5
tokens = 1000

[[budgets]]
subject = "tenant:*"
window = "month"
tokens = 10

[[limits]]
subject = "all"
concurrency = 7

[tenants.anna]
labels = ["restricted"]
regions = ["eu"]
routes = ["chat"]

[answer_cache]
ttl = "10m"
max_bytes = "1MiB"
price_share = 0.1
"""


def write(path: Path, text: str) -> Path:
    path.write_text(text, "utf-8")
    return path


def read(tmp_path: Path, text: str) -> Resolved:
    return compose({}, {"HOME": "/h"}, write(tmp_path / "a.toml", text))


def test_a_whole_gateway_is_read(tmp_path: Path) -> None:
    gateway = read(tmp_path, WHOLE).settings.gateway
    near, far = gateway.backends["near"], gateway.backends["far"]
    assert (near.name, near.dialect, near.url, near.secret) == (
        "near",
        Dialect.CHAT,
        "http://127.0.0.1:9000/v1",
        Secret("file:/run/near.key"),
    )
    assert (near.clearance, near.region, near.retention) == (frozenset({"restricted"}), "eu", "none")
    assert (near.timeouts.connect_s, near.timeouts.first_event_s, near.timeouts.idle_s) == (0.5, 30.0, 60.0)
    assert (near.health.path, near.health.every_s, near.health.warm_up_s) == ("/health", 5.0, 60.0)
    assert (near.breaker.window, near.breaker.failure_share) == (10, 0.3)
    small = near.models["small"]
    assert (small.context_length, small.max_output_tokens, small.can) == (32768, 2048, frozenset({Need.TOOLS}))
    assert small.tasks == frozenset({Task.GENERATE, Task.EMBED})
    assert small.prices == Prices(input=0.1, output=0.4, cache_read=0)
    assert far.dialect is Dialect.MESSAGES and far.url.startswith("https://")
    chat = gateway.routes["chat"]
    assert chat.candidates == (
        CandidateSettings(target=Target("near", "small")),
        CandidateSettings(target=Target("far", "big/one"), weight=2, tier=1),
    )
    assert chat.policies == (Policy.CACHE_AFFINITY, Policy.LOWEST_COST)
    assert (chat.fallbacks, chat.hedge_after_s, chat.max_queue) == (("backup", "near/small"), 1.5, 0)
    assert (chat.canary, chat.canary_share) == (Target("far", "big/one"), 0.05)
    assert (chat.retry.max_attempts, chat.retry.on, chat.retry.backoff_s) == (2, frozenset({"upstream_timeout"}), 0.05)
    assert gateway.routes["backup"].policies == (Policy.ORDERED,)
    first, second = gateway.budgets
    assert (first.name, first.subject, first.window) == ("a day", Subject("user", "anna/bob"), Window.DAY)
    assert (first.money, first.tokens, second.money, second.subject) == (5.0, 1000, None, Subject("tenant", "*"))
    assert (gateway.limits[0].subject, gateway.limits[0].concurrency) == (Subject("all"), 7)
    assert gateway.tenants["anna"].tenant == "anna" and gateway.tenants["anna"].routes == frozenset({"chat"})
    assert (gateway.cache.is_on, gateway.cache.ttl_s, gateway.cache.max_bytes) == (True, 600.0, 2**20)
    assert (gateway.usage_days, gateway.max_in_flight, gateway.default_max_tokens) == (30, 100, 4096)


def test_what_is_printed_is_a_settings_file_with_the_same_meaning_and_tells_lines(tmp_path: Path) -> None:
    first = read(tmp_path, WHOLE)
    printed = first.toml()
    second = compose({}, {}, write(tmp_path / "b.toml", printed))
    assert second.settings == first.settings
    assert 'url = "http://127.0.0.1:9000/v1"  # line 6' in printed
    assert "idle = 60.0  # default" in printed
    assert 'secret = "env:FAR_KEY"  # line 26' in printed


def test_a_list_of_models_names_those_of_which_nothing_more_is_said(tmp_path: Path) -> None:
    text = '[backends.a]\nkind="openai-compatible"\nurl="http://h"\nmodels = ["m", "n"]\n'
    assert list(read(tmp_path, text).settings.gateway.backends["a"].models) == ["m", "n"]


def test_with_backends_and_no_model_there_is_no_engine_and_with_neither_there_is(tmp_path: Path) -> None:
    backend = '[backends.a]\nkind="openai-compatible"\nurl="http://h"\nmodels = ["m"]\n'
    assert not read(tmp_path, backend).settings.has_engine
    assert read(tmp_path, 'model = "smollm2"\n' + backend).settings.has_engine
    assert read(tmp_path, "[backends.local]\nkind = 'engine'\nmax_concurrency = 2\n").settings.has_engine
    assert not read(tmp_path, 'model = "none"').settings.has_engine


BACKEND = '[backends.a]\nkind = "openai-compatible"\nurl = "http://h"\n[backends.a.models.m]\n[backends.a.models.n]\n'
ROUTE = BACKEND + '[routes.r]\ncandidates = ["a/m"]\n'
PRICED = BACKEND.replace("models.m]", "models.m.prices]\ninput=1\noutput=1")


@pytest.mark.parametrize(
    ("text", "line", "sentence"),
    [
        # Each by itself.
        ('[backends.a]\nkind = "opnai"\n', 2, "backends.a.kind: 'opnai' is no kind of backend; did you mean openai?"),
        ("[backends.a]\nurl = 'http://h'\n", 1, "backends.a: kind is missing; give one."),
        ("[backnds.a]\n", 1, "backnds: is no setting; did you mean backends?"),
        ("[backends]\nfast = 7\n", 2, "backends.fast: 7 is not a table; its keys would be kind, dialect,"),
        (
            "[backends.a]\nkind='openai'\n",
            1,
            'secret: is missing; openai asks for a key: secret = "env:OPENAI_API_KEY"',
        ),
        ("[backends.a]\nkind='openai-compatible'\n", 1, "backends.a.url: is missing"),
        (BACKEND.replace("http://h", "ftp://h"), 3, "backends.a.url: 'ftp://h': begins with 'ftp'; use http://"),
        (BACKEND.replace("http://h", "http://169.254.169.254/"), 3, "is link-local: cloud machines' metadata"),
        (BACKEND.replace("http://h", "http://u:pw@h"), 3, "has a user or password in it; name a secret instead"),
        (
            BACKEND + "[backends.a.breaker]\nwindw = 7",
            7,
            "backends.a.breaker.windw: is no setting; did you mean window",
        ),
        (
            BACKEND + "[backends.a.breaker]\nwindow = '7'",
            7,
            "backends.a.breaker.window: '7' is not a whole number from",
        ),
        (
            BACKEND + "[backends.a.timeouts]\nconnect = 'soon'",
            7,
            "timeouts.connect: 'soon' is not a time from 0.001 to",
        ),
        (
            BACKEND + "[backends.a.timeouts]\nconnect_s = 5",
            7,
            "timeouts.connect_s: is no setting; did you mean connect?",
        ),
        ("[backends.a]\napi_key = 'x'\nkind='openai'", 2, "backends.a.api_key: is no setting; did you mean secret?"),
        (
            "[backends.a]\nkind='openai'\nsecret='sk-1'",
            3,
            'secret: the value names no place of a secret; write "env:NAME"',
        ),
        (BACKEND.replace("models.m]", "models.m]\ncan = ['fly']"), 5, "models.m.can[1]: 'fly' is no need; known are"),
        (BACKEND + "[backends.a.models.m.prices]\ninput=1\n", 6, "backends.a.models.m.prices: output is missing"),
        (
            "[backends.a]\nheaders = {authorization = 'x'}",
            2,
            "headers: the value has authorization, which looks like a",
        ),
        ('[backends.a]\nheaders = {x = "a\\nb"}', 2, "the value has x with a value that is not one line of ASCII"),
        ("[backends.a]\nheaders = {host = 'x'}", 2, "has host, which belongs to the connection"),
        (
            "[backends.local]\nkind='openai'\nsecret='env:A'",
            2,
            "'openai' is not that of local, this process's own engine",
        ),
        ("[backends.a]\nkind='engine'", 2, "'engine' is the kind of the backend local and of no other"),
        ("[backends.local]\nkind='engine'\nurl='http://h'", 3, "url: is not for the engine in this process: it has no"),
        (
            "[backends.a]\nkind='openai-compatible'\nurl='http://h'",
            1,
            'models: is missing; name them: models = ["NAME"]',
        ),
        (BACKEND + "[routes.r]", 6, "routes.r: candidates is missing"),
        (BACKEND + "[routes.r]\ncandidates = []", 7, "routes.r.candidates: names none"),
        (
            BACKEND + "[routes.r]\ncandidates = ['m']",
            7,
            "routes.r.candidates[1]: 'm' is no target; write \"backend/model\"",
        ),
        (
            BACKEND + "[routes.r]\ncandidates = [\n'a/m',\n{target='a/n', wieght=1}]",
            9,
            "is no setting; did you mean weight?",
        ),
        (ROUTE + "policies = ['fastest']", 8, "policies[1]: 'fastest' is no policy; "),
        (ROUTE + "canary = 'a/n'", 8, "canary: has no share; write canary_share"),
        (ROUTE + "canary_share = 0.5", 8, 'canary_share: is of nobody; write canary = "backend/model"'),
        (ROUTE + "canary = 'a/n'\ncanary_share = 1.5", 9, "canary_share: 1.5 is not a number from 0 to 1"),
        (
            ROUTE + "[routes.r.retry]\non = ['invalid_value']",
            9,
            "retry.on[1]: 'invalid_value' is no error that is tried",
        ),
        (
            ROUTE + "[routes.r.escalation]\nverifiers = ['nice']",
            9,
            "verifiers[1]: 'nice' is no verifier; known are json",
        ),
        ("[[budgets]]\nsubject='all'\nwindow='day'", 1, "budgets[1]: has neither money nor tokens"),
        ("[[budgets]]\nsubject='anna'\nwindow='day'\ntokens=1", 2, "budgets[1].subject: 'anna' names nobody; write"),
        ("[[budgets]]\nsubject='all'\nwindow='fortnight'\ntokens=1", 3, "window: 'fortnight' is no window; known are"),
        ("[[limits]]\nsubject='all'", 1, "limits[1]: limits nothing; give requests_per_minute"),
        ("[[limits]]\nsubject='all'\nconcurrency=0", 3, "concurrency: 0 is not a whole number from 1"),
        ("[backends.local]\nkind='engine'\ntimeouts={idle=1}", 3, "timeouts: is not for the engine in this process"),
        ("[[limits]]\nsubject='all'\nrpm=1", 3, "limits[1].rpm: is no setting; did you mean requests_per_minute?"),
        ("[budgets]\nday = 1", 1, "budgets: the value is not a list; write [[budgets]]"),
        ("[tenants.a]\nlabels = 'x'", 2, "tenants.a.labels: 'x' is not a list"),
        ("[answer_cache]\nsemantic_threshold = 0", 2, "semantic_threshold: 0 is not a number above 0 to 1"),
        ("trusted_proxies = ['10.0.0.1/8']", 1, "has '10.0.0.1/8', which is no network"),
        # Together.
        (BACKEND + "[routes.r]\ncandidates = ['b/m']", 7, "candidates[1]: b/m is no backend; "),
        (
            BACKEND + "[routes.r]\ncandidates = [\n'a/m',\n'a/o']",
            9,
            "candidates[2]: a/o is no model of a; known are m, n",
        ),
        (BACKEND + "[routes.r]\ncandidates = ['a/m', 'a/m']", 7, "candidates[2]: a/m is there twice; raise its weight"),
        (BACKEND + "[routes.r]\ncandidates = ['local/m']", 7, "local/m is a model of the engine, and there is none"),
        (ROUTE + "fallbacks = ['s']\n[routes.s]\ncandidates = ['a/n']\nfallbacks=['rr']", 11, "rr is no route, nor a"),
        (ROUTE + "fallbacks = ['a/o']", 8, "fallbacks[1]: a/o is no model of a; known are m, n"),
        (
            ROUTE + "fallbacks = ['s']\n[routes.s]\ncandidates = ['a/n']\nfallbacks=['a/n', 't']\n"
            "[routes.t]\ncandidates = ['a/n']\nfallbacks=['r']",
            8,
            "routes.r.fallbacks: they go round in a circle: r -> s -> t -> r; take one of them out.",
        ),
        (ROUTE + "fallbacks = ['r']", 8, "circle: r -> r;"),
        (BACKEND + "[routes.r]\npolicies='weighted'\ncandidates=[{target='a/m',weight=0}]", 8, "all weights are 0, so"),
        (ROUTE + "policies = 'complexity'", 8, "complexity needs candidates of two tiers at least"),
        (
            BACKEND + "[routes.r]\npolicies='complexity'\ncandidates=['a/m',{target='a/n',tier=2}]",
            8,
            "their tiers are 0, 2; count them 0, 1, 2 without a gap",
        ),
        (
            BACKEND + "[routes.r]\npolicies='complexity'\ncandidates=['a/m',{target='a/n',tier=1}]\n"
            "escalation.max_difficulty=[0.2,0.4]",
            9,
            "escalation.max_difficulty: has 2 numbers; 2 tiers need 1",
        ),
        (ROUTE + "policies = []", 8, "policies: is empty; leave it out"),
        (ROUTE + "policies = ['ordered', 'ordered']", 8, "policies: one of them is there twice"),
        ('[routes."a/m"]\ncandidates=["a/m"]\n' + BACKEND, 1, "a/m reads as the model m of the backend a; rename"),
        (
            BACKEND + "[[budgets]]\nsubject='all'\nwindow='day'\nmoney=1",
            4,
            "models.m: has no price, so the budget 'all a",
        ),
        (
            PRICED.replace("url", "open = true\nurl").replace("[backends.a.models.n]\n", "")
            + "[[budgets]]\nsubject='all'\nwindow='day'\nmoney=1",
            3,
            "backends.a.open: lets models be asked for that have no price",
        ),
        (
            ROUTE + "[[limits]]\nsubject='route:x'\nconcurrency=1",
            9,
            "subject: route:x is no route; did you mean route:r?",
        ),
        (
            "[[limits]]\nname='x'\nsubject='all'\nconcurrency=1\n[[limits]]\nname='x'\nsubject='key:a'\nconcurrency=1",
            5,
            "limits[2]: there are two with the name 'x'",
        ),
        (ROUTE + "[tenants.t]\nroutes = ['rr']", 9, "tenants.t.routes: rr is no route or model; did you mean r?"),
        (ROUTE + "[tenants.t]\nregions = ['eu']", 9, "tenants.t.regions: no backend has one of eu"),
        (BACKEND + "[backends.a.models.m.x]\n", 6, "backends.a.models.m.x: is no setting"),
        (
            BACKEND + "[answer_cache]\nsemantic_threshold=0.9",
            7,
            "questions are compared by the model 'all-minilm-l6-v2'",
        ),
        (BACKEND + "[backends.a.breaker]\nwindow=4", 6, "min_attempts: 5 is more than the window of 4 attempts"),
    ],
)
def test_each_mistake_is_told_with_its_line_its_key_its_value_and_the_remedy(
    tmp_path: Path, text: str, line: int, sentence: str
) -> None:
    with pytest.raises(WrongSettings) as caught:
        read(tmp_path, text)
    told = [str(problem) for problem in caught.value.problems]
    place = f"{tmp_path / 'a.toml'}:{line}: "
    assert any(one.startswith(place) and sentence in one for one in told), told
    assert not any(one.endswith(("..", "?.")) for one in told)


def test_all_mistakes_are_told_at_once_in_the_order_of_the_file(tmp_path: Path) -> None:
    text = "port = 'x'\n[backends.a]\nkind = 'opnai'\nurl = 7\n[routes.r]\ncandidates = 'a'\n"
    with pytest.raises(WrongSettings, match="4 settings are wrong") as caught:
        read(tmp_path, text)
    assert [problem.line for problem in caught.value.problems] == [1, 3, 4, 6]


def test_a_name_that_stands_there_twice_is_refused_with_its_line(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"a\.toml:6: is not valid TOML"):
        read(tmp_path, BACKEND + "[backends.a.models.m]\n")
    with pytest.raises(WrongSettings, match="'m' is there twice; name each model once"):
        read(tmp_path, '[backends.a]\nkind="openai-compatible"\nurl="http://h"\nmodels = ["m", "m"]\n')


def test_a_route_that_hides_a_model_of_its_name_is_a_warning(tmp_path: Path) -> None:
    resolved = read(tmp_path, BACKEND + "[routes.n]\ncandidates = ['a/m']\n")
    (problem,) = resolved.report.problems
    assert problem.is_warning and problem.line == 6 and "n is a model of a, too" in problem.sentence
    assert read(tmp_path, BACKEND + "[routes.m]\ncandidates = ['a/m']\n").report.problems == []


@pytest.mark.parametrize(
    ("url", "is_told"),
    [
        ("http://llm.example.com/v1", True),
        ("http://198.51.100.1/v1", False),  # a network for documents counts as private
        ("http://8.8.8.8/v1", True),
        ("https://llm.example.com/v1", False),
        ("http://10.0.0.5/v1", False),
        ("http://[::1]:8000/v1", False),
        ("http://vllm:8000/v1", False),
        ("http://vllm.internal/v1", False),
    ],
)
def test_a_key_that_would_be_sent_in_the_clear_is_a_warning(tmp_path: Path, url: str, is_told: bool) -> None:
    text = BACKEND.replace("http://h", url).replace("url", 'secret = "env:K"\nurl', 1)
    problems = read(tmp_path, text).report.problems
    assert [(one.line, one.is_warning) for one in problems] == ([(4, True)] if is_told else [])


def test_tables_are_not_read_from_variables(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match=r"HEADRACE_BACKENDS .* is a table; write it in the settings file"):
        compose({}, {"HOME": "/h", "HEADRACE_BACKENDS": "a"}, write(tmp_path / "a.toml", ""))
