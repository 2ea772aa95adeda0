"""OLMo 2: the Llama decoder with its norms behind the branches ("2 OLMo 2 Furious", arXiv 2501.00656).

    h = embed(tokens)
    per layer:  h += norm(attention(rope(norm(h Wq)), rope(norm(h Wk)), h Wv) Wo)
                h += norm((silu(h Wgate) * h Wup) Wdown)
    logits = norm(h) Whead

Branches read the stream as it is. Queries and keys are normed over all heads together, then rotated by halves.
"""

from headrace.kernels.plan import Plan
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config, Decoder, HeadNorm
from headrace.models.family import NORMED_BRANCHES, ROLES, Family, checked, read

NAMES = {
    form: {
        **{role: name for role, name in roles.items() if role not in ("attention_norm", "ffn_norm")},
        **NORMED_BRANCHES[form],
    }
    for form, roles in ROLES.items()
}

FAMILY = Family(roles=NAMES, qkv_bias=None, head_norm=HeadNorm.WIDTH)


def record(config: Config) -> Plan:
    """Describe the forward pass once."""
    decoder = Decoder(config)
    hidden = decoder.embed()
    for layer in range(config.num_layers):
        mixed = decoder.attend(layer, decoder.quantize(hidden))
        decoder.add_normed(mixed, "post_attention_norm", layer, onto=hidden)
        hidden = decoder.select(layer, hidden)
        inner = decoder.feed_forward(layer, decoder.quantize(hidden))
        decoder.add_normed(inner, "post_ffn_norm", layer, onto=hidden)
    return decoder.head(hidden)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what an OLMo 2 file says; see `llama.read_config`."""
    return checked(checkpoint, read(checkpoint, max_context, FAMILY))
