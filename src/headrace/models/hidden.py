"""From the plan of a model that gives logits to one that gives hidden states, over the same weights.

Knows plans only; what becomes of hidden states is for others (`pooling`).
"""

from dataclasses import replace

from headrace.kernels.plan import SIGNATURES, Buffer, BufferKind, Op, OpKind, Plan, Rows

_NORMS = (OpKind.RMS_NORM, OpKind.LAYER_NORM)


def has_head(plan: Plan) -> bool:
    """Whether the output is what a head gives (logits, or a classifier's labels) and not hidden states."""
    return plan.ops[-1].kind in (OpKind.LINEAR, OpKind.SOFTCAP)


def without_head(plan: Plan) -> Plan:
    """The same forward pass up to its last norm, which is the output in float32: [R, hidden].

    Weights and buffers keep their places, so that `LoadedModel.bind` takes the plan; the head's are never read.

    Raises:
        ValueError: the plan does not end with a norm and a product.
    """
    head = next((i for i in reversed(range(len(plan.ops))) if plan.ops[i].kind is OpKind.LINEAR), None)
    codes = None if head is None else plan.ops[head].operands()["x"]
    norm = next(
        (
            i
            for i in reversed(range(head or 0))
            if plan.ops[i].kind in _NORMS and plan.ops[i].operands()["out"] == codes
        ),
        None,
    )
    if norm is None:
        raise ValueError("plan: does not end with a norm and the product of a head")
    last = plan.ops[norm]
    width = plan.buffers[int(last.operands()["x"])].width
    output = Buffer(len(plan.buffers), "hidden states", BufferKind.F32, width, Rows.SELECTED)
    return replace(
        plan,
        buffers=(*plan.buffers, output),
        ops=(*plan.ops[:norm], _into(last, output)),
        output=output.index,
    )


def _into(op: Op, out: Buffer) -> Op:
    at = SIGNATURES[op.kind][0].index("out")
    return replace(op, ints=(*op.ints[:at], out.index, *op.ints[at + 1 :]))
