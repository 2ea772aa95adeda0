"""BERT, RoBERTa and XLM-RoBERTa: encoders for sentence embeddings, with a classifier for cross-encoders (rerankers).

    h = norm(words[token] + positions[position] + segments[segment])
    per layer:  h = norm(h + attention(h Wq, h Wk, h Wv) Wo)          biases everywhere
                h = norm(h + act(h Wup) Wdown)
    embedding models give h; classifiers tanh(h[first] Wpool) Wlabels

(Devlin et al., arXiv 1810.04805; Liu et al., arXiv 1907.11692; Conneau et al., arXiv 1911.02116.) Every token sees
every other one, so sequences are computed whole. A layer's keys and values are used up within the layer: all layers
take turns in the pages of one (`Plan.is_whole`). A few features of some tokens are tens of times larger than the rest,
so that what enters products is rotated (`Recorder.rotate`).
Knows names and metadata of both file formats; knows no bytes, no kernels, no requests, nor how hidden states become one
vector (`pooling`). What a file asks for and this file does not do is refused by field and value.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import (
    GROUP,
    Activation,
    AttentionMode,
    Buffer,
    BufferKind,
    CacheShape,
    Plan,
    Recorder,
    Rows,
)
from headrace.models.checkpoint import Checkpoint
from headrace.models.fields import Fields

MAX_LAYERS = 1024
"""More is a corrupt file; it keeps a bad number from allocating."""

MAX_LABELS = 1024
"""Likewise."""

ROLES: Mapping[str, Mapping[str, str]] = {
    # role: tensor name without `.weight` and `.bias`; `{}` is the layer
    "gguf": {
        "words": "token_embd",
        "positions": "position_embd",
        "segments": "token_types",
        "embedding_norm": "token_embd_norm",
        "q": "blk.{}.attn_q",
        "k": "blk.{}.attn_k",
        "v": "blk.{}.attn_v",
        "o": "blk.{}.attn_output",
        "attention_norm": "blk.{}.attn_output_norm",
        "up": "blk.{}.ffn_up",
        "down": "blk.{}.ffn_down",
        "feed_forward_norm": "blk.{}.layer_output_norm",
        "pooler": "cls",
        "labels": "cls.output",
    },
    "safetensors": {
        "words": "embeddings.word_embeddings",
        "positions": "embeddings.position_embeddings",
        "segments": "embeddings.token_type_embeddings",
        "embedding_norm": "embeddings.LayerNorm",
        "q": "encoder.layer.{}.attention.self.query",
        "k": "encoder.layer.{}.attention.self.key",
        "v": "encoder.layer.{}.attention.self.value",
        "o": "encoder.layer.{}.attention.output.dense",
        "attention_norm": "encoder.layer.{}.attention.output.LayerNorm",
        "up": "encoder.layer.{}.intermediate.dense",
        "down": "encoder.layer.{}.output.dense",
        "feed_forward_norm": "encoder.layer.{}.output.LayerNorm",
        "pooler": "pooler.dense",
        "labels": "classifier",
    },
}

HEAD_ROLES = {"pooler": "classifier.dense", "labels": "classifier.out_proj"}
"""What RoBERTa's classifier is made of, in place of a pooler of the encoder's own."""

FOREIGN: Mapping[str, tuple[str, ...]] = {
    # tensors of layers that change the result and that this encoder does not read
    "gguf": (
        "blk.{}.attn_q_norm.weight",
        "blk.{}.attn_k_norm.weight",
        "blk.{}.ffn_gate.weight",
        "blk.{}.ffn_gate_inp.weight",
        "blk.{}.attn_norm.weight",
        "blk.{}.attn_norm_2.weight",
    ),
    "safetensors": (
        "encoder.layer.{}.attention.self.distance_embedding.weight",
        "encoder.layer.{}.crossattention.self.query.weight",
    ),
}

ACTIVATIONS = {
    "gelu": Activation.GELU,
    "gelu_new": Activation.GELU_TANH,
    "gelu_pytorch_tanh": Activation.GELU_TANH,
    "relu": Activation.RELU,
    "silu": Activation.SILU,
    "swish": Activation.SILU,
    "tanh": Activation.TANH,
}

_CLASSIFIER = "ForSequenceClassification"
CLASSES: Mapping[str, tuple[str, ...]] = {
    "bert": ("BertModel", "BertForSequenceClassification", "BertForMaskedLM", "BertForPreTraining"),
    "roberta": ("RobertaModel", "RobertaForSequenceClassification", "RobertaForMaskedLM"),
    "xlm-roberta": ("XLMRobertaModel", "XLMRobertaForSequenceClassification", "XLMRobertaForMaskedLM"),
}
"""What `architectures` may name, by model_type; of all but the first two only the encoder is used."""

_ROBERTAS = ("roberta", "xlm-roberta")

_RANK = 4  # GGUF's pooling type of classifiers


@dataclass(frozen=True, slots=True)
class Names:
    """Tensor names of one file: checkpoints differ in a prefix, and the oldest in the names of norms."""

    roles: Mapping[str, str]
    prefix: str = ""
    norm_kinds: tuple[str, str] = ("weight", "bias")

    def pair(self, role: str, layer: int = 0) -> tuple[str, str]:
        """Weight and bias."""
        prefix = "" if self.roles[role].startswith("classifier") else self.prefix
        kinds = self.norm_kinds if role.endswith("norm") else ("weight", "bias")
        name = self.roles[role].format(layer)
        return f"{prefix}{name}.{kinds[0]}", f"{prefix}{name}.{kinds[1]}"

    def table(self, role: str) -> str:
        """A tensor that has no bias."""
        return self.pair(role)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What the forward pass depends on. `labels`: names of the classifier's outputs; empty for embedding models.

    `position_offset`: rows of the table of positions before the one of the first token.
    """

    names: Names
    num_layers: int
    hidden: int
    num_heads: int
    feed_forward: int
    vocab_size: int
    num_segments: int
    trained_positions: int
    max_positions: int
    position_offset: int = 0
    norm_eps: float
    activation: Activation
    labels: tuple[str, ...] = ()

    @property
    def head_dim(self) -> int:
        """Features of a head."""
        return self.hidden // self.num_heads


# --- the forward pass -------------------------------------------------------------------------------------------------


def record(config: Config) -> Plan:
    """Describe the forward pass once. Selected rows: those whose hidden states (or labels) are wanted."""
    plan = Recorder(
        cache=CacheShape(1, config.num_heads, config.head_dim),  # one layer's pages, used by all in turn
        vocab_size=config.vocab_size,
        max_positions=config.max_positions,
    )
    hidden = plan.buffer("hidden", config.hidden)
    plan.embed(plan.matrix(config.names.table("words"), config.vocab_size, config.hidden), hidden)
    rows = config.trained_positions + config.position_offset
    positions = plan.vector(config.names.table("positions"), rows, config.hidden)
    plan.position(positions, hidden, config.position_offset)
    plan.segment(plan.vector(config.names.table("segments"), config.num_segments, config.hidden), hidden)
    _normalise(plan, config, "embedding_norm", 0, hidden)
    for layer in range(config.num_layers):
        _attention(plan, config, layer, hidden)
        if layer == config.num_layers - 1:  # from here on only the selected rows are read
            hidden = plan.select(hidden, plan.buffer("last hidden", config.hidden, rows=Rows.SELECTED))
        _normalise(plan, config, "attention_norm", layer, hidden)
        _feed_forward(plan, config, layer, hidden)
        _normalise(plan, config, "feed_forward_norm", layer, hidden)
    return plan.finish(_labels(plan, config, hidden) if config.labels else hidden, is_whole=True)


def _normalise(plan: Recorder, config: Config, role: str, layer: int, hidden: Buffer) -> None:
    weight, bias = (plan.vector(name, config.hidden) for name in config.names.pair(role, layer))
    plan.layer_norm(hidden, weight, bias, hidden, config.norm_eps)


def _quantised(plan: Recorder, hidden: Buffer) -> Buffer:
    name = "codes" if hidden.rows is Rows.TOKENS else "last codes"
    return _coded(plan, hidden, plan.buffer(name, hidden.width, BufferKind.Q8, hidden.rows))


def _coded(plan: Recorder, x: Buffer, codes: Buffer) -> Buffer:
    return plan.rotate(x, codes) if _rotates(x.width) else plan.quantize(x, codes)


def _rotates(width: int) -> bool:
    return width % GROUP == 0


def _attention(plan: Recorder, config: Config, layer: int, hidden: Buffer) -> None:
    weights, biases = zip(*(config.names.pair(role, layer) for role in "qkv"), strict=True)
    width = 3 * config.hidden
    matrix = plan.matrix(f"layer {layer} qkv", width, config.hidden, *weights, rotates=_rotates(config.hidden))
    bias = plan.vector(f"layer {layer} qkv bias", width, parts=biases)
    qkv = plan.linear(_quantised(plan, hidden), matrix, plan.buffer("qkv", width), bias)
    plan.store_kv(qkv, 0, config.hidden, 2 * config.hidden)

    mixed = plan.buffer("mixed", config.hidden, BufferKind.Q8)
    # Kernels quantise in place of writing float32 only where a head is made of whole groups.
    direct = mixed if config.head_dim % GROUP == 0 else plan.buffer("mixed f32", config.hidden)
    plan.attention(qkv, direct, 0, config.num_heads, config.head_dim**-0.5, mode=AttentionMode.BIDIRECTIONAL)
    if direct is not mixed:
        plan.quantize(direct, mixed)
    _product(plan, config.names.pair("o", layer), (mixed, config.hidden), hidden, accumulate=True, rotates=False)


def _feed_forward(plan: Recorder, config: Config, layer: int, hidden: Buffer) -> None:
    last = "last " if hidden.rows is Rows.SELECTED else ""
    x, up = (_quantised(plan, hidden), config.hidden), config.names.pair("up", layer)
    codes = plan.buffer(f"{last}inner codes", config.feed_forward, BufferKind.Q8, hidden.rows)
    if _rotates(config.feed_forward):
        matrix = plan.matrix(up[0], config.feed_forward, config.hidden, rotates=_rotates(config.hidden))
        bias = plan.vector(up[1], config.feed_forward)
        plan.activated(x[0], matrix, codes, bias, config.activation, rotates=True)
    else:
        inner = _product(plan, up, x, plan.buffer(f"{last}inner", config.feed_forward, rows=hidden.rows))
        plan.quantize(plan.pointwise(inner, inner, config.activation), codes)
    _product(plan, config.names.pair("down", layer), (codes, config.feed_forward), hidden, accumulate=True)


def _labels(plan: Recorder, config: Config, hidden: Buffer) -> Buffer:
    pooled = plan.buffer("pooled", config.hidden, rows=Rows.SELECTED)
    _product(plan, config.names.pair("pooler"), (_quantised(plan, hidden), config.hidden), pooled)
    codes = plan.buffer("pooled codes", config.hidden, BufferKind.Q8, Rows.SELECTED)
    _coded(plan, plan.pointwise(pooled, pooled, Activation.TANH), codes)
    labels = plan.buffer("labels", len(config.labels), rows=Rows.SELECTED)
    return _product(plan, config.names.pair("labels"), (codes, config.hidden), labels)


def _product(
    plan: Recorder,
    names: tuple[str, str],
    x: tuple[Buffer, int],
    out: Buffer,
    *,
    accumulate: bool = False,
    rotates: bool = True,
) -> Buffer:
    codes, cols = x  # the buffer is padded to whole groups
    matrix = plan.matrix(names[0], out.width, cols, rotates=rotates and _rotates(cols))
    return plan.linear(codes, matrix, out, plan.vector(names[1], out.width), accumulate=accumulate)


def computed_vectors(config: Config) -> dict[str, NDArray[np.float32]]:
    """The values of the plan's vectors that no tensor of the file holds: none."""
    return {}


def labels(config: Config) -> tuple[str, ...]:
    """Names of the output's features, if the model classifies."""
    return config.labels


# --- reading ----------------------------------------------------------------------------------------------------------


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a BERT file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this encoder does not do.
    """
    config = (_read_gguf if checkpoint.format == "gguf" else _read_folder)(checkpoint, max_context)
    for name, shape in tensor_shapes(config).items():
        if checkpoint.shape(name) != shape:
            raise ModelFileError(f"{name}: shape {checkpoint.shape(name)}, but the metadata asks for {shape}.")
    for pattern in FOREIGN[checkpoint.format]:
        for layer in range(config.num_layers):
            if (name := config.names.prefix + pattern.format(layer)) in checkpoint:
                raise ModelFileError(
                    f"{name}: the file holds a tensor that this architecture does not read; "
                    "the answers would be wrong without it."
                )
    return config


def _read_gguf(checkpoint: Checkpoint, max_context: int | None) -> Config:
    names = Names(ROLES["gguf"])
    fields = Fields(checkpoint.metadata, f"{checkpoint.metadata['general.architecture']}.")
    fields.refuse("attention.causal", False)
    fields.refuse("expert_count", 0)
    hidden, num_heads = fields.integer("embedding_length"), fields.integer("attention.head_count")
    fields.refuse("attention.head_count_kv", num_heads)
    _check_heads(fields, "attention.head_count", hidden, num_heads)
    trained = fields.integer("context_length")
    labels: tuple[str, ...] = ()
    if fields.get("pooling_type") == _RANK:
        stated = fields.get("classifier.output_labels")
        labels = _labels_of(fields, "classifier.output_labels", stated, checkpoint.shape(names.table("labels")))
    return Config(
        names=names,
        num_layers=fields.integer("block_count", high=MAX_LAYERS),
        hidden=hidden,
        num_heads=num_heads,
        feed_forward=fields.integer("feed_forward_length"),
        vocab_size=checkpoint.shape(names.table("words"))[0],
        num_segments=checkpoint.shape(names.table("segments"))[0],
        trained_positions=trained,
        max_positions=trained if max_context is None else min(trained, max_context),
        norm_eps=fields.number("attention.layer_norm_epsilon"),
        activation=Activation.GELU,
        labels=labels,
    )


def _read_folder(checkpoint: Checkpoint, max_context: int | None) -> Config:
    names = _names_of(checkpoint)
    fields = Fields(checkpoint.metadata)
    fields.refuse("quantization_config")
    fields.refuse("position_embedding_type", "absolute")
    fields.refuse("is_decoder", False)
    fields.refuse("add_cross_attention", False)
    fields.refuse("pruned_heads", {})
    activation = fields.get("hidden_act") or "gelu"
    if activation not in ACTIVATIONS:
        raise fields.fault("hidden_act", f"unknown activation; known are {', '.join(ACTIVATIONS)}.")
    hidden, num_heads = fields.integer("hidden_size"), fields.integer("num_attention_heads")
    _check_heads(fields, "num_attention_heads", hidden, num_heads)
    # RoBERTa counts positions from behind the one that padding has.
    is_roberta = fields.get("model_type") in _ROBERTAS
    offset = fields.integer("pad_token_id", 1, low=0) + 1 if is_roberta else 0
    trained = fields.integer("max_position_embeddings", low=offset + 1) - offset
    labels: tuple[str, ...] = ()
    stated_class = checkpoint.metadata.get("architectures") or [""]
    if str(stated_class[0]).endswith(_CLASSIFIER):
        stated = _label_names(fields)
        labels = _labels_of(fields, "id2label", stated, checkpoint.shape(names.table("labels")))
    return Config(
        names=names,
        num_layers=fields.integer("num_hidden_layers", high=MAX_LAYERS),
        hidden=hidden,
        num_heads=num_heads,
        feed_forward=fields.integer("intermediate_size"),
        vocab_size=checkpoint.shape(names.table("words"))[0],
        num_segments=fields.integer("type_vocab_size", 2),
        trained_positions=trained,
        max_positions=trained if max_context is None else min(trained, max_context),
        norm_eps=fields.number("layer_norm_eps", 1e-12),
        activation=ACTIVATIONS[activation],
        position_offset=offset,
        labels=labels,
    )


def _names_of(checkpoint: Checkpoint) -> Names:
    roles = ROLES["safetensors"]
    is_roberta = checkpoint.metadata.get("model_type") in _ROBERTAS
    own = "roberta." if is_roberta else "bert."
    prefix = own if f"{own}{roles['words']}.weight" in checkpoint else ""
    if is_roberta:
        return Names({**roles, **HEAD_ROLES}, prefix)
    is_old = f"{prefix}{roles['embedding_norm']}.gamma" in checkpoint
    return Names(roles, prefix, ("gamma", "beta") if is_old else ("weight", "bias"))


def _check_heads(fields: Fields, key: str, hidden: int, num_heads: int) -> None:
    if hidden % num_heads:
        raise fields.fault(key, f"{hidden} features cannot be divided among so many heads.")


def _label_names(fields: Fields) -> list[object] | None:
    """The values of `id2label`, in the order of its numbers, if it is there."""
    names = fields.get("id2label")
    if names is None:
        return None
    if not isinstance(names, dict) or {*map(str, names)} != {*map(str, range(len(names)))}:
        raise fields.fault("id2label", "names of labels 0, 1, ... are needed here.")
    return [value for _, value in sorted(names.items(), key=lambda item: int(item[0]))]


def _labels_of(fields: Fields, key: str, stated: object, shape: tuple[int, ...]) -> tuple[str, ...]:
    """A name for each of the classifier's rows."""
    if not 1 <= shape[0] <= MAX_LABELS:
        raise ModelFileError(f"the classifier has {shape[0]} labels; 1 to {MAX_LABELS} are possible.")
    if stated is None:
        return tuple(f"LABEL_{i}" for i in range(shape[0]))
    if not isinstance(stated, list) or len(stated) != shape[0]:
        raise fields.fault(key, f"the classifier has {shape[0]} labels.")
    return tuple(map(str, stated))


def tensor_shapes(config: Config) -> dict[str, tuple[int, ...]]:
    """Shape of every tensor that the plan reads, by its name in the file."""
    hidden, inner, names = config.hidden, config.feed_forward, config.names
    shapes: dict[str, tuple[int, ...]] = {
        names.table("words"): (config.vocab_size, hidden),
        names.table("positions"): (config.trained_positions + config.position_offset, hidden),
        names.table("segments"): (config.num_segments, hidden),
    }

    def add(role: str, *shape: int, layer: int = 0) -> None:
        weight, bias = names.pair(role, layer)
        shapes[weight], shapes[bias] = shape, shape[:1]

    add("embedding_norm", hidden)
    for layer in range(config.num_layers):
        for role in ("q", "k", "v", "o"):
            add(role, hidden, hidden, layer=layer)
        add("up", inner, hidden, layer=layer)
        add("down", hidden, inner, layer=layer)
        for role in ("attention_norm", "feed_forward_norm"):
            add(role, hidden, layer=layer)
    if config.labels:
        add("pooler", hidden, hidden)
        add("labels", len(config.labels), hidden)
    return shapes
