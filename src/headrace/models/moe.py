"""Mixtures of experts: what stands in the place of a decoder's feed-forward layer ("Mixtral of Experts", 2401.04088).

    x = norm(h);  p = softmax(x Wrouter)
    h += sum over the k most probable experts e of  p_e * (act(x Wgate_e) * x Wup_e) Wdown_e
    h += sigmoid(x Wshared) * (act(x Wgate) * x Wup) Wdown        where there is a shared expert (Qwen2-MoE)

Some families divide the chosen p_e by their sum. The router works in float32 on activations that are not quantised: an
expert chosen wrongly costs more than its few bytes. Layers may be dense instead. Knows the experts' tensors and sizes
in both file formats; which family has which option is for the family's own file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import partial

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import TILE_ROWS, Buffer, BufferKind, MatrixSpec, Plan, padded
from headrace.models import decoder, llama
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Decoder, layer_shapes
from headrace.models.family import checked, fields_of
from headrace.models.fields import Fields

MAX_EXPERTS = 4096
"""What kernels take; more is a corrupt file."""

ROUTED: Mapping[str, Mapping[str, str]] = {
    # role: tensor name; `{}` is the layer, and what that leaves is the expert where each has tensors of its own
    "gguf": {
        "router": "blk.{}.ffn_gate_inp.weight",
        "expert_gate": "blk.{}.ffn_gate_exps.weight",
        "expert_up": "blk.{}.ffn_up_exps.weight",
        "expert_down": "blk.{}.ffn_down_exps.weight",
    },
    "safetensors": {
        "router": "model.layers.{}.mlp.gate.weight",
        "expert_gate": "model.layers.{}.mlp.experts.{{}}.gate_proj.weight",
        "expert_up": "model.layers.{}.mlp.experts.{{}}.up_proj.weight",
        "expert_down": "model.layers.{}.mlp.experts.{{}}.down_proj.weight",
    },
}

SHARED: Mapping[str, Mapping[str, str]] = {
    "gguf": {
        "shared_router": "blk.{}.ffn_gate_inp_shexp.weight",
        "shared_gate": "blk.{}.ffn_gate_shexp.weight",
        "shared_up": "blk.{}.ffn_up_shexp.weight",
        "shared_down": "blk.{}.ffn_down_shexp.weight",
    },
    "safetensors": {
        "shared_router": "model.layers.{}.mlp.shared_expert_gate.weight",
        "shared_gate": "model.layers.{}.mlp.shared_expert.gate_proj.weight",
        "shared_up": "model.layers.{}.mlp.shared_expert.up_proj.weight",
        "shared_down": "model.layers.{}.mlp.shared_expert.down_proj.weight",
    },
}

_FUSED = {"expert_gate_up": "blk.{}.ffn_gate_up_exps.weight"}
"""What newer GGUF files may hold in the place of `expert_gate` and `expert_up`: gates, then ups of every expert."""

_SPLIT = {
    "expert_gate": "blk.{}.ffn_gate.{{}}.weight",
    "expert_up": "blk.{}.ffn_up.{{}}.weight",
    "expert_down": "blk.{}.ffn_down.{{}}.weight",
}
"""What the first GGUF files of Mixtral hold: a tensor for each expert."""

READS = frozenset({"expert_count", "num_experts", "num_local_experts"})
"""Fields of `family.HARMLESS` that families of experts read."""

_HARMLESS: Mapping[str, Mapping[str, tuple[object, ...]]] = {
    # what other mixtures of experts have and these do not, by field, and the values that say nothing
    "gguf": {
        "expert_weights_scale": (0.0, 1.0),
        "expert_gating_func": (0, 1),  # 1: softmax
        "expert_group_count": (0, 1),
        "expert_group_used_count": (0, 1),
        "leading_dense_block_count": (0,),
    },
    "safetensors": {
        "n_group": (1,),
        "topk_group": (1,),
        "routed_scaling_factor": (1.0,),
        "scoring_func": ("softmax",),
    },
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Config(decoder.Config):
    """A decoder's, and its experts': how many there are and are used, and how wide each is inside.

    `is_sparse`: per layer, whether experts stand in the place of the dense layer. `shared_width`: 0 where there is no
    shared expert. `renormalises`: whether the chosen experts' probabilities are divided by their sum.
    """

    num_experts: int
    num_used: int
    expert_width: int
    renormalises: bool
    is_sparse: tuple[bool, ...]
    shared_width: int = 0


# --- the forward pass -------------------------------------------------------------------------------------------------


def record(config: Config) -> Plan:
    """Describe the forward pass once: Llama's, with experts behind attention."""
    return llama.record(config, partial(feed_forward, config))


def feed_forward(config: Config, decoder: Decoder, layer: int, hidden: Buffer) -> None:
    """h += what the experts of every row make of norm(h)."""
    if not config.is_sparse[layer]:
        llama.feed_forward(decoder, layer, hidden)
        return
    plan = decoder.plan
    x = decoder.norm(hidden, "ffn_norm", layer, BufferKind.F32)
    weight = plan.vector(config.name("router", layer), config.num_experts, config.hidden)
    routes = decoder.like(hidden, "routes", 2 * config.num_used)
    plan.route(x, weight, routes, renormalise=config.renormalises)
    codes = decoder.quantize(x)
    plan.experts(codes, routes, _matrices(config, decoder, layer), hidden, config.activation, accumulate=True)
    if config.shared_width:
        gate = plan.vector(config.name("shared_router", layer), config.hidden)
        plan.add_gated(x, gate, _shared(config, decoder, layer, codes), hidden)


def _matrices(config: Config, decoder: Decoder, layer: int) -> tuple[MatrixSpec, MatrixSpec]:
    """Gates and ups of all experts, and their downs."""
    both_rows = config.num_experts * 2 * padded(config.expert_width)
    down_rows = config.num_experts * padded(config.hidden, TILE_ROWS)
    both = decoder.plan.matrix(
        f"layer {layer} experts gate up",
        both_rows,
        config.hidden,
        *_parts(config, layer, *_gate_up_roles(config)),
        layout="halves" if "expert_gate_up" in config.names else "interleave",
        num_experts=config.num_experts,
    )
    down = decoder.plan.matrix(
        f"layer {layer} experts down",
        down_rows,
        config.expert_width,
        *_parts(config, layer, "expert_down"),
        num_experts=config.num_experts,
    )
    return both, down


def _parts(config: Config, layer: int, *roles: str) -> list[str]:
    """Tensors of these roles: one each for all experts, or the first expert's, the second's, ..."""
    names = [config.name(role, layer) for role in roles]
    if not _has_own_tensors(config):
        return names
    return [name.format(expert) for expert in range(config.num_experts) for name in names]


def _gate_up_roles(config: Config) -> tuple[str, ...]:
    return ("expert_gate_up",) if "expert_gate_up" in config.names else ("expert_gate", "expert_up")


def _has_own_tensors(config: Config) -> bool:
    return "{}" in config.name("expert_down")


def _shared(config: Config, decoder: Decoder, layer: int, codes: Buffer) -> Buffer:
    """(act(x Wgate) * x Wup) Wdown of the expert that all rows have."""
    plan = decoder.plan
    parts = [config.name(role, layer) for role in ("shared_gate", "shared_up")]
    rows = 2 * padded(config.shared_width)
    both = plan.matrix(f"layer {layer} shared gate up", rows, config.hidden, *parts, layout="interleave")
    inner = decoder.like(codes, "shared inner", config.shared_width, BufferKind.Q8)
    plan.gated(codes, both, inner, config.activation)
    down = plan.matrix(config.name("shared_down", layer), config.hidden, config.shared_width)
    return decoder.product(inner, down, None)


# --- reading ----------------------------------------------------------------------------------------------------------


def with_experts(
    config: decoder.Config,
    checkpoint: Checkpoint,
    *,
    expert_width: int,
    renormalises: bool,
    is_sparse: tuple[bool, ...] | None = None,
    shared_width: int = 0,
) -> Config:
    """The config with what all files say of their experts, checked against the file's tensors.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what no family here does.
    """
    metadata, is_gguf = fields_of(checkpoint), checkpoint.format == "gguf"
    for key, values in _HARMLESS[checkpoint.format].items():
        metadata.refuse(key, *values)
    count_key, used_key = (
        ("expert_count", "expert_used_count") if is_gguf else (_count_key(metadata), "num_experts_per_tok")
    )
    num_experts = metadata.integer(count_key, high=MAX_EXPERTS)
    num_used = metadata.integer(used_key)
    if num_used > num_experts:
        raise metadata.fault(used_key, f"more than the {num_experts} experts that there are.")
    config = replace(config, names=_names(checkpoint, config.names))
    own = Config(
        **{each.name: getattr(config, each.name) for each in fields(decoder.Config)},
        num_experts=num_experts,
        num_used=num_used,
        expert_width=expert_width,
        renormalises=renormalises,
        is_sparse=is_sparse or (True,) * config.num_layers,
        shared_width=shared_width,
    )
    checked(checkpoint, own, partial(_layer_shapes, checkpoint))
    if _has_own_tensors(own):
        _check_experts(checkpoint, own)
    return own


def _names(checkpoint: Checkpoint, names: Mapping[str, str]) -> Mapping[str, str]:
    """The tensors of the file's own form: experts of a layer in one, in one with gates and ups, or each by itself."""
    if _FUSED["expert_gate_up"].format(0) in checkpoint:
        return {role: name for role, name in names.items() if role not in ("expert_gate", "expert_up")} | _FUSED
    is_split = _SPLIT["expert_down"].format(0).format(0) in checkpoint
    return {**names, **_SPLIT} if is_split else names


def _count_key(metadata: Fields) -> str:
    # transformers 5 writes the number under Mixtral's name for some of the others.
    return "num_experts" if metadata.get("num_experts") is not None else "num_local_experts"


def sparse_layers(metadata: Fields, num_layers: int) -> tuple[bool, ...]:
    """Which layers of a Qwen config.json have experts: every `decoder_sparse_step`th that is not `mlp_only_layers`."""
    step, dense = metadata.integer("decoder_sparse_step", 1), metadata.get("mlp_only_layers") or []
    if not isinstance(dense, list) or not all(type(layer) is int and 0 <= layer < num_layers for layer in dense):
        raise metadata.fault("mlp_only_layers", f"a list of layers within [0, {num_layers - 1}] is needed.")
    return tuple(layer not in dense and (layer + 1) % step == 0 for layer in range(num_layers))


def _layer_shapes(checkpoint: Checkpoint, config: Config, layer: int) -> dict[str, tuple[int, ...]]:
    """Shapes by role of what a layer reads, the tensors of single experts aside."""
    shapes = dict(layer_shapes(config, layer))
    if not config.is_sparse[layer]:
        return shapes
    for role in ("gate", "up", "down"):
        del shapes[role]
    shapes["router"] = (config.num_experts, config.hidden)
    if not _has_own_tensors(config):
        shapes |= {role: (config.num_experts, *shape) for role, shape in _expert_shapes(config).items()}
    if config.shared_width:
        name = config.name("shared_router", layer)
        # One row: some converters keep it as a matrix.
        is_matrix = name in checkpoint and len(checkpoint.shape(name)) == 2
        shapes["shared_router"] = (1, config.hidden) if is_matrix else (config.hidden,)
        shapes["shared_gate"] = shapes["shared_up"] = (config.shared_width, config.hidden)
        shapes["shared_down"] = (config.hidden, config.shared_width)
    return shapes


def _expert_shapes(config: Config) -> dict[str, tuple[int, int]]:
    roles = _gate_up_roles(config)
    up = (2 // len(roles) * config.expert_width, config.hidden)
    return {**dict.fromkeys(roles, up), "expert_down": (config.hidden, config.expert_width)}


def _check_experts(checkpoint: Checkpoint, config: Config) -> None:
    """Every expert's own tensors exist in their shapes, and no expert is there that nobody counted."""
    for layer, is_sparse in enumerate(config.is_sparse):
        for role, shape in _expert_shapes(config).items():
            pattern = config.name(role, layer)
            for expert in range(config.num_experts if is_sparse else 0):
                name = pattern.format(expert)
                if checkpoint.shape(name) != shape:
                    raise ModelFileError(f"{name}: shape {checkpoint.shape(name)}, but the metadata asks for {shape}.")
            extra = pattern.format(config.num_experts if is_sparse else 0)
            if extra in checkpoint:
                raise ModelFileError(
                    f"{extra}: the file holds an expert that its metadata does not count; "
                    "the answers would be wrong without it."
                )
