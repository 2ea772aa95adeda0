"""What a BERT file may say: the plan that comes of it, and every field that is refused by name and value."""

import numpy as np
import pytest
from tests.oracle import tiny_encoders
from tests.unit.models.memory_checkpoint import MemoryCheckpoint

from headrace.core.errors import ModelFileError
from headrace.kernels.plan import Activation, AttentionMode, OpKind, Rows
from headrace.models import bert
from headrace.models.registry import BERT, architecture_for


def checkpoint(name="bert", **changes):
    """A folder of the tiny model of that name; `changes` are keys of config.json, ... removes one."""
    metadata = {key: value for key, value in (tiny_encoders.CONFIGS[name] | changes).items() if value is not ...}
    return MemoryCheckpoint(
        "safetensors", metadata, {tensor: values.shape for tensor, values in tiny_encoders.prefixed(name).items()}
    )


def gguf_checkpoint(**changes):
    """The same as a GGUF file; `changes` are keys behind `bert.`, dots written as two underscores."""
    metadata = {
        "general.architecture": "bert",
        "bert.context_length": 128,
        "bert.embedding_length": 64,
        "bert.block_count": 2,
        "bert.feed_forward_length": 100,
        "bert.attention.head_count": 2,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
    } | {f"bert.{key.replace('__', '.')}": value for key, value in changes.items()}
    shapes = {}
    for tensor, values in tiny_encoders.weights("bert").items():
        module, kind = tensor.rsplit(".", 1)
        if module in tiny_encoders.GGUF_ENDS:
            shapes[f"{tiny_encoders.GGUF_ENDS[module]}.{kind}"] = values.shape
        else:
            layer, role = module.removeprefix("encoder.layer.").split(".", 1)
            shapes[f"blk.{layer}.{tiny_encoders.GGUF_ROLES[role]}.{kind}"] = values.shape
    return MemoryCheckpoint("gguf", metadata, shapes)


def operands(plan, kind):
    return [op.operands() for op in plan.ops if op.kind is kind]


def test_an_encoder_is_computed_whole_on_the_pages_of_one_layer():
    plan = bert.record(bert.read_config(checkpoint()))
    assert plan.is_whole
    assert (plan.cache.num_layers, plan.cache.num_kv_heads, plan.cache.head_dim) == (1, 2, 32)
    assert [op["layer"] for op in operands(plan, OpKind.ATTENTION)] == [0, 0]
    assert {op["mode"] for op in operands(plan, OpKind.ATTENTION)} == {AttentionMode.BIDIRECTIONAL}
    output = plan.buffers[plan.output]
    assert (output.width, output.rows) == (64, Rows.SELECTED)


def test_what_is_as_wide_as_whole_groups_is_rotated_with_its_matrix():
    plan = bert.record(bert.read_config(checkpoint("bert-rotated")))
    assert {spec.name for spec in plan.matrices if not spec.rotates} == {
        "embeddings.word_embeddings.weight",
        *(f"encoder.layer.{i}.attention.output.dense.weight" for i in range(3)),
    }
    assert all(op["rotates"] for op in operands(plan, OpKind.ACTIVATED))
    odd = bert.record(bert.read_config(checkpoint("bert-odd")))
    assert not any(spec.rotates for spec in odd.matrices)
    assert not operands(odd, OpKind.ROTATE)


def test_a_classifier_reads_its_labels_and_gives_one_feature_each():
    config = bert.read_config(checkpoint("nli"))
    assert config.labels == ("contradiction", "entailment", "neutral")
    plan = bert.record(config)
    assert plan.buffers[plan.output].width == 3
    assert BERT.labels(config) == config.labels and BERT.labels(bert.read_config(checkpoint())) == ()
    assert bert.read_config(checkpoint("nli", id2label=...)).labels == ("LABEL_0", "LABEL_1", "LABEL_2")


@pytest.mark.parametrize("architecture", ["BertModel", "BertForMaskedLM", "BertForPreTraining", ...])
def test_files_that_were_trained_for_something_else_still_embed(architecture):
    file = checkpoint(architectures=[architecture] if architecture is not ... else ...)
    assert architecture_for(file) is BERT
    assert bert.read_config(file).labels == ()


def test_checkpoints_with_a_prefix_and_old_names_of_norms_are_read():
    file = checkpoint()
    file.shapes = {
        f"bert.{name}".replace("Norm.weight", "Norm.gamma").replace("Norm.bias", "Norm.beta"): shape
        for name, shape in file.shapes.items()
    }
    names = {part for vector in bert.record(bert.read_config(file)).vectors for part in vector.parts}
    assert "bert.embeddings.LayerNorm.gamma" in names and "bert.encoder.layer.1.output.LayerNorm.beta" in names
    assert names <= {*file.shapes}


def test_positions_are_limited_and_the_table_is_not():
    config = bert.read_config(checkpoint(), max_context=40)
    plan = bert.record(config)
    assert plan.max_positions == 40
    assert next(v.shape for v in plan.vectors if "position" in v.name) == (128, 64)


def test_a_gguf_file_is_read_under_its_own_names():
    config = bert.read_config(gguf_checkpoint())
    assert (config.hidden, config.num_segments, config.activation) == (64, 2, Activation.GELU)
    assert {part for matrix in bert.record(config).matrices for part in matrix.parts} <= {*gguf_checkpoint().shapes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"position_embedding_type": "relative_key"}, "position_embedding_type = 'relative_key'"),
        ({"is_decoder": True}, "is_decoder = True"),
        ({"add_cross_attention": True}, "add_cross_attention = True"),
        ({"pruned_heads": {"0": [1]}}, r"pruned_heads = \{'0': \[1\]\}"),
        ({"quantization_config": {"bits": 4}}, "quantization_config"),
        ({"hidden_act": "mish"}, "hidden_act = 'mish': unknown activation; known are gelu,"),
        ({"num_attention_heads": 3}, "num_attention_heads = 3: 64 features cannot be divided"),
        ({"hidden_size": ...}, "hidden_size is missing"),
        ({"num_hidden_layers": 5000}, r"num_hidden_layers = 5000: must be within"),
        ({"num_hidden_layers": 3}, "encoder.layer.2.attention"),
        ({"intermediate_size": 96}, r"intermediate.dense.weight: shape \(100, 64\), but the metadata asks"),
        ({"type_vocab_size": 3}, r"token_type_embeddings.weight: shape \(2, 64\)"),
        ({"max_position_embeddings": 64}, r"position_embeddings.weight: shape \(128, 64\)"),
        ({"layer_norm_eps": -1}, "layer_norm_eps = -1"),
    ],
)
def test_what_the_encoder_does_not_do_is_refused_by_field_and_value(changes, message):
    with pytest.raises(ModelFileError, match=message):
        bert.read_config(checkpoint(**changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id2label": {"0": "a"}}, r"id2label = \{'0': 'a'\}: the classifier has 3 labels"),
        ({"id2label": {"0": "a", "1": "b", "7": "c"}}, "names of labels 0, 1"),
        ({"id2label": ["a", "b", "c"]}, "names of labels 0, 1"),
    ],
)
def test_labels_that_do_not_fit_the_classifier_are_refused(changes, message):
    with pytest.raises(ModelFileError, match=message):
        bert.read_config(checkpoint("nli", **changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"attention__causal": True}, "bert.attention.causal = True"),
        ({"attention__head_count": 3}, "bert.attention.head_count = 3"),
        ({"expert_count": 8}, "bert.expert_count = 8"),
        ({"attention__layer_norm_epsilon": None}, "bert.attention.layer_norm_epsilon is missing"),
        ({"pooling_type": 4}, "'cls.output.weight' is missing"),
    ],
)
def test_what_a_gguf_file_asks_for_is_refused_by_key(changes, message):
    with pytest.raises(ModelFileError, match=message):
        bert.read_config(gguf_checkpoint(**changes))


@pytest.mark.parametrize("name", ["distance_embedding", "crossattention"])
def test_a_tensor_that_would_change_the_result_is_refused(name):
    file = checkpoint()
    pattern = next(each for each in bert.FOREIGN["safetensors"] if name in each)
    file.shapes[pattern.format(1)] = (3, 3)
    with pytest.raises(ModelFileError, match="does not read"):
        bert.read_config(file)


def test_another_class_of_bert_is_refused_by_name():
    with pytest.raises(ModelFileError, match="BertForQuestionAnswering"):
        architecture_for(checkpoint(architectures=["BertForQuestionAnswering"]))


def test_no_vector_is_left_to_be_computed():
    assert bert.computed_vectors(bert.read_config(checkpoint())) == {}
    assert all(vector.parts for vector in bert.record(bert.read_config(checkpoint())).vectors)
    assert np.isfinite(bert.read_config(checkpoint()).norm_eps)


def test_roberta_counts_positions_from_behind_the_one_of_its_padding():
    config = bert.read_config(checkpoint("xlm-roberta"))
    plan = bert.record(config)
    assert (plan.max_positions, config.position_offset) == (78, 2)
    assert operands(plan, OpKind.POSITION)[0]["offset"] == 2
    assert next(v.shape for v in plan.vectors if "position" in v.name) == (80, 64)
    with pytest.raises(ModelFileError, match="max_position_embeddings = 2"):
        bert.read_config(checkpoint("xlm-roberta", max_position_embeddings=2))


def test_robertas_classifier_is_its_own():
    plan = bert.record(bert.read_config(checkpoint("reranker")))
    names = {part for matrix in plan.matrices for part in matrix.parts}
    assert {"classifier.dense.weight", "classifier.out_proj.weight"} <= names
    assert plan.buffers[plan.output].width == 1
