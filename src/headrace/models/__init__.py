"""Architectures (one file each), weights, tokenizers and templates: from a file on disk to a runnable program."""
