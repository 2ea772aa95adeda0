"""Drafts: what may come next, guessed from what stood there before, so that one step can check several tokens."""
