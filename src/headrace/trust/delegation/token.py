"""Tokens that delegate: Biscuits (eclipse-biscuit, version 3) made, narrowed and read.

    the first block       signed by a root key of this house: tenant, subject, scopes, bounds, to whom
    every further block   added by whoever holds it, offline, without a key of the house: narrower bounds, to whom

What a token allows is what each of its blocks allows. Reading one checks signatures, shape and revocation; `authorize`
runs all its checks against the facts of a moment. Knows no files and no clock.
"""

import math
import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from biscuit_auth import (
    AuthorizationError,
    AuthorizerBuilder,
    Biscuit,
    BiscuitBlockError,
    BiscuitBuilder,
    BiscuitBuildError,
    BiscuitValidationError,
    BlockBuilder,
    DataLogError,
    KeyPair,
    PrivateKey,
    PublicKey,
    UnverifiedBiscuit,
)

from headrace.trust.delegation.block import BlockText, read_block, write_block
from headrace.trust.delegation.grant import Block, Bounds, Grant, check_names, is_plain
from headrace.trust.delegation.wire import BlockCount, count_blocks

MAX_TOKEN_CHARS: Final = 8192
MAX_BLOCKS: Final = 9
# What running all checks may cost: the sum over queries of the facts they could see, to the power of what they join.
MAX_WORK: Final = 4096
MAX_OPERATIONS: Final = 64
_FACTS_OF_OURS: Final = 16
_ROOT: Final = "root"
RESERVED: Final = frozenset(
    {"tenant", "subject", "scope", "carry", "tag", "user", "priority", "holder", "checks", _ROOT}
)
"""Names of facts that mean something."""

# The signature is the revocation id; one of ECDSA could be turned into another that is as valid.
_ED25519_HEX_DIGITS: Final = 128

_MAX_FACTS: Final = 512
_MAX_ROUNDS: Final = 16
_MAX_TIME: Final = timedelta(milliseconds=50)


class VoidToken(ValueError):
    """A token that delegates nothing here; the text says why, for whoever shows it."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token that was read: its signatures hold. `has_checks`: it has others than those that its bounds stand for."""

    grant: Grant
    biscuit: Any = field(repr=False)
    has_checks: bool = False


@dataclass(frozen=True, slots=True)
class RootKeys:
    """Public keys whose first blocks count, by number. `third_parties` may sign blocks in between (`ed25519/HEX`)."""

    by_id: Mapping[int, Any]
    third_parties: frozenset[str] = frozenset()

    @classmethod
    def of(cls, keys: Iterable[str], third_parties: Iterable[str] = ()) -> "RootKeys":
        """From their texts. Raises ValueError for one that is no key."""
        return cls({key_id(one): read_public_key(one) for one in keys}, frozenset(map(_canonical, third_parties)))

    def find(self, number: int | None) -> Any:
        """The key that a token names. A token that names none is tried with the only one. Raises ValueError."""
        if number is None and len(self.by_id) == 1:
            return next(iter(self.by_id.values()))
        if number is None or number not in self.by_id:
            raise ValueError("no such key")
        return self.by_id[number]


def read_public_key(text: str) -> Any:
    """`ed25519/HEX`. Raises ValueError."""
    if re.fullmatch("ed25519/[0-9a-f]{64}", text):
        try:
            return PublicKey(text)
        except (ValueError, DataLogError, BiscuitValidationError) as error:
            raise ValueError(f"{text!r} is no point of the curve") from error
    raise ValueError(f"{text[:100]!r} is no public key; write ed25519/ and 64 hexadecimal digits")


def _canonical(text: str) -> str:
    return str(repr(read_public_key(text)))


def key_id(public_key: str) -> int:
    """The number by which tokens name a root key: the first four bytes of its digest."""
    return int.from_bytes(sha256(_canonical(public_key).encode()).digest()[:4], "big")


def public_key_of(pem: bytes) -> str:
    """The public key of a private one in PEM (PKCS 8, Ed25519). Raises ValueError."""
    return str(repr(_key_pair(pem).public_key))


def _key_pair(pem: bytes) -> Any:
    try:
        pair = KeyPair.from_private_key(PrivateKey.from_pem(pem.decode("ascii")))  # type: ignore[attr-defined]
    except (ValueError, UnicodeDecodeError, BiscuitValidationError, DataLogError) as error:
        raise ValueError("it is no private key in PEM (PKCS 8, Ed25519)") from error
    if not repr(pair.public_key).startswith("ed25519/"):
        raise ValueError("it is a key of another kind than Ed25519")
    return pair


def make_token(pem: bytes, grant: Grant) -> str:
    """A token with one block: the grant's first. Raises ValueError for what no token can say."""
    (block,) = grant.blocks
    check_names("holder", [block.holder] if block.holder is not None else ())
    check_names("tenant and subject", (grant.tenant, grant.subject))
    check_names("scopes", grant.scopes)
    check_names("labels and tags", (*grant.carries, *grant.tags))
    check_names("user", () if grant.user is None else (grant.user,))
    check_names("facts", (*grant.facts, *grant.facts.values()))
    lines = [f'tenant("{grant.tenant}");', f'subject("{grant.subject}");']
    lines += [f'scope("{one}");' for one in sorted(grant.scopes)]
    lines += [f'carry("{one}");' for one in sorted(grant.carries)]
    lines += [f'tag("{one}");' for one in grant.tags]
    lines += [] if grant.user is None else [f'user("{grant.user}");']
    lines += [f'priority("{grant.priority}");'] if grant.priority else []
    lines += [f'{name}("{value}");' for name, value in grant.facts.items()]
    pair = _key_pair(pem)
    # Whoever narrows it needs the key to read it. Nobody trusts the key because it stands here.
    lines.append(f'{_ROOT}("{pair.public_key!r}");')
    builder = BiscuitBuilder("\n".join([*lines, write_block(block.bounds, block.holder)]))
    builder.set_root_key_id(key_id(repr(pair.public_key)))
    return str(builder.build(pair.private_key).to_base64())


def narrow_token(token: str, bounds: Bounds, holder: str | None) -> str:
    """The same with one more block. Needs no secret, and tells nobody. Raises ValueError for what no block can say, and
    for what is no token."""
    check_names("holder", [holder] if holder is not None else ())
    if bounds.is_empty and holder is None:
        raise ValueError("nothing is narrowed and nobody is named; give a bound or a holder")
    try:
        unverified = UnverifiedBiscuit.from_base64(token)
        (root,) = read_block(unverified.block_source(0), is_authority=True).facts.get(_ROOT, ("",))
        narrowed = unverified.append(BlockBuilder(write_block(bounds, holder)))
        return str(narrowed.verify(read_public_key(root)).to_base64())
    except (BiscuitValidationError, BiscuitBuildError, BiscuitBlockError, DataLogError, ValueError) as error:
        raise ValueError("it is no token that can be narrowed") from error


def describe_token(text: str) -> dict[str, Any]:
    """What a token says, whoever signed it: its blocks, each with its revocation id. Raises ValueError."""
    try:
        unverified = UnverifiedBiscuit.from_base64(text)
    except (BiscuitValidationError, ValueError) as error:
        raise ValueError("it is no token") from error
    blocks = [
        {"id": one, "source": unverified.block_source(index).strip()}
        for index, one in enumerate(unverified.revocation_ids)
    ]
    return {"blocks": blocks}


def read_token(text: str, keys: RootKeys, revoked: Collection[str] = ()) -> Token:
    """A token whose signatures hold, and of which no block is revoked. Its checks were not run. Raises VoidToken."""
    if len(text) > MAX_TOKEN_CHARS:
        raise VoidToken(f"the delegation has {len(text)} characters; at most {MAX_TOKEN_CHARS} are read")
    try:
        biscuit = Biscuit.from_base64(text, keys.find)
    except (BiscuitValidationError, ValueError) as error:
        raise VoidToken("the delegation is no token that was signed here") from error
    try:
        _check_ids(biscuit.revocation_ids)
        _check_size(count_blocks(bytes(biscuit.to_bytes())))
        blocks = [_read(biscuit, index, keys) for index in range(biscuit.block_count())]
        grant = _grant(blocks, tuple(biscuit.revocation_ids))
    except ValueError as error:
        raise VoidToken(f"the delegation is void: {error}") from error
    if any(one in revoked for one in biscuit.revocation_ids):
        raise VoidToken("the delegation was revoked")
    return Token(grant, biscuit, any(one.has_checks for one in blocks))


def _check_ids(revocation_ids: Iterable[str]) -> None:
    if any(len(one) != _ED25519_HEX_DIGITS for one in revocation_ids):
        raise ValueError("a block of it is signed with another kind of key than Ed25519")


def _check_size(counts: tuple[BlockCount, ...]) -> None:
    """Raise ValueError for blocks that take too long to run, or that cannot be read back without doubt."""
    if len(counts) > MAX_BLOCKS:
        raise ValueError(f"it has {len(counts)} blocks; at most {MAX_BLOCKS} are read")
    num_facts = _FACTS_OF_OURS + sum(one.num_facts for one in counts)
    work = sum(one.num_queries * num_facts**one.widest for one in counts)
    if any(one.num_rules or one.has_closures for one in counts) or work > MAX_WORK:
        raise ValueError("its checks could take too long; bounds need no rules, no closures and no joins")
    if any(one.num_operations > MAX_OPERATIONS for one in counts):
        raise ValueError("a check of it is too long")
    if not all(is_plain(text) for one in counts for text in one.symbols if text):
        raise ValueError("a text of it has quotes, backslashes or control characters")


def _read(biscuit: Any, index: int, keys: RootKeys) -> BlockText:
    signer = biscuit.block_external_key(index)
    if signer is not None and repr(signer) not in keys.third_parties:
        raise ValueError("a block of it is signed by somebody whom nobody here knows")
    return read_block(biscuit.block_source(index), is_authority=index == 0)


def _blocks(blocks: Iterable[BlockText], revocation_ids: Iterable[str]) -> Iterator[Block]:
    until_s = math.inf
    for one, revocation_id in zip(blocks, revocation_ids, strict=True):
        # Other tokens may be made of the same beginning: only what stands in it ends them all.
        until_s = until_s if one.bounds.expires_s is None else min(until_s, one.bounds.expires_s)
        yield Block(revocation_id=revocation_id, bounds=one.bounds, holder=one.holder, until_s=until_s)


def _grant(blocks: list[BlockText], revocation_ids: tuple[str, ...]) -> Grant:
    first = blocks[0]
    facts = dict(first.facts)
    facts.pop(_ROOT, None)
    tenant, subject, scopes = facts.pop("tenant", ()), facts.pop("subject", ()), facts.pop("scope", ())
    carries, tags, user = facts.pop("carry", ()), facts.pop("tag", ()), facts.pop("user", ())
    priority = facts.pop("priority", ("0",))
    if len(tenant) != 1 or len(subject) != 1 or len(user) > 1 or len(priority) != 1:
        raise ValueError("its first block does not say whose it is")
    grant = Grant(
        tenant=tenant[0],
        subject=subject[0],
        scopes=frozenset(scopes),
        carries=frozenset(carries),
        tags=tags,
        user=user[0] if user else None,
        priority=int(priority[0]),
        facts={name: values[0] for name, values in facts.items()},
        blocks=tuple(_blocks(blocks, revocation_ids)),
    )
    if grant.depth_left is not None and grant.depth_left < 0:
        raise ValueError("it was handed on more often than it allows")
    return grant


@dataclass(frozen=True, slots=True, kw_only=True)
class Moment:
    """What a token's checks can see. `operation` is call (anything over HTTP), request (of a model) or tool."""

    operation: str
    unix_s: float
    model: str | None = None
    tool: str | None = None
    effect: str | None = None
    labels: frozenset[str] = frozenset()


def authorize(token: Token, moment: Moment) -> str | None:
    """Run all checks of a token against a moment. Why it does not allow it, None if it does."""
    facts = ["time({time}); operation({operation}); tenant({tenant}); holder({holder}); subject({subject});"]
    values: dict[str, Any] = {
        "time": datetime.fromtimestamp(int(moment.unix_s), UTC),
        "operation": moment.operation,
        "tenant": token.grant.tenant,
        "holder": token.grant.holder,
        "subject": token.grant.subject,
    }
    for name in ("model", "tool", "effect"):
        if (value := getattr(moment, name)) is not None:
            facts.append(f"{name}({{{name}}});")
            values[name] = value
    for index, label in enumerate(sorted(moment.labels)):
        facts.append(f"label({{label_{index}}});")
        values[f"label_{index}"] = label
    builder = AuthorizerBuilder("".join([*facts, "allow if true;"]), values)
    limits = builder.limits()  # type: ignore[attr-defined]  # the library's stubs leave it out
    limits.max_facts, limits.max_iterations, limits.max_time = _MAX_FACTS, _MAX_ROUNDS, _MAX_TIME
    builder.set_limits(limits)  # type: ignore[attr-defined]
    try:
        builder.build(token.biscuit).authorize()
    except (AuthorizationError, BiscuitValidationError) as error:
        return f"the delegation does not allow it: {str(error)[:300]}"
    return None
