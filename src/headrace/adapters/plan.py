"""The adapted plan: a model's forward pass with room for adapters, over the same packed matrices; and where they go.

Derived from the recorded plan, so that no model file knows of adapters: every product but the one that gives the logits
is followed by an ADAPT op, and a gated product becomes product, ADAPT and activation, because what an adapter adds
comes before the non-linearity. For rows without an adapter both plans compute the same bits.

Also finds the `Target` of each checkpoint tensor that an adapter may change: the matrix that holds it and the outputs
that are its. Knows roles (q, k, v, o, gate, up, down, and the fused qkv and gate_up of some families) and layers; no
file format and no values.
"""

import itertools
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from headrace.kernels.low_rank import BLOCK
from headrace.kernels.plan import GROUP, Buffer, BufferKind, MatrixSpec, Op, OpKind, Plan, RopeStyle
from headrace.models.family import FUSED, ROLES

TARGET_ROLES = ("q", "k", "v", "o", "gate", "up", "down")
"""Linear layers that an adapter may change, in the words of `models.family.ROLES`."""

FUSED_ROLES = ("qkv", "o", "gate_up", "down")
"""The same of families that keep several in one tensor (Phi-3), in the words of `models.family.FUSED`."""


@dataclass(frozen=True, slots=True)
class Heads:
    """How a target's outputs are rotated: in which style, and how many features a head has."""

    style: RopeStyle
    head_dim: int
    rotary_dim: int


@dataclass(frozen=True, slots=True)
class Target:
    """A linear layer within a plan's matrix: its own size, its first output there, and how its blocks of 32 follow.

    `halves`: where its upper and its lower half went, if they are not together.
    """

    matrix: int
    rows: int
    cols: int
    offset: int
    block_step: int = BLOCK
    heads: Heads | None = None
    halves: "tuple[Target, Target] | None" = None

    @property
    def pieces(self) -> "tuple[Target, ...]":
        """What follows each other in the matrix: itself, or its halves."""
        return self.halves or (self,)


def adapted(plan: Plan) -> Plan:
    """The same pass with an ADAPT op after every product but the last."""
    buffers = list(plan.buffers)
    ops: list[Op] = []
    for op in plan.ops:
        if op.kind is OpKind.LINEAR:
            x, matrix, _, out, _ = op.ints
            ops.append(op)
            if out != plan.output:
                ops.append(Op(OpKind.ADAPT, (x, matrix, out), ()))
        elif op.kind is OpKind.GATED:
            x, matrix, out, activation = op.ints
            both = _wide_buffer(buffers, plan.matrices[matrix].rows, buffers[out])
            ops.append(Op(OpKind.LINEAR, (x, matrix, -1, both.index, 0), ()))
            ops.append(Op(OpKind.ADAPT, (x, matrix, both.index), ()))
            ops.append(Op(OpKind.ACTIVATE, (both.index, out, activation), ()))
        else:
            ops.append(op)
    return replace(plan, buffers=tuple(buffers), ops=tuple(ops))


def _wide_buffer(buffers: list[Buffer], width: int, out: Buffer) -> Buffer:
    """Where gates and ups of a gated product wait, shared by all layers."""
    name = f"gates and ups {width} {out.rows.name}"
    for known in buffers:
        if known.name == name:
            return known
    buffers.append(Buffer(len(buffers), name, BufferKind.F32, width, out.rows))
    return buffers[-1]


def targets(plan: Plan) -> Mapping[tuple[int, str], Target]:
    """The linear layers of a recorded plan that adapters may change, by layer and role; none of an encoder's."""
    if plan.is_whole:  # an encoder's products read rotated activations, which no adapter is made for
        return {}
    roles = tensor_roles(is_fused=any(spec.layout == "halves" for spec in plan.matrices))
    found: dict[tuple[int, str], Target] = {}
    for place, op in enumerate(plan.ops):
        if op.kind is OpKind.LINEAR and op.ints[3] != plan.output:
            spec, out = plan.matrices[op.ints[1]], op.ints[3]
            placed = _stacked(plan, place, spec, out)
        elif op.kind is OpKind.GATED:
            spec = plan.matrices[op.ints[1]]
            rows = _width_read(plan, place, op.ints[2])
            gate, up = (Target(spec.index, rows, spec.cols, GROUP * part, 2 * GROUP) for part in range(2))
            placed = [gate, up]
            if spec.layout == "halves":
                placed = [Target(spec.index, 2 * rows, spec.cols, 0, halves=(gate, up))]
        else:
            continue
        for part, target in zip(spec.parts, placed, strict=True):
            place_of_part = roles(part)
            if place_of_part is not None:
                found[place_of_part] = target
    return found


def tensor_roles(*, is_fused: bool = False) -> Callable[[str], tuple[int, str] | None]:
    """A function from a tensor's name, in either format's words, to its layer and role; None: not for adapters.

    `is_fused`: in the words of families that keep several layers in one tensor; GGUF files call one of them `ffn_up`.
    """
    patterns = []
    for form, split in ROLES.items():
        names = {**split, **FUSED[form]}
        prefix = r"(?:model\.)?" if form == "safetensors" else ""  # missing where a model was saved without its head
        for role in FUSED_ROLES if is_fused else TARGET_ROLES:
            before, after = names[role].removeprefix("model.").split("{}")
            patterns.append((role, re.compile(f"{prefix}{re.escape(before)}(0|[1-9][0-9]{{0,3}}){re.escape(after)}")))

    def find(name: str) -> tuple[int, str] | None:
        for role, pattern in patterns:
            match = pattern.fullmatch(name)
            if match is not None:
                return int(match[1]), role
        return None

    return find


def _stacked(plan: Plan, place: int, spec: MatrixSpec, out: int) -> list[Target]:
    """Targets of a product at `place`: one tensor, or queries, keys and values above each other."""
    if len(spec.parts) == 1:
        return [Target(spec.index, spec.rows, spec.cols, 0)]
    following = plan.ops[place:]
    # The first that stores keys and values out of this product's output says where they begin in it.
    stored = next(op for op in following if op.kind is OpKind.STORE_KV and op.ints[0] == out)
    _, _, k_offset, v_offset = stored.ints
    borders = (0, k_offset, v_offset, spec.rows)
    heads = {}
    # A layer that does not rotate has its rows in the order of those that do.
    for op in (*plan.ops, *following[: following.index(stored)]):
        if op.kind is OpKind.ROPE and op.ints[0] == out:
            _, _, offset, _, head_dim, rotary_dim, style = op.ints
            heads[offset] = Heads(RopeStyle(style), head_dim, rotary_dim)
    return [
        Target(spec.index, end - begin, spec.cols, begin, heads=heads.get(begin))
        for begin, end in itertools.pairwise(borders)
    ]


def _width_read(plan: Plan, place: int, buffer: int) -> int:
    """Features of a quantised buffer without its padding: what the next product reads of it."""
    reader = next(op for op in plan.ops[place:] if op.kind is OpKind.LINEAR and op.ints[0] == buffer)
    return plan.matrices[reader.ints[1]].cols
