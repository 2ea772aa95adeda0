"""Delegations on the command line and in a running server: the root key's file, tokens made, narrowed and taken back.

Decides nothing: what a token says, and whether it holds, is `trust/delegation`'s.
"""

import json as jsonlib
import os
import re
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from headrace.cli.config import Settings, compose
from headrace.cli.recorded import recorded
from headrace.cli.residents import Server
from headrace.core.clock import SystemClock
from headrace.core.errors import InvalidRequest
from headrace.core.policy import Question
from headrace.core.request import SCOPES, Principal
from headrace.core.trust import Delegation, Effect
from headrace.gateway.oversight.delegating import DelegationKeeper
from headrace.gateway.oversight.delegation import DelegationOverseer
from headrace.memory import delegations as rows
from headrace.memory.database import Database
from headrace.memory.store import Store
from headrace.models.store import Layout, open_home
from headrace.trust.delegation.authenticator import DelegationAuthenticator
from headrace.trust.delegation.desk import DelegationDesk, Rules
from headrace.trust.delegation.grant import Block, Bounds, Grant
from headrace.trust.delegation.settings import DelegationSettings
from headrace.trust.delegation.token import (
    RESERVED,
    RootKeys,
    VoidToken,
    describe_token,
    make_token,
    narrow_token,
    public_key_of,
    read_token,
)
from headrace.trust.flow.settings import Mode as FlowMode

NANOS: Final = 10**9
_GRANTERS: Final = ("key:", "user:", "spiffe://")
"""How whoever grants something is named. Without one of these a key's name would be nobody's, and the token go on when
the key is taken back."""


@dataclass(frozen=True, slots=True)
class OpenDelegation:
    """What a running server has of delegations."""

    desk: DelegationDesk
    overseer: DelegationOverseer
    authenticator: DelegationAuthenticator
    keeper: DelegationKeeper
    layout: Layout

    def left(self, delegation: Delegation) -> Mapping[str, int]:
        """What is left of a delegation's budget, as policies see it."""
        return self.desk.budgets.left(self.desk.blocks(delegation))

    def refuses_tool(self, question: Question) -> str | None:
        """See `DelegationDesk`."""
        return self.desk.refuses_tool(question, time.time())

    def prepare(self, settings: Settings) -> Callable[[], None]:
        """Read keys and revocations anew; what is returned puts them in force. Raises HeadraceError."""
        rules = _rules(settings.trust.delegation or DelegationSettings(), self.layout)

        def put_in_force() -> None:
            # What was revoked meanwhile stays so.
            revoked = rules.revoked | self.desk.rules.revoked
            self.desk.replace(Rules(rules.keys, rules.max_age_s, revoked))
            self.overseer.has_guard = settings.trust.flow.mode is FlowMode.ENFORCE

        return put_in_force


@asynccontextmanager
async def open_delegation(
    settings: DelegationSettings, layout: Layout, granter: Callable[[str], Principal | None], *, has_guard: bool
) -> AsyncIterator[OpenDelegation]:
    """Delegations of a server, for as long as the block runs; `has_guard` as in `DelegationOverseer`. Raises
    HeadraceError."""
    clock = SystemClock()
    rules = _rules(settings, layout)
    store = Store(layout.delegations, rows.MIGRATIONS)
    await store.open()
    try:
        keeper = DelegationKeeper(store, clock, _signer(settings, layout))
        budgets, _ = await keeper.open()
        desk = DelegationDesk(rules, granter, budgets)
        keeper.attach(desk)
        try:
            overseer = DelegationOverseer(desk, keeper.note_change, has_guard=has_guard)
            yield OpenDelegation(desk, overseer, DelegationAuthenticator(desk), keeper, layout)
        finally:
            await keeper.close()
    finally:
        await store.close()


def _rules(settings: DelegationSettings, layout: Layout) -> Rules:
    own = _public(settings, layout)
    with Database(layout.delegations, rows.MIGRATIONS) as database:
        revoked = database.read(rows.read_revocations)
    keys = RootKeys.of((*([own] if own else []), *settings.trusted), settings.third_parties)
    return Rules(keys, settings.max_age_s, frozenset(revoked))


def _signer(settings: DelegationSettings, layout: Layout) -> Callable[[Grant], str] | None:
    """Makes tokens with the root key of this house, if it has one."""
    path = _key_path(settings, layout)
    return partial(make_token, load_key(path, makes_one=False)) if path.exists() else None


def _key_path(settings: DelegationSettings, layout: Layout) -> Path:
    return settings.key or layout.delegation_key


def _public(settings: DelegationSettings, layout: Layout) -> str:
    """This house's own public key. Without other keys one is made: else no token could ever hold."""
    path = _key_path(settings, layout)
    if not path.exists() and settings.key is None and settings.trusted:
        return ""
    return public_key_of(load_key(path, makes_one=settings.key is None))


def load_key(path: Path, *, makes_one: bool) -> bytes:
    """The private root key in PEM; `makes_one`: if there is no file. Raises InvalidRequest for one that others may
    read."""
    try:
        if makes_one and not path.exists():
            _make_key(path)
        if path.stat().st_mode & 0o077:
            raise InvalidRequest(f"delegation: others may read {path}, the key that grants everything; chmod 600 it.")
        pem = path.read_bytes()
        public_key_of(pem)
    except OSError as error:
        raise InvalidRequest(f"delegation: {path} cannot be read ({error.strerror or error}).") from error
    except ValueError as error:
        raise InvalidRequest(f"delegation: {path} cannot be used: {error}.") from error
    return pem


def _make_key(path: Path) -> None:
    pem = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return  # another process was quicker
    with os.fdopen(descriptor, "wb") as file:
        file.write(pem)
        file.flush()
        os.fsync(file.fileno())


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """Bounds as they are typed. `seconds` is how long it is to hold, `cost` in the unit of the prices."""

    models: Sequence[str] | None = None
    tools: Sequence[str] | None = None
    effects: Sequence[str] | None = None
    labels: Sequence[str] | None = None
    cost: float | None = None
    calls: int | None = None
    depth: int | None = None
    seconds: float | None = None

    def bounds(self, now_s: float) -> Bounds:
        """As a block has them. Raises InvalidRequest."""
        try:
            return Bounds(
                models=_set(self.models),
                tools=_set(self.tools),
                effects=None if not self.effects else frozenset(map(_effect, self.effects)),
                labels=_set(self.labels),
                max_cost_nanos=None if self.cost is None else round(self.cost * NANOS),
                max_calls=self.calls,
                max_depth=self.depth,
                expires_s=None if self.seconds is None else float(int(now_s + self.seconds)),
            )
        except ValueError as error:
            raise InvalidRequest(f"delegation: {error}.") from error


def _set(names: Iterable[str] | None) -> frozenset[str] | None:
    """None: not bounded. `none` alone: nothing."""
    if not names:
        return None
    listed = frozenset(names)
    return frozenset() if listed == {"none"} else listed


def _effect(word: str) -> Effect:
    if word.upper() not in Effect.__members__:
        raise ValueError(f"effect: {word!r} is none; there are read, write and egress")
    return Effect[word.upper()]


def _place(flags: Mapping[str, Any], config: Path | None) -> tuple[DelegationSettings, Layout]:
    settings = compose(flags, os.environ, config).settings
    return settings.trust.delegation or DelegationSettings(), open_home(settings.home)


@dataclass(frozen=True, slots=True, kw_only=True)
class Granting:
    """Who grants what to whom."""

    subject: str
    tenant: str
    holder: str
    scopes: Sequence[str]
    facts: Mapping[str, str]
    wish: Wish


def run_grant(granting: Granting, flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Print a token of this house's root key. Raises InvalidRequest."""
    settings, layout = _place(flags, config)
    for scope in granting.scopes:
        if scope not in SCOPES:
            raise InvalidRequest(f"scope: {scope!r} is none; known are {', '.join(SCOPES)}.", param="scope")
    if not granting.subject.startswith(_GRANTERS):
        raise InvalidRequest(
            f"subject: {granting.subject!r} names nobody; write key:NAME, user:ISSUER#ID or a SPIFFE ID.",
            param="subject",
        )
    if granting.wish.seconds is not None and granting.wish.seconds > settings.max_age_s:
        raise InvalidRequest(
            f"for: {granting.wish.seconds:.0f} s is longer than servers take a token for, {settings.max_age_s:.0f} s; "
            "give less, or raise delegation.max_age.",
            param="for",
        )
    pem = load_key(_key_path(settings, layout), makes_one=settings.key is None)
    now_s = time.time()
    block = Block(revocation_id="", holder=granting.holder, bounds=granting.wish.bounds(now_s))
    grant = Grant(
        tenant=granting.tenant,
        subject=granting.subject,
        scopes=frozenset(granting.scopes),
        facts=granting.facts,
        blocks=(block,),
    )
    try:
        token = make_token(pem, grant)
    except ValueError as error:
        raise InvalidRequest(f"delegation: {error}.") from error
    _print_token(token, json=json)


def run_attenuate(token: str, holder: str | None, wish: Wish, *, json: bool) -> None:
    """Print a token with one more block. Asks nobody. Raises InvalidRequest."""
    try:
        narrowed = narrow_token(_text_of(token), wish.bounds(time.time()), holder)
    except ValueError as error:
        raise InvalidRequest(f"delegation: {error}.") from error
    _print_token(narrowed, json=json)


def run_inspect(token: str, keys: Sequence[str], flags: Mapping[str, Any], config: Path | None, *, json: bool) -> None:
    """Print what a token says, and whether it holds here. Exits with 1 if it does not."""
    text = _text_of(token)
    settings, layout = _place(flags, config)
    rules = _rules(settings, layout)
    try:
        roots = RootKeys.of(keys, settings.third_parties) if keys else rules.keys
        told = describe_token(text)
    except ValueError as error:
        raise InvalidRequest(f"delegation: {error}.") from error
    why = ""
    try:
        grant = read_token(text, roots, rules.revoked).grant
        told |= _told(grant)
        why = _untimely(grant.bounds.expires_s, settings.max_age_s, time.time())
    except VoidToken as error:
        why = str(error)
    told["holds"], told["why"] = not why, why
    if json:
        typer.echo(jsonlib.dumps(told, indent=2))
    else:
        typer.echo("holds" if not why else f"does not hold: {why}")
        for index, block in enumerate(told["blocks"]):
            typer.echo(f"\nblock {index}, {block['id']}")
            typer.echo("".join(f"  {line}\n" for line in block["source"].splitlines()), nl=False)
    if why:
        raise typer.Exit(1)


def _untimely(expires_s: float | None, max_age_s: float, now_s: float) -> str:
    """Why the end of a token is none that holds here; empty if it is one."""
    if expires_s is None or expires_s - now_s > max_age_s:
        return f"the delegation must end within {max_age_s:.0f} s"
    return "the delegation has ended" if now_s >= expires_s else ""


def _told(grant: Grant) -> dict[str, Any]:
    bounds = grant.bounds
    sets = {
        name: None if (found := getattr(bounds, name)) is None else sorted(found)
        for name in ("models", "tools", "labels")
    }
    return {
        "tenant": grant.tenant,
        "chain": list(grant.chain),
        "scopes": sorted(grant.scopes),
        "facts": dict(grant.facts),
        **sets,
        "effects": None if bounds.effects is None else sorted(one.name.lower() for one in bounds.effects),
        "max_cost_nanos": bounds.max_cost_nanos,
        "max_calls": bounds.max_calls,
        "max_depth": bounds.max_depth,
        "expires": None if bounds.expires_s is None else datetime.fromtimestamp(bounds.expires_s, UTC).isoformat(),
    }


def run_revoke(ids: Sequence[str], reason: str, flags: Mapping[str, Any], config: Path | None) -> None:
    """Write down that blocks are void. Raises InvalidRequest, Unavailable."""
    _, layout = _place(flags, config)
    for one in ids:
        if len(one) != 128 or not set(one) <= set("0123456789abcdef"):
            raise InvalidRequest(
                f"id: {one[:40]!r} is no id of a block; `headrace delegate inspect TOKEN` tells them.", param="id"
            )
    with (
        recorded(layout.home, "delegate revoke", ids[0] if ids else "", {"ids": list(ids), "reason": reason}),
        Database(layout.delegations, rows.MIGRATIONS) as database,
    ):
        database.transact_durably(rows.revoke, list(ids), time.time(), reason)
    typer.echo(f"revoked: {len(ids)}. A running server knows after SIGHUP, or POST /v1/gateway/reload.")


def run_revoke_there(ids: Sequence[str], reason: str, server: Server) -> None:
    """Have a running server take delegations back. Raises HeadraceError."""
    server.ask("/v1/delegations/revoked", {"ids": list(ids), "reason": reason})
    typer.echo(f"revoked: {len(ids)}.")


def parse_time(text: str) -> float:
    """Seconds of a text such as 90s, 15m, 8h, 7d. Raises InvalidRequest."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text)
    if found is None:
        raise InvalidRequest(f"for: {text!r} is no time; write for example 90s, 15m, 8h or 7d.", param="for")
    return float(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86_400}[found[2]]


def parse_facts(given: Iterable[str]) -> dict[str, str]:
    """NAME=TEXT. Raises InvalidRequest."""
    facts = {}
    for one in given:
        name, separator, text = one.partition("=")
        if not separator or not re.fullmatch("[a-z][a-z0-9_]{0,63}", name) or name in RESERVED:
            raise InvalidRequest(f"fact: {one!r} is no NAME=TEXT, or the name means something else.", param="fact")
        facts[name] = text
    return facts


def run_key(flags: Mapping[str, Any], config: Path | None) -> None:
    """Print this house's public root key."""
    settings, layout = _place(flags, config)
    typer.echo(public_key_of(load_key(_key_path(settings, layout), makes_one=settings.key is None)))


def _text_of(token: str) -> str:
    return (sys.stdin.read() if token == "-" else token).strip()  # noqa: S105 - a file's name


def _print_token(token: str, *, json: bool) -> None:
    if json:
        typer.echo(jsonlib.dumps({"token": token, "blocks": describe_token(token)["blocks"]}, indent=2))
    else:
        typer.echo(token)
