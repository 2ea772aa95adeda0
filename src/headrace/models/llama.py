"""The Llama family: Llama 2 and 3, SmolLM, TinyLlama, Mistral; and the forward pass that its siblings share.

    h = embed(tokens)
    per layer:  h += attention(rope(norm(h) Wq), rope(norm(h) Wk), norm(h) Wv) Wo
                h += (silu(norm(h) Wgate) * norm(h) Wup) Wdown
    logits = norm(h) Whead

GGUF files keep rotated features side by side, safetensors half a head apart. Biases are where the file says so. Mistral
is the same with a window in every layer.
"""

from headrace.kernels.plan import Buffer, Plan, RopeStyle
from headrace.models.checkpoint import Checkpoint
from headrace.models.decoder import Config, Decoder, FeedForward
from headrace.models.family import ROLES, Family, checked, read, same_gguf_window, same_window

LLAMA = Family(roles=ROLES, gguf_style=RopeStyle.ADJACENT, qkv_bias=None, gguf_windows=same_gguf_window)
MISTRAL = Family(roles=ROLES, gguf_style=RopeStyle.ADJACENT, windows=same_window, gguf_windows=same_gguf_window)


def feed_forward(decoder: Decoder, layer: int, hidden: Buffer) -> None:
    """h += (silu(norm(h) Wgate) * norm(h) Wup) Wdown."""
    decoder.feed_forward(layer, decoder.norm(hidden, "ffn_norm", layer), onto=hidden)


def record(config: Config, feed_forward: FeedForward = feed_forward) -> Plan:
    """Describe the forward pass once."""
    decoder = Decoder(config)
    hidden = decoder.embed()
    for layer in range(config.num_layers):
        decoder.attend(layer, decoder.norm(hidden, "attention_norm", layer), onto=hidden)
        hidden = decoder.select(layer, hidden)
        feed_forward(decoder, layer, hidden)
    return decoder.head(hidden)


def read_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """Read and check what a Llama file says. Positions are limited to `max_context` where that is less than trained.

    Raises:
        ModelFileError: a field or tensor is missing, absurd, or asks for what this decoder does not do.
    """
    return checked(checkpoint, read(checkpoint, max_context, LLAMA))


def read_mistral_config(checkpoint: Checkpoint, max_context: int | None = None) -> Config:
    """As `read_config`, for files whose every layer may have a sliding window."""
    return checked(checkpoint, read(checkpoint, max_context, MISTRAL))
