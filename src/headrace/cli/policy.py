"""Policies from their files to a judge, and what `headrace policy` prints. Decides nothing: the judge does.

A set in which anything is wrong is not put in force: at the start that ends the program, at a reload the policies
before stay.
"""

import asyncio
import json as jsonlib
import logging
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any, Final

import msgspec
import typer

from headrace.cli.config import Settings, compose
from headrace.core.clock import Clock, SystemClock
from headrace.core.deciding import PoliciesInForce, ShownPolicy
from headrace.core.errors import InvalidRequest
from headrace.core.policy import Question
from headrace.core.request import Principal
from headrace.core.trust import Decision
from headrace.gateway.oversight.deciding import JudgeDesk
from headrace.gateway.oversight.policy import Left, PolicyOverseer
from headrace.gateway.settings import BackendSettings
from headrace.observe.logs import log_fields
from headrace.trust.policy.decision_log import DecisionLog
from headrace.trust.policy.in_force import JudgeInForce, OwnChecks
from headrace.trust.policy.judge import CANNOT_BE_PUT, CedarJudge
from headrace.trust.policy.rules import Flaw, FlawedPolicies, Rules, hints, read_rules
from headrace.trust.policy.schema import write_schema
from headrace.trust.policy.settings import SETS, PolicyMode, PolicySettings
from headrace.trust.policy.statement import Source

LOGGER: Final = "headrace.policy"
MAX_FILE_BYTES: Final = 16 * 2**20

_logger = logging.getLogger(LOGGER)


def read_sources(settings: PolicySettings) -> list[Source]:
    """The texts of all sets and files. Raises InvalidRequest for a file that is not there."""
    return [*(shipped(name) for name in settings.sets), *(_read(path) for path in settings.files)]


def shipped(name: str) -> Source:
    """A set that ships with the program."""
    text = resources.files("headrace.trust.policy").joinpath("sets", f"{name}.cedar").read_text("utf-8")
    return Source(f"{name}.cedar", text)


def _read(path: Path) -> Source:
    try:
        size = path.stat().st_size
        if size > MAX_FILE_BYTES:
            raise InvalidRequest(f"policy: {path} has {size} bytes; at most {MAX_FILE_BYTES} are read, split it.")
        return Source(str(path), path.read_text("utf-8"))
    except UnicodeDecodeError as error:
        raise InvalidRequest(f"policy: {path} is not UTF-8 ({error.reason}); save it as that.") from error
    except OSError as error:
        raise InvalidRequest(f"policy: {path} cannot be read ({error.strerror or error}); correct [policy].") from error


def read_policies(settings: PolicySettings) -> Rules:
    """All policies of the settings. Raises InvalidRequest with all that is wrong, by file and line."""
    try:
        return read_rules(read_sources(settings))
    except FlawedPolicies as error:
        raise InvalidRequest(f"policy: the policies cannot be used.\n{error}") from error


def build_judge(settings: PolicySettings, clock: Clock) -> CedarJudge:
    """The judge that settings describe. Raises InvalidRequest."""
    return CedarJudge(
        read_policies(settings),
        clock.unix_s,
        is_enforced=settings.mode is not PolicyMode.SHADOW,
        subjects=settings.subjects,
        max_decisions=settings.decisions,
    )


def open_judge(
    settings: PolicySettings, clock: Clock | None = None, own_checks: OwnChecks | None = None
) -> JudgeInForce:
    """The judge that everybody asks, on the running event loop; with the mode `off` nobody asks it about requests, and
    it says what holds for whoever asks nevertheless. Raises InvalidRequest."""
    clock = clock or SystemClock()

    def tell(message: str, fields: Mapping[str, Any]) -> None:
        log_fields(_logger, logging.WARNING, message, fields)

    log = DecisionLog(tell, clock.monotonic_s, asyncio.get_running_loop().call_later)
    return JudgeInForce(build_judge(settings, clock), log, own_checks)


class OpenPolicy:
    """What a running server has of policies."""

    def __init__(
        self, judge: JudgeInForce, backends: Mapping[str, BackendSettings], left: Left | None, mode: PolicyMode
    ) -> None:
        self.judge = judge
        self.overseer = PolicyOverseer(judge, backends, left)
        self.mode = mode
        self.desk = JudgeDesk(judge, self.shown)

    def shown(self) -> PoliciesInForce:
        """What operators see of those in force."""
        judge = self.judge.judge
        assert isinstance(judge, CedarJudge)
        return PoliciesInForce(mode=self.mode.value, policies=shown_policies(judge.rules))

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read everything anew; what is returned puts it in force and cannot fail. Raises InvalidRequest, and then
        nothing has changed."""
        new = build_judge(settings.trust.policy, SystemClock())

        def put_in_force() -> None:
            self.judge.judge = new
            self.overseer.backends = settings.gateway.backends
            self.overseer.is_on = settings.trust.policy.mode is not PolicyMode.OFF
            self.mode = settings.trust.policy.mode

        return put_in_force


def shown_policies(rules: Rules) -> tuple[ShownPolicy, ...]:
    """As operators see them."""
    return tuple(
        ShownPolicy(id=one.id, place=one.place, is_forbid=one.is_forbid, reason=one.reason, text=one.text.strip())
        for one in rules.rules
    )


def open_policy(settings: Settings, left: Left | None = None, own_checks: OwnChecks | None = None) -> OpenPolicy:
    """The policies of a server's settings; `left` tells what is left of a delegation, `own_checks` what its token says
    of tools. Raises InvalidRequest."""
    judge = open_judge(settings.trust.policy, own_checks=own_checks)
    policy = OpenPolicy(judge, settings.gateway.backends, left, settings.trust.policy.mode)
    policy.overseer.is_on = settings.trust.policy.mode is not PolicyMode.OFF
    return policy


def chosen(files: Sequence[Path] | None, sets: Sequence[str] | None, config: Path | None) -> PolicySettings:
    """The settings' policies, or those that were named in their place."""
    if files or sets:
        return PolicySettings(mode=PolicyMode.ENFORCE, files=tuple(files or ()), sets=_known(sets))
    return compose({}, os.environ, config).settings.trust.policy


def _known(sets: Sequence[str] | None) -> tuple[str, ...]:
    for name in sets or ():
        if name not in SETS:
            raise InvalidRequest(f"no set {name!r} ships; known are {', '.join(SETS)}.", param="set")
    return SETS if sets is None else tuple(sets)


def run_check(files: Sequence[Path], *, json: bool) -> None:
    """Say what is wrong with some files, or with those of the settings. Raises InvalidRequest if anything is."""
    settings = PolicySettings(files=tuple(files)) if files else compose({}, os.environ, None).settings.trust.policy
    flaws: list[Flaw] = []
    rules: Rules | None = None
    try:
        rules = read_rules(read_sources(settings))
        flaws += hints(rules)
    except FlawedPolicies as error:
        flaws += error.flaws
    if json:
        told = [{"place": one.place, "sentence": one.sentence, "is_hint": one.is_hint} for one in flaws]
        typer.echo(jsonlib.dumps({"policies": 0 if rules is None else len(rules), "flaws": told}, indent=2))
    else:
        for flaw in flaws:
            typer.echo(str(flaw))
        if rules is not None:
            typer.echo(f"{len(rules)} policies are good, those that ship among them.")
    if rules is None:
        raise typer.Exit(1)


def run_schema() -> None:
    """Print what policies can speak of, in Cedar."""
    typer.echo(write_schema(), nl=False)


def run_show(name: str) -> None:
    """Print a set that ships."""
    _known([name])
    typer.echo(shipped(name).text, nl=False)


def run_explain(question: Question, settings: PolicySettings, *, json: bool) -> None:
    """Say what is decided and why, and which policies would permit it if none forbade it."""
    judge = build_judge(settings, SystemClock())
    decision, errors = judge.explain(question)
    if decision.reason.startswith(CANNOT_BE_PUT):
        raise InvalidRequest(f"policy: {decision.reason}; see `headrace policy schema`.")
    if json:
        typer.echo(jsonlib.dumps({**_told(decision), "errors": list(errors)}, indent=2))
        return
    typer.echo(("allowed" if decision.is_allowed else "denied") + ("" if decision.is_enforced else " (only watched)"))
    for rule in judge.rules.rules:
        if rule.id in decision.policies:
            kind = "forbid" if rule.is_forbid else "permit"
            typer.echo(f"  {kind} {rule.id} ({rule.place}){': ' + rule.reason if rule.reason else ''}")
    if not decision.policies:
        typer.echo(f"  {decision.reason}")
    if not decision.is_allowed:
        permits = CedarJudge(judge.rules.permits(), SystemClock().unix_s, subjects=settings.subjects)
        for one in permits.explain(question)[0].policies:
            typer.echo(f"  permit {one} would permit it, and is outweighed")
    for error in errors:
        typer.echo(f"  could not be evaluated: {error}")


def _told(decision: Decision) -> dict[str, Any]:
    return {
        "action": decision.action,
        "resource": decision.resource,
        "is_allowed": decision.is_allowed,
        "is_enforced": decision.is_enforced,
        "policies": list(decision.policies),
        "reason": decision.reason,
    }


class _Asker(msgspec.Struct, forbid_unknown_fields=True):
    subject: str = "local"
    tenant: str = "local"
    key: str | None = None
    user: str | None = None
    agent: str | None = None
    workload: str | None = None
    scopes: frozenset[str] = frozenset({"generate"})
    tags: tuple[str, ...] = ()
    labels: frozenset[str] = frozenset()


class _Case(msgspec.Struct, forbid_unknown_fields=True):
    """One question and what is to come of it. `policies` None: whichever."""

    name: str
    action: str
    resource: str
    allowed: bool
    policies: tuple[str, ...] | None = None
    principal: _Asker = msgspec.field(default_factory=_Asker)
    attributes: dict[str, Any] = {}
    context: dict[str, Any] = {}


class _Cases(msgspec.Struct, forbid_unknown_fields=True):
    case: list[_Case]


def run_test(path: Path, settings: PolicySettings, *, json: bool) -> None:
    """Ask the questions of a file of cases, TOML or JSON, and compare. Exits with 1 if a decision differs."""
    judge = build_judge(settings, SystemClock())
    results = [_try(judge, case) for case in _read_cases(path)]
    wrong = [one for one in results if one["wrong"]]
    if json:
        typer.echo(jsonlib.dumps({"cases": results, "wrong": len(wrong)}, indent=2))
    else:
        for one in wrong:
            typer.echo(f"{path}: {one['name']}: {one['wrong']}")
        typer.echo(f"{len(results) - len(wrong)} of {len(results)} cases are as expected.")
    if wrong:
        raise typer.Exit(1)


def _read_cases(path: Path) -> list[_Case]:
    text = _read(path).text
    try:
        document = jsonlib.loads(text) if path.suffix == ".json" else tomllib.loads(text)
        return msgspec.convert(document, _Cases).case
    except (ValueError, msgspec.ValidationError) as error:
        raise InvalidRequest(
            f"policy: {path} is no file of cases: {error}; see `headrace policy test --help`."
        ) from error


def _try(judge: CedarJudge, case: _Case) -> dict[str, Any]:
    asker = msgspec.structs.asdict(case.principal)
    question = Question(
        principal=Principal(**asker),
        action=case.action,
        resource=case.resource,
        attributes=plain_values(case.attributes),
        context=plain_values(case.context),
    )
    decision, errors = judge.explain(question)
    deciders = ", ".join(decision.policies) or "no policy"
    wrong = ""
    if decision.reason.startswith(CANNOT_BE_PUT):
        wrong = decision.reason  # whatever was expected: of a misspelt question no denial tells anything
    elif decision.is_allowed != case.allowed:
        wrong = f"is {_word(decision.is_allowed)} by {deciders}, not {_word(case.allowed)}"
        wrong += f" ({decision.reason})" if decision.reason else ""
    elif case.policies is not None and set(case.policies) != set(decision.policies):
        wrong = f"is decided by {deciders}, not {', '.join(case.policies) or 'none'}"
    return {"name": case.name, **_told(decision), "errors": list(errors), "wrong": wrong}


def _word(is_allowed: bool) -> str:
    return "allowed" if is_allowed else "denied"


def plain_values(given: Mapping[str, Any]) -> dict[str, Any]:
    """Values of a document as a question has them: lists are sets of texts."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in given.items()}


def parse_values(given: Iterable[str], option: str) -> dict[str, Any]:
    """`NAME=VALUE` of the command line: a number, true or false, a text, or texts in brackets; else InvalidRequest."""
    values: dict[str, Any] = {}
    for one in given:
        name, separator, text = one.partition("=")
        if not separator or not name:
            raise InvalidRequest(f"{option}: {one!r} is not NAME=VALUE; write for example {option} integrity=1.")
        values[name] = _parse(text)
    return values


def _parse(text: str) -> Any:
    if text in ("true", "false"):
        return text == "true"
    if text.startswith("[") and text.endswith("]"):
        return tuple(filter(None, (one.strip() for one in text[1:-1].split(","))))
    try:
        return int(text)
    except ValueError:
        return text
