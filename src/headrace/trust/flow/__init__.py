"""Who wrote what a model reads, and what follows for what it may do with tools. Judges; does no I/O."""
