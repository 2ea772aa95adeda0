"""Against theft of a model through its own API: what of probabilities is told to whom, and who asks like a thief."""
