"""What settings name outside their file, looked at before anything starts: secrets, certificates, models, keys.

Everything that is missing is said where the file names it. Knows the environment by what it is given.
"""

import contextlib
import difflib
import ssl
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final

from headrace.cli.config import Resolved, Settings
from headrace.cli.gateway_checks import check_gateway, is_near
from headrace.cli.key_source import keys_in_force
from headrace.cli.keys import load_keys
from headrace.cli.kinds import Problem, Spot
from headrace.cli.secret_text import SecretText, read_secrets, secret_places
from headrace.cli.served_models import served_names
from headrace.core.clock import SystemClock
from headrace.core.errors import HeadraceError
from headrace.gateway.settings import Secret
from headrace.server.config import is_loopback
from headrace.server.tls import open_tls
from headrace.trust.policy.settings import PolicyMode
from headrace.trust.settings import TrustSettings
from headrace.trust.supply.settings import Mode as SignatureMode

_TYPED: Final = {"from the command line": "the command line", "from the environment": "the environment"}
"""Where a setting was written that was in no file, by what `compose` says of its origin."""

MIN_KEY_CHARS: Final = 20
"""Keys are hashed once, which is enough for what nobody can guess."""


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What was found. `secrets` by their places."""

    secrets: Mapping[Secret, SecretText]
    tls: ssl.SSLContext | None


def look_around(resolved: Resolved, environ: Mapping[str, str]) -> Surroundings:
    """Everything that the settings name. Raises WrongSettings with all that is missing."""
    report, settings = resolved.report, resolved.settings
    spot = Spot(report)
    secrets = read_secrets(secret_places(settings), environ, spot)
    tls = None
    if settings.tls is not None and settings.tls.identity is None:
        try:
            tls = open_tls(settings.tls)
        except HeadraceError as error:
            spot.at("tls", error.param or "").say(error.message)
    _check_backend_files(settings, spot)
    _check_keys(settings, secrets, spot)
    _check_holders(settings, spot)
    _check_models(resolved, spot)
    _check_callers(settings, spot)
    _check_policies(settings, spot)
    _check_files_of_trust(settings, spot)
    _check_traces(settings, spot)
    report.end()
    return Surroundings(secrets, tls)


def _check_backend_files(settings: Settings, spot: Spot) -> None:
    """Certificates that connections to backends are opened with."""
    for name, backend in settings.gateway.backends.items():
        if backend.ca_file is None and backend.client_certificate is None:
            continue
        # Imported here because it takes a moment, and most backends have no files.
        from headrace.gateway.upstreams.security import BackendSecurity
        from headrace.gateway.workloads.source import NoSource

        try:
            BackendSecurity(backend, NoSource(), SystemClock())
        except ValueError as error:
            key, _, sentence = str(error).partition(": ")
            spot.at("backends", name, key).say(sentence)


def _check_keys(settings: Settings, secrets: Mapping[Secret, SecretText], spot: Spot) -> None:
    names: set[str] = set()
    seen: dict[str, str] = {}
    for index, key in enumerate(settings.issued):
        secret = None if key.secret is None else secrets.get(key.secret)
        digest = key.sha256 if secret is None else secret.sha256()
        at = spot.at("keys", index)
        if secret is not None and len(secret.reveal()) < MIN_KEY_CHARS:
            at.at("secret").say(
                f"the key at {secret.place} is shorter than {MIN_KEY_CHARS} characters and may be guessed.",
                is_warning=True,
            )
        if key.name in names:
            at.at("name").say(f"there are two keys with the name {key.name}; give each a name of its own.")
        elif digest is not None and digest in seen:
            at.say(f"{key.name} and {seen[digest]} are the same key; take one of them out.")
        names.add(key.name)
        seen[digest or f"unknown {index}"] = key.name


def _check_holders(settings: Settings, spot: Spot) -> None:
    """Warn of a rule that holds for nobody because of one wrong letter. Keys may be issued at any time, so a name that
    is like none that is there is no mistake."""
    known = {"key": {one.name for one in settings.issued}, "tenant": {one.tenant for one in settings.issued}}
    with contextlib.suppress(HeadraceError):  # a wrong keys file is told where keys are read
        path = keys_in_force(settings)
        for entry in () if path is None else load_keys(path):
            known["key"].add(entry.name)
            known["tenant"].add(entry.tenant)
    gateway = settings.gateway
    named = [("tenant", tenant, spot.at("tenants", tenant)) for tenant in gateway.tenants]
    subjects = [("budgets", index, rule.subject) for index, rule in enumerate(gateway.budgets)]
    subjects += [("limits", index, rule.subject) for index, rule in enumerate(gateway.limits)]
    named += [(one.kind, one.name, spot.at(table, index, "subject")) for table, index, one in subjects]
    named += [
        ("key", name.removeprefix("key:"), spot.at("policy", "subjects", name))
        for name in settings.trust.policy.subjects
        if name.startswith("key:")
    ]
    for kind, name, at in named:
        others = known.get(kind, set())
        if name not in others and (near := difflib.get_close_matches(name, others, n=1, cutoff=0.75)):
            at.say(f"no key of now is {kind}:{name}, so it holds for nobody; did you mean {near[0]}?", is_warning=True)


def _check_callers(settings: Settings, spot: Spot) -> None:
    """Proofs and signatures are for a URL: without a name of its own the server would take none of them."""
    identity = settings.trust.identity
    bound = [("issuers", name) for name, one in identity.issuers.items() if one.dpop == "required"]
    bound += [("signers", name) for name in identity.signers]
    if not bound or settings.allowed_hosts or (is_loopback(settings.host) and not settings.trusted_proxies):
        return
    table, name = bound[0]
    spot.at("identity", table, name).say(
        "is for requests to a name of this server, and it has none beyond this machine's; "
        'give some: allowed_hosts = ["llm.example.com"].'
    )


def _check_traces(settings: Settings, spot: Spot) -> None:
    traces = settings.traces
    if traces.secret is not None and traces.endpoint.startswith("http://") and not is_near(traces.endpoint):
        spot.at("traces", "endpoint").say(
            f"{traces.endpoint} is not https, so the collector's key and every span are sent in the clear.",
            is_warning=True,
        )


def _check_policies(settings: Settings, spot: Spot) -> None:
    if settings.trust.policy.mode is PolicyMode.OFF:
        return
    # Imported here because the library of policies takes a moment.
    from headrace.cli.policy import read_policies

    try:
        read_policies(settings.trust.policy)
    except HeadraceError as error:
        spot.at("policy", "files").say(error.message)


def _check_files_of_trust(settings: Settings, spot: Spot) -> None:
    """Keys and bundles that each part reads by itself when it starts: what is wrong with one is told here already."""
    for place, read in _files_of_trust(settings.trust):
        try:
            read()
        except HeadraceError as error:
            spot.at(*place).say(error.message.partition(": ")[2])  # the place stands before it


def _files_of_trust(trust: TrustSettings) -> Iterator[tuple[tuple[str, ...], Callable[[], object]]]:
    # Imported part by part because each takes a moment, and a file has few of them.
    if trust.identity.names_callers:
        from headrace.cli.identity import open_signer, read_issuer

        for signer in trust.identity.signers.values():
            yield ("identity", "signers", signer.name, "key"), partial(open_signer, signer)
        for issuer in trust.identity.issuers.values():
            yield ("identity", "issuers", issuer.name, "jwks"), partial(read_issuer, issuer)
    if trust.answer_signatures is not None:
        from headrace.cli.identity import open_answer_signer

        yield ("answer_signatures", "key"), partial(open_answer_signer, trust.answer_signatures)
    if trust.spiffe.federated:
        from headrace.cli.spiffe import read_federated

        for trust_domain, path in trust.spiffe.federated.items():
            yield ("spiffe", "federated", trust_domain), partial(_exhaust, read_federated({trust_domain: path}))
    if trust.model_signatures.mode is not SignatureMode.OFF:
        from headrace.cli.model_signatures import read_trusted

        yield ("model_signatures",), partial(read_trusted, trust.model_signatures)
    if trust.delegation is not None and trust.delegation.key is not None:
        from headrace.cli.delegation import load_key

        yield ("delegation", "key"), partial(load_key, trust.delegation.key, makes_one=False)
    if trust.records.node_key is not None and trust.records.key_scheme in (None, "file2"):
        from headrace.cli.node_signer import named_file

        yield ("records", "node_key"), partial(named_file, trust.records.node_key)


def _exhaust(values: Iterable[object]) -> None:
    for _ in values:
        pass


def _check_models(resolved: Resolved, spot: Spot) -> None:
    settings = resolved.settings
    if not settings.has_engine:
        return
    try:
        served = served_names(settings)
    except HeadraceError as error:
        origin = resolved.origins["model"]
        if origin in _TYPED:
            # A file has nothing to do with it, and need not be there.
            problem = Problem(file=_TYPED[origin], line=None, key="model", sentence=error.message)
            spot.report.problems.append(problem)
        else:
            spot.at("model").say(error.message)
        return
    check_gateway(settings.gateway, spot, served=served)
