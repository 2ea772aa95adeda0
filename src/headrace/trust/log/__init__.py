"""A transparency log as values: RFC 9162 trees, C2SP tiles, notes, checkpoints, cosignatures, proofs and policies."""
